"""Compares what an exported file computes with what the JAX model computes."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from yolov7_jax.errors import UserError
from yolov7_jax.export.export_config import ExportConfig

Results = Mapping[str, np.ndarray]
# What a file computes of images, at its own score threshold or at another one.
Run = Callable[[UInt8[np.ndarray, "b h w 3"], float | None], Results]

TOLERANCE = 1e-3  # of the largest output
# How much more than what was seen may scores and overlaps be off where they decide.
ROUNDING = 10
LEAST_ROUNDING = 1e-6
CANDIDATES = 300  # of an image, for suppression to have something to do


class ExportError(UserError):
    """A file does not compute what its model does."""


class Comparison(NamedTuple):
    """How well a file does.

    Attributes:
      difference: the largest one, relative to the largest output.
      detections: how many were compared; 0 where there is no NMS.
    """

    difference: float
    detections: int


def sample_images(count: int, image_size: tuple[int, int]) -> UInt8[np.ndarray, "b h w 3"]:
    """Returns as many images, in turn smooth and random, the same ones each time."""
    rng = np.random.default_rng(7)
    height, width = image_size
    images = [
        rng.integers(0, 256, (height, width, 3)) if i % 2 else _smooth(rng, height, width)
        for i in range(count)
    ]
    return np.array(images, np.uint8)


def _smooth(rng: np.random.Generator, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a sum of slow waves in each colour."""
    y, x = np.mgrid[:height, :width]
    waves = np.zeros((height, width, 3))
    for _ in range(6):
        slope_y, slope_x = rng.uniform(-6, 6, 2) * 2 * math.pi
        phase = rng.uniform(0, 2 * math.pi, 3)
        waves += np.sin((y / height * slope_y + x / width * slope_x)[..., None] + phase)
    return (127.5 * (1 + waves / np.abs(waves).max())).astype(np.uint8)


def compare_outputs(found: Results, wanted: Results) -> Comparison:
    """Compares arrays with those of the model.

    Raises:
      ExportError: names, shapes or types are others, numbers are not finite, or one is too far off.
    """
    if found.keys() != wanted.keys():
        raise ExportError(f"gives {', '.join(found)}; wanted {', '.join(wanted)}")
    _check_finite(wanted)
    differences: dict[str, float] = {}
    for name, array in wanted.items():
        if (found[name].shape, found[name].dtype) != (array.shape, array.dtype):
            raise ExportError(
                f"{name} is {found[name].dtype}{list(found[name].shape)}; "
                f"wanted {array.dtype}{list(array.shape)}"
            )
        largest = float(np.abs(array).max())
        differences[name] = float(_relative(np.abs(found[name] - array), largest).max())
    return Comparison(_within_tolerance(differences), 0)


def _check_finite(wanted: Results) -> None:
    broken = [name for name, array in wanted.items() if not np.isfinite(array).all()]
    if broken:
        raise ExportError(
            f"the model gives {', '.join(broken)} that are not finite; are its weights sound?"
        )


def _within_tolerance(differences: Mapping[str, float]) -> float:
    worst = max(differences, key=lambda name: differences[name])
    # A NaN is never within.
    if not differences[worst] <= TOLERANCE or not all(map(math.isfinite, differences.values())):
        raise ExportError(
            f"{worst} is off by {differences[worst]:.2g} of its largest value, "
            f"more than {TOLERANCE:g}"
        )
    return differences[worst]


def _relative(differences: np.ndarray, largest: float) -> np.ndarray:
    return differences / largest if largest else differences


def lower_threshold(wanted: Results) -> float:
    """Returns a score threshold that leaves NMS enough to do.

    Args:
      wanted: predictions of the model.

    Returns:
      the threshold that `CANDIDATES` predictions pass in the image with the most, or all that
      there are.
    """
    strength = np.minimum(wanted["objectness"], wanted["scores"].max(axis=2))  # [b, n]
    place = min(CANDIDATES, strength.shape[1] - 1)
    return max(float(np.sort(strength, axis=1)[:, -1 - place].max()), 0.0)


def compare_detections(
    found: Results, wanted: Results, settings: ExportConfig, score_threshold: float
) -> Comparison:
    """Compares detections with what NMS has to keep of the model's predictions.

    Rounding alone can change which of two equally good boxes is kept, and then all that follows.
    So the lists are not compared line by line. What greedy suppression keeps has three properties
    that together have one solution: each kept box is a candidate; no two of them overlap; and each
    candidate that is not kept overlaps a better one that is, unless the list is full of better
    ones. These have to hold up to rounding.

    Args:
      found: the file's results.
      wanted: the model's predictions.
      settings: thresholds and limits.
      score_threshold: the one that the file used.

    Raises:
      ExportError: a property does not hold.
    """
    rows = settings.max_detections
    batch = len(wanted["boxes_xyxy"])
    shapes = {
        "boxes_xyxy": ((batch, rows, 4), np.float32),
        "scores": ((batch, rows), np.float32),
        "labels": ((batch, rows), np.int32),
        "valid": ((batch, rows), np.bool_),
    }
    kinds = {name: (array.shape, array.dtype) for name, array in found.items()}
    if kinds != shapes:
        raise ExportError(f"gives {kinds}; wanted {shapes}")
    _check_finite(wanted)
    scale = _Scale(max(float(wanted["boxes_xyxy"].max()), 1.0), float(wanted["scores"].max()))
    differences, count = [0.0], 0
    for i in range(batch):
        kept = _kept({name: array[i] for name, array in found.items()})
        image = {name: array[i] for name, array in wanted.items()}
        differences += [_compare_image(kept, image, settings, score_threshold, scale)]
        count += len(kept.scores)
    return Comparison(max(differences), count)


class _Scale(NamedTuple):
    """The largest coordinate and the largest score, which differences are relative to."""

    boxes: float
    scores: float


class _Kept(NamedTuple):
    """The detections of an image without the padding."""

    boxes_xyxy: Float[np.ndarray, "k 4"]
    scores: Float[np.ndarray, "k"]
    labels: Int[np.ndarray, "k"]


def _kept(found: Results) -> _Kept:
    """Returns the detections of an image, or says what is wrong with their order or padding."""
    num = int(found["valid"].sum())
    if any(np.any(array[num:]) for array in found.values()):
        raise ExportError("rows behind the last detection must be zeros")
    kept = _Kept(*(found[name][:num] for name in _Kept._fields))
    if np.any(np.diff(kept.scores) > 0):
        raise ExportError("detections must come best first")
    return kept


def _compare_image(
    kept: _Kept, wanted: Results, settings: ExportConfig, score_threshold: float, scale: _Scale
) -> float:
    """Returns the largest difference of an image's detections, or says which property fails."""
    best = wanted["scores"].max(axis=1)
    strength = np.minimum(wanted["objectness"], best)  # [n]
    # Some are only nearly candidates: they may be kept, but need not be.
    near = strength > score_threshold - TOLERANCE * scale.scores
    boxes, scores = wanted["boxes_xyxy"][near], wanted["scores"][near]
    best, strength = best[near], strength[near]
    twins, difference = _twins(kept, boxes, scores, scale)

    slack = ROUNDING * difference + LEAST_ROUNDING
    score_slack = slack * scale.scores
    overlap = _iou(kept.boxes_xyxy, kept.boxes_xyxy)
    if not settings.class_agnostic:
        overlap *= kept.labels[:, None] == kept.labels
    overlap -= _iou_slack(kept.boxes_xyxy, slack * scale.boxes)
    np.fill_diagonal(overlap, 0)
    if overlap.max(initial=0.0) > settings.iou_threshold:
        raise ExportError(f"two detections overlap with an IoU of {overlap.max():.3g}")

    certain = strength > score_threshold + score_slack
    certain[twins] = False
    boxes, scores, best = boxes[certain], scores[certain], best[certain]
    suppressed = _iou(boxes, kept.boxes_xyxy) + _iou_slack(boxes, slack * scale.boxes)
    suppressed = suppressed > settings.iou_threshold  # [n, k]
    suppressed &= kept.scores + score_slack >= best[:, None]
    if not settings.class_agnostic:
        # Of two classes with nearly the same score either may be the best.
        suppressed &= scores[:, kept.labels] >= best[:, None] - score_slack
    missing = ~suppressed.any(axis=1)
    if len(kept.scores) == settings.max_detections:
        missing &= best > kept.scores[-1] + score_slack
    if missing.any():
        raise ExportError(
            f"{missing.sum()} detections are missing, the best with a score of "
            f"{best[missing].max():.3g}"
        )
    return difference


def _twins(
    kept: _Kept,
    boxes_xyxy: Float[np.ndarray, "n 4"],
    scores: Float[np.ndarray, "n c"],
    scale: _Scale,
) -> tuple[Int[np.ndarray, "k"], float]:
    """Returns which candidate each detection is, and how far the most distant one is off."""
    twins, differences = np.zeros(len(kept.scores), int), np.zeros(len(kept.scores))
    best = scores.max(axis=1, initial=0.0)
    for row, (box, score, label) in enumerate(zip(*kept, strict=True)):
        if not len(scores):
            raise ExportError(f"there is a detection with a score of {score:.3g}; none was wanted")
        of_boxes = np.abs(boxes_xyxy - box).max(axis=1) / scale.boxes
        distance = np.maximum(of_boxes, _relative(np.abs(scores[:, label] - score), scale.scores))
        distance[scores[:, label] < best - TOLERANCE * scale.scores] = np.inf
        twins[row] = distance.argmin()
        differences[row] = distance[twins[row]]
    return twins, _within_tolerance({"a detection": float(differences.max(initial=0.0))})


def _iou_slack(boxes_xyxy: Float[np.ndarray, "n 4"], pixels: float) -> Float[np.ndarray, "n 1"]:
    """Returns how much IoUs change where corners are off by so many pixels, at most."""
    sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).min(axis=1, keepdims=True)
    return 4 * pixels / np.maximum(sides, 1e-6)


def _iou(
    a_xyxy: Float[np.ndarray, "n 4"], b_xyxy: Float[np.ndarray, "m 4"]
) -> Float[np.ndarray, "n m"]:
    low = np.maximum(a_xyxy[:, None, :2], b_xyxy[:, :2])  # [n, m, 2]
    high = np.minimum(a_xyxy[:, None, 2:], b_xyxy[:, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=2)
    a_area, b_area = ((x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a_xyxy, b_xyxy))
    return intersection / np.maximum(a_area[:, None] + b_area - intersection, 1e-30)
