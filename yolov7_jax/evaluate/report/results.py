"""What a page tells of detections: which objects they found at the best score threshold."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.evaluate.coco_ap import GroundTruth, ScoredBoxes
from yolov7_jax.evaluate.confusion import confusion_matrix
from yolov7_jax.evaluate.curves import Curves, precision_recall
from yolov7_jax.evaluate.matching import Kind, Matches, match


class Results(NamedTuple):
    """Detections in a split, matched with its objects.

    Attributes:
      dataset: the split.
      truth, detections: in pixels of its images.
      matches: of the two.
      curves: precision and recall of the classes.
      shown: which detections count and have at least the score `curves.best_score`.
      found: which objects those have found.
      real: which objects are no crowd regions.
    """

    dataset: Dataset
    truth: GroundTruth
    detections: ScoredBoxes
    matches: Matches
    curves: Curves
    shown: Bool[np.ndarray, " n"]
    found: Bool[np.ndarray, " objects"]
    real: Bool[np.ndarray, " objects"]

    def confusion(self) -> Int64[np.ndarray, "c+1 c+1"]:
        """Returns the confusion matrix of the detections that are shown."""
        return confusion_matrix(
            self.truth,
            self.detections,
            self.matches,
            num_classes=len(self.dataset.names),
            score_threshold=self.curves.best_score,
        )


def results_of(dataset: Dataset, truth: GroundTruth, detections: ScoredBoxes) -> Results:
    """Matches detections with objects.

    Raises:
      ValueError: they cannot be measured, as `metrics.coco_ap` tells.
    """
    classes = len(dataset.names)
    matches = match(truth, detections, num_images=len(dataset), num_classes=classes)
    curves = precision_recall(truth, detections, matches, num_classes=classes)
    enough = np.asarray(detections.scores, np.float64) >= curves.best_score
    found = matches.found(detections, curves.best_score)
    crowd = np.zeros(len(found), bool) if truth.crowd is None else np.asarray(truth.crowd, bool)
    counted = matches.kinds != Kind.IGNORED
    return Results(dataset, truth, detections, matches, curves, enough & counted, found, ~crowd)
