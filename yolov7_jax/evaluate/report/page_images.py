"""What pages hold of an image: its pixels, objects and detections."""

import base64
import pathlib
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from yolov7_jax.data.images import read_image, resize
from yolov7_jax.evaluate.report.matched_split import MatchedSplit

QUALITIES = (82, 65, 45, 25)  # of JPEG


def page_image(
    split: MatchedSplit, image: int, score_threshold: float, side: int, most_bytes: int
) -> dict[str, Any]:
    """Returns an image, its objects and detections, in its pixels.

    Args:
      split: what is in the images.
      image: its row in the data set.
      score_threshold: from which on there are detections, the best first.
      side: to which the longer side of the JPEG is shrunk, if it is longer.
      most_bytes: the quality is lowered where the JPEG would have more.

    Raises:
      UnreadableImageError: it cannot be read.
    """
    path = split.dataset.paths[image]
    pixels = read_image(path)
    height, width = pixels.shape[:2]
    truth, detections, matches = split.truth, split.detections, split.matches
    objects, rows = split.rows_of(image, score_threshold)
    place = {row: number for number, row in enumerate(objects)} | {-1: -1}
    scores = np.append(detections.scores.astype(np.float64), -1.0)  # -1: the last
    return {
        "name": pathlib.PurePath(path).name,
        "width": width,
        "height": height,
        "jpeg": _jpeg_url(scaled(pixels, min(1.0, side / max(height, width))), most_bytes),
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


def scaled(image: UInt8[np.ndarray, "h w 3"], scale: float) -> UInt8[np.ndarray, "_h _w 3"]:
    """Returns an image with its sides times a factor, at least one pixel each."""
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return resize(image, width, height)


def _jpeg_url(image: UInt8[np.ndarray, "h w 3"], most_bytes: int) -> str:
    jpeg = b""
    for quality in QUALITIES:
        encoded, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not encoded:
            raise RuntimeError("OpenCV could not encode an image")
        jpeg = data.tobytes()
        if len(jpeg) <= most_bytes:
            break
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
