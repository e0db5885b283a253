"""The worst and the best images with what was found in them: in a page, and as one PNG."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from yolov7_jax.data.images import read_image
from yolov7_jax.detect.drawing import GAP, Colour, draw_boxes, grid, titled
from yolov7_jax.evaluate.matching import DetectionKind
from yolov7_jax.evaluate.report.image_ranking import Ranking, first_readable, rank_images
from yolov7_jax.evaluate.report.matched_split import MatchedSplit
from yolov7_jax.evaluate.report.page_images import page_image, scaled

IMAGES = 6  # of the worst in a page, and of the best
MOST_UNREADABLE = 20  # images tried in vain before giving up
SIDE = 480  # pixels of the longer side
MOST_BYTES = 130_000  # of a JPEG
MOST_BOXES = 80  # detections drawn in an image
MOST_CAPTIONS = 14  # more than so many hide the image: then only wrong detections have one
COLUMN = 350  # pixels that an image is about wide on the page
CAPTION = 11.0  # pixels that a caption is high there

SHEET_IMAGES, SHEET_COLUMNS = 12, 4
TILE = 420  # pixels
MISSED = "missed"
KIND_COLOURS: Mapping[str, Colour] = {  # RGB, those of the page
    "correct": (56, 176, 0),
    "duplicate": (58, 134, 255),
    "wrong class": (192, 91, 255),
    "badly placed": (255, 183, 3),
    "false": (255, 45, 63),
    MISSED: (255, 20, 147),
}


def worst_and_best(split: MatchedSplit) -> dict[str, tuple[list[dict[str, Any]], list[str]]]:
    """Returns figures with the lowest and the highest F1, and images that could not be read.

    None is among both.
    """
    ranking = rank_images(split)

    def figures(images: list[int]) -> tuple[list[dict[str, Any]], list[str]]:
        return first_readable(
            images, lambda image: _figure(split, ranking, image), IMAGES, MOST_UNREADABLE
        )

    worst = figures(ranking.worst)
    used = {figure["image"] for figure in worst[0]}
    best = figures([image for image in ranking.best if image not in used])
    return {"Worst": worst, "Best": best}


def worst_sheet(split: MatchedSplit) -> UInt8[np.ndarray, "h w 3"] | None:
    """Returns the images with the lowest F1, with what is wrong in them; None if nothing is.

    Those that cannot be read are left out.
    """
    ranking = rank_images(split)
    tiles, _ = first_readable(
        ranking.worst, lambda image: _tile(split, ranking, image), SHEET_IMAGES
    )
    if not tiles:
        return None
    sheet = grid(tiles, min(len(tiles), SHEET_COLUMNS))
    legend = np.full((30 + GAP, sheet.shape[1], 3), 255, np.uint8)
    x = 4
    for kind, colour in KIND_COLOURS.items():
        cv2.rectangle(legend, (x, 9), (x + 16, 25), colour, 3)
        end, _ = cv2.putText(legend, kind, (x + 24, 23), (0, 0, 0), cv2.FontFace("sans"), 16)
        x = int(end[0]) + 24
    return np.vstack([legend, sheet])


def _tile(split: MatchedSplit, ranking: Ranking, image: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an image with missed objects and all detections, by kind."""
    path, names = split.dataset.paths[image], split.dataset.names
    pixels = read_image(path)
    scale = TILE / max(pixels.shape[:2])
    canvas = np.array(scaled(pixels, scale))
    objects, rows = split.rows_of(image, split.curves.best_score)
    missed = [row for row in objects if split.truth.to_find[row] and not split.found[row]]
    rows = rows[::-1]  # the best in front
    labels, scores, kinds = (
        field[rows].tolist()
        for field in (split.detections.labels, split.detections.scores, split.matches.kinds)
    )
    draw_boxes(
        canvas,
        np.concatenate([split.truth.boxes_xyxy[missed], split.detections.boxes_xyxy[rows]]) * scale,
        [KIND_COLOURS[MISSED]] * len(missed)
        + [KIND_COLOURS[DetectionKind(kind).label] for kind in kinds],
        [names[label] for label in split.truth.labels[missed]]
        + [f"{names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)],
    )
    return titled(canvas, f"{pathlib.PurePath(path).name}  {ranking.caption(image)}", TILE)


def _figure(split: MatchedSplit, ranking: Ranking, image: int) -> dict[str, Any]:
    """Returns what images.html shows of an image."""
    best_score = split.curves.best_score
    values = page_image(split, image, best_score, SIDE, MOST_BYTES)
    detections = values["detections"]
    caption = ranking.caption(image)
    if len(detections) > MOST_BOXES:
        caption += f"; the best {MOST_BOXES} of {len(detections)} detections are drawn"
        values["detections"] = detections[:MOST_BOXES]
    size = CAPTION * values["width"] / COLUMN
    captions = _captions(values, split.dataset.names, best_score, size)
    return values | {"image": image, "caption": caption, "captions": captions, "size": size}


def _captions(
    values: Mapping[str, Any], names: Sequence[str], best_score: float, size: float
) -> list[tuple[float, float, str]]:
    """Returns the classes of missed objects, and classes and scores of detections, with places."""
    # Those of objects stand below, not to cover those of detections that are about them.
    missed = [
        (box[0], box[3] + size, f"{names[label]} missed")
        for label, finder, crowd, *box in values["objects"]
        if not crowd and finder < best_score
    ]
    right, wrong = [], []
    for label, score, kind, _, _, *box in values["detections"]:
        entry = (box[0], box[1] - 0.25 * size, f"{names[label]} {score:.2f}")
        (right if kind == DetectionKind.CORRECT else wrong).append(entry)
    entries = [*missed, *wrong, *right]
    return entries if len(entries) <= MOST_CAPTIONS else wrong[:MOST_CAPTIONS]
