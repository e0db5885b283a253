"""Precision, recall and F1 at an IoU of 0.5 over the score threshold."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from yolov7_jax.evaluate.coco_ap import GroundTruth, ScoredBoxes
from yolov7_jax.evaluate.matching import DetectionKind, DetectionMatches

SCORES = np.linspace(0.0, 1.0, 1001)  # score thresholds


class Curves(NamedTuple):
    """Precision and recall of every class at an IoU of 0.5, in [0, 1].

    Recall and F1 are NaN for a class without objects, precision where nothing is detected.

    Attributes:
      objects: objects to find per class, crowd regions left out.
      precision, recall, f1: of the detections with at least the scores 0.000, 0.001 ... 1.000.
      best: the index of the score with the highest mean F1 over the classes with objects; the
        middle one of equals.
    """

    objects: Int64[np.ndarray, " c"]
    precision: Float64[np.ndarray, "c 1001"]
    recall: Float64[np.ndarray, "c 1001"]
    f1: Float64[np.ndarray, "c 1001"]
    best: int

    @property
    def best_score(self) -> float:
        """The score threshold at `best`."""
        return float(SCORES[self.best])


def precision_recall(
    truth: GroundTruth, detections: ScoredBoxes, matches: DetectionMatches, *, num_classes: int
) -> Curves:
    """Computes the curves of a set of detections.

    Args:
      truth: all objects.
      detections: of all images; scores in [0, 1].
      matches: of the two, from `match_detections`.
      num_classes: classes in the data set.
    """
    objects = np.bincount(truth.labels[truth.to_find], minlength=num_classes)
    scores = detections.scores.astype(np.float64)
    order = np.lexsort((-scores, detections.labels))  # by class, the best first
    order = order[matches.kinds[order] != DetectionKind.IGNORED]
    bounds = np.searchsorted(detections.labels[order], np.arange(num_classes + 1))
    right, shown = np.zeros((2, num_classes, len(SCORES)), np.int64)
    for label in range(num_classes):
        rows = order[bounds[label] : bounds[label + 1]]
        correct = np.concatenate([[0], np.cumsum(matches.kinds[rows] == DetectionKind.CORRECT)])
        shown[label] = np.searchsorted(-scores[rows], -SCORES, side="right")
        right[label] = correct[shown[label]]
    wanted = objects[:, None]
    f1 = _ratio(2 * right, np.where(wanted, shown + wanted, 0))
    mean_f1 = f1[objects > 0].mean(0) if objects.any() else np.zeros(len(SCORES))
    best = np.flatnonzero(mean_f1 == mean_f1.max())
    return Curves(
        objects,
        precision=_ratio(right, shown),
        recall=_ratio(right, wanted),
        f1=f1,
        best=int(best[len(best) // 2]),
    )


def class_mean(values: Float64[np.ndarray, "c s"]) -> Float64[np.ndarray, " s"]:
    """Returns the mean over the classes for which a number is defined; NaN where there is none."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(0), defined.sum(0))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Returns part / whole, NaN where the whole is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
