"""The data of a page's browser of images: which have which faults, and every box in them."""

import pathlib
from typing import Any

import numpy as np

from yolov7_jax.data.faults import plural
from yolov7_jax.evaluate.matching import DetectionKind
from yolov7_jax.evaluate.report.image_ranking import first_readable, jpeg_url, rank_images
from yolov7_jax.evaluate.report.matched_split import MatchedSplit

MOST_IMAGES = 200
SIDE = 640  # pixels of the longer side
MOST_BYTES = 80_000  # of a JPEG
LEAST_SCORE = 0.05  # detections with less are left out: there are hundreds in an image


def browser_values(split: MatchedSplit) -> dict[str, Any]:
    """Returns what browser.html shows.

    The page has the images with the most faults, at most 200, so it stays below 25 MB whatever
    is in them. Images that cannot be read are left out and named.
    """
    ranking = rank_images(split)
    faults = ranking.objects - ranking.found + ranking.wrong
    least_score = min(LEAST_SCORE, split.curves.best_score)
    images, unreadable = first_readable(
        np.argsort(-faults, kind="stable").tolist(),
        lambda image: _image_values(split, image, least_score),
        MOST_IMAGES,
    )
    total = len(split.dataset)
    which = f"{len(images)} of {total}"
    if len(images) == total:
        which = f"All {total} {plural('image', total)}"
    elif len(images) == MOST_IMAGES:
        which = f"The {MOST_IMAGES} images with the most faults, of {total}"
    return {
        "which_images": which,
        "unreadable": unreadable,
        "side": SIDE,
        "least_score": least_score,
        "browser": {
            "names": split.dataset.names,
            "kinds": [kind.name.lower() for kind in DetectionKind],
            "images": images,
        },
    }


def _image_values(split: MatchedSplit, image: int, least_score: float) -> dict[str, Any]:
    """Returns what the script needs to know of an image.

    Raises:
      UnreadableImageError: it cannot be read.
    """
    path = split.dataset.paths[image]
    jpeg, width, height = jpeg_url(path, SIDE, MOST_BYTES)
    truth, detections, matches = split.truth, split.detections, split.matches
    objects, rows = split.rows_of(image, least_score)
    place = {row: number for number, row in enumerate(objects)} | {-1: -1}
    scores = np.append(detections.scores.astype(np.float64), -1.0)  # -1: the last
    return {
        "name": pathlib.PurePath(path).name,
        "width": width,
        "height": height,
        "jpeg": jpeg,
        # Label, score of the detection that found it or -1, whether a crowd region, corners.
        "objects": [
            [
                int(truth.labels[row]),
                _rounded(float(scores[matches.finders[row]])),
                int(not truth.to_find[row]),
                *_corners(truth.boxes_xyxy[row]),
            ]
            for row in objects
        ],
        # Label, score, kind, which of the objects or -1, IoU with it, corners.
        "detections": [
            [
                int(detections.labels[row]),
                _rounded(float(scores[row])),
                int(matches.kinds[row]),
                place[int(matches.objects[row])],
                round(float(matches.ious[row]), 3),
                *_corners(detections.boxes_xyxy[row]),
            ]
            for row in rows
        ],
    }


def _rounded(score: float) -> float:
    # As exact as float32, so that scores pass the same thresholds in the script.
    return round(score, 8)


def _corners(box_xyxy: np.ndarray) -> list[float]:
    return [round(float(value), 1) for value in box_xyxy]
