"""Detections in a split, matched with its objects: what all reports are made of."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.evaluate.coco_ap import CocoAp, GroundTruth, ScoredBoxes, coco_ap
from yolov7_jax.evaluate.confusion import confusion_matrix
from yolov7_jax.evaluate.curves import Curves, class_mean, precision_recall
from yolov7_jax.evaluate.matching import DetectionKind, DetectionMatches, match_detections


class MatchedSplit(NamedTuple):
    """Detections in a split, matched with its objects.

    Attributes:
      dataset: the split.
      truth, detections: in pixels of its images.
      accuracy: of the detections.
      matches: of the two.
      curves: precision and recall of the classes.
      shown: which detections count and have at least the score `curves.best_score`.
      found: which objects those have found.
    """

    dataset: Dataset
    truth: GroundTruth
    detections: ScoredBoxes
    accuracy: CocoAp
    matches: DetectionMatches
    curves: Curves
    shown: Bool[np.ndarray, " n"]
    found: Bool[np.ndarray, " objects"]

    def confusion(self) -> Int64[np.ndarray, "c+1 c+1"]:
        """Returns the confusion matrix of the detections that are shown."""
        return confusion_matrix(
            self.truth,
            self.detections,
            self.matches,
            num_classes=len(self.dataset.names),
            score_threshold=self.curves.best_score,
        )

    def by_ap50(self) -> list[int]:
        """Returns the classes, the best first, undefined ones last."""
        return np.argsort(-self.accuracy.class_ap50, kind="stable").tolist()  # NaN comes last

    def class_metrics(self, label: int | None) -> dict[str, float]:
        """Returns the numbers of a class, or without one the means over all of them."""
        curves = self.curves
        columns = {
            "ap": self.accuracy.class_ap,
            "ap50": self.accuracy.class_ap50,
            "precision": curves.precision[:, curves.best],
            "recall": curves.recall[:, curves.best],
            "f1": curves.f1[:, curves.best],
        }
        if label is None:
            return {name: float(class_mean(column[:, None])[0]) for name, column in columns.items()}
        return {name: float(column[label]) for name, column in columns.items()}

    def class_row(self, label: int) -> dict[str, Any]:
        """Returns the name of a class, how many objects it has, and its numbers."""
        row = {"name": self.dataset.names[label], "objects": int(self.curves.objects[label])}
        return row | self.class_metrics(label)

    def rows_of(self, image: int, score_threshold: float) -> tuple[list[int], list[int]]:
        """Returns the objects in an image, and from a score on the detections, best first."""
        scores = self.detections.scores.astype(np.float64)
        counted = (self.matches.kinds != DetectionKind.IGNORED) & (scores >= score_threshold)
        rows = np.flatnonzero(counted & (self.detections.image == image))
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        return np.flatnonzero(self.truth.image == image).tolist(), rows.tolist()


def match_split(dataset: Dataset, truth: GroundTruth, detections: ScoredBoxes) -> MatchedSplit:
    """Measures detections, and matches them with objects.

    Raises:
      ValueError: they cannot be measured, as `coco_ap` tells.
    """
    num_classes = len(dataset.names)
    sizes = {"num_images": len(dataset), "num_classes": num_classes}
    accuracy = coco_ap(truth, detections, **sizes)
    matches = match_detections(truth, detections, **sizes)
    curves = precision_recall(truth, detections, matches, num_classes=num_classes)
    shown = (matches.kinds != DetectionKind.IGNORED) & (
        detections.scores.astype(np.float64) >= curves.best_score
    )
    found = matches.found_objects(detections, curves.best_score)
    return MatchedSplit(dataset, truth, detections, accuracy, matches, curves, shown, found)
