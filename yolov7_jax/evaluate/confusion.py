"""Which class is taken for which."""

import numpy as np
from jaxtyping import Int64

from yolov7_jax.evaluate.coco_ap import GroundTruth, ScoredBoxes
from yolov7_jax.evaluate.matching import DetectionKind, DetectionMatches


def confusion_matrix(
    truth: GroundTruth,
    detections: ScoredBoxes,
    matches: DetectionMatches,
    *,
    num_classes: int,
    score_threshold: float,
) -> Int64[np.ndarray, "c+1 c+1"]:
    """Counts objects by their class and by the class that they were detected as.

    Every object that is no crowd region counts once, in the row of its class: where it was found,
    on the diagonal; else in the column of the best-scored detection of another class that is on it;
    else in the last column, the background. Every other detection counts in the last row. So the
    diagonal over the sum of its row is the recall, over the sum of its column the precision.

    Args:
      truth: all objects.
      detections: of all images.
      matches: of the two, from `match_detections`.
      num_classes: classes in the data set.
      score_threshold: detections with lower scores are left out.

    Returns:
      Row: the true class; column: the detected class; background last.
    """
    background = num_classes
    scores, labels = detections.scores.astype(np.float64), detections.labels
    shown = np.flatnonzero((scores >= score_threshold) & (matches.kinds != DetectionKind.IGNORED))
    by_score = shown[np.argsort(-scores[shown], kind="stable")]
    found = matches.found_objects(detections, score_threshold)
    wrong = by_score[matches.kinds[by_score] == DetectionKind.WRONG_CLASS]
    wrong = wrong[~found[matches.objects[wrong]]]
    mistaken, first = np.unique(matches.objects[wrong], return_index=True)

    taken_for = np.full(len(truth.labels), background)
    taken_for[found] = truth.labels[found]
    taken_for[mistaken] = labels[wrong[first]]
    on_object = np.concatenate([matches.finders[found], wrong[first]])
    others = np.setdiff1d(shown, on_object)

    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    np.add.at(matrix, (truth.labels[truth.to_find], taken_for[truth.to_find]), 1)
    matrix[background, :-1] = np.bincount(labels[others], minlength=num_classes)
    return matrix
