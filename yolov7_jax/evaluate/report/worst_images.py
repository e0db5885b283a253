"""The worst and the best images with what was found in them: in a page, and as one PNG."""

import pathlib
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from yolov7_jax.data.images import read_image
from yolov7_jax.detect.drawing import GAP, Colour, draw_boxes, grid, titled
from yolov7_jax.evaluate.matching import DetectionKind
from yolov7_jax.evaluate.report.image_ranking import (
    Ranking,
    first_readable,
    jpeg_url,
    rank_images,
    scaled,
)
from yolov7_jax.evaluate.report.matched_split import MatchedSplit

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
    path = split.dataset.paths[image]
    pixels = read_image(path)
    scale = TILE / max(pixels.shape[:2])
    canvas = np.array(scaled(pixels, scale))
    objects, rows = split.rows_of(image, split.curves.best_score)
    missed, rows = _missed(split, objects), rows[::-1]  # the best in front
    draw_boxes(
        canvas,
        np.concatenate([split.truth.boxes_xyxy[missed], split.detections.boxes_xyxy[rows]]) * scale,
        [KIND_COLOURS[MISSED]] * len(missed)
        + [KIND_COLOURS[_kind(split, row).label] for row in rows],
        [_class_of(split, row) for row in missed] + [_class_and_score(split, row) for row in rows],
    )
    name = pathlib.PurePath(path).name
    return titled(canvas, f"{name}  {ranking.caption(image)}", TILE)


def _figure(split: MatchedSplit, ranking: Ranking, image: int) -> dict[str, Any]:
    """Returns what images.html shows of an image, in its pixels."""
    path = split.dataset.paths[image]
    jpeg, width, height = jpeg_url(path, SIDE, MOST_BYTES)
    objects, rows = split.rows_of(image, split.curves.best_score)
    drawn = rows[:MOST_BOXES]
    caption = ranking.caption(image)
    if len(drawn) < len(rows):
        caption += f"; the best {len(drawn)} of {len(rows)} detections are drawn"
    return {
        "image": image,
        "name": pathlib.PurePath(path).name,
        "jpeg": jpeg,
        "width": width,
        "height": height,
        "caption": caption,
        "boxes": [
            *(_object(split, row) for row in objects),
            *(_detection(split, row) for row in drawn[::-1]),
        ],
        "captions": _captions(split, objects, drawn, width, height),
    }


def _box(box_xyxy: np.ndarray, kind: str, title: str) -> dict[str, Any]:
    x0, y0, x1, y1 = map(float, box_xyxy)
    width, height = max(x1 - x0, 0.5), max(y1 - y0, 0.5)
    return {"kind": kind, "x": x0, "y": y0, "width": width, "height": height, "title": title}


def _object(split: MatchedSplit, row: int) -> dict[str, Any]:
    kind, what = MISSED, MISSED
    if not split.truth.to_find[row]:
        kind, what = "crowd", "crowd region"
    elif split.found[row]:
        kind, what = "truth", "object"
    return _box(split.truth.boxes_xyxy[row], kind, f"{_class_of(split, row)}: {what}")


def _detection(split: MatchedSplit, row: int) -> dict[str, Any]:
    kind = _kind(split, row)
    overlap = f", IoU {split.matches.ious[row]:.2f}" if split.matches.objects[row] >= 0 else ""
    title = f"{_class_and_score(split, row)}: {kind.label}{overlap}"
    return _box(split.detections.boxes_xyxy[row], kind.name.lower(), title)


def _kind(split: MatchedSplit, row: int) -> DetectionKind:
    return DetectionKind(split.matches.kinds[row])


def _missed(split: MatchedSplit, objects: list[int]) -> list[int]:
    return [row for row in objects if split.truth.to_find[row] and not split.found[row]]


def _class_of(split: MatchedSplit, row: int) -> str:
    return split.dataset.names[split.truth.labels[row]]


def _class_and_score(split: MatchedSplit, row: int) -> str:
    name = split.dataset.names[split.detections.labels[row]]
    return f"{name} {split.detections.scores[row]:.2f}"


def _captions(
    split: MatchedSplit, objects: list[int], drawn: list[int], width: int, height: int
) -> list[dict[str, Any]]:
    """Returns the classes of missed objects, and classes and scores of detections."""
    missed = _missed(split, objects)
    wrong_first = sorted(drawn, key=lambda row: _kind(split, row) == DetectionKind.CORRECT)
    if len(missed) + len(drawn) > MOST_CAPTIONS:
        wrong = [row for row in drawn if _kind(split, row) != DetectionKind.CORRECT]
        missed, wrong_first = [], wrong[:MOST_CAPTIONS]
    size = CAPTION * width / COLUMN
    # Those of objects stand below, not to cover those of detections that are about them.
    entries = [
        (split.truth.boxes_xyxy[row], 3, 1.0, f"{_class_of(split, row)} missed") for row in missed
    ]
    entries += [
        (split.detections.boxes_xyxy[row], 1, -0.25, _class_and_score(split, row))
        for row in wrong_first
    ]
    return [
        {
            "text": text,
            "size": size,
            # Letters are two thirds as wide as high, at most.
            "x": min(float(box[0]), max(0.0, width - 0.67 * size * len(text))),
            "y": min(max(float(box[edge]) + below * size, size), height - 0.25 * size),
        }
        for box, edge, below, text in entries
    ]
