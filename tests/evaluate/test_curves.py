import numpy as np
import pytest
from detected import detected, objects, random_case

from yolov7_jax.evaluate.curves import SCORES, precision_recall
from yolov7_jax.evaluate.matching import DetectionKind, match_detections

BOX, FAR = (0, 0, 10, 10), (50, 50, 60, 60)


def curves_of(truth, detections, num_images=2, num_classes=2):
    sizes = {"num_images": num_images, "num_classes": num_classes}
    matches = match_detections(truth, detections, **sizes)
    return precision_recall(truth, detections, matches, num_classes=num_classes), matches


def test_numbers_at_every_score_are_those_of_counting():
    truth, detections, images, classes = random_case(1)
    curves, matches = curves_of(truth, detections, images, classes)
    for index in range(0, len(SCORES), 10):
        for label in range(classes):
            shown = (detections.labels == label) & (detections.scores >= SCORES[index])
            shown &= matches.kinds != DetectionKind.IGNORED
            right = int((shown & (matches.kinds == DetectionKind.CORRECT)).sum())
            real = int(((truth.labels == label) & ~truth.crowd).sum())
            precision = right / shown.sum() if shown.any() else np.nan
            recall = right / real if real else np.nan
            f1 = 2 * right / (real + shown.sum()) if real else np.nan
            assert curves.precision[label, index] == pytest.approx(precision, nan_ok=True)
            assert curves.recall[label, index] == pytest.approx(recall, nan_ok=True)
            assert curves.f1[label, index] == pytest.approx(f1, nan_ok=True)


def test_best_score_has_the_highest_mean_f1_of_classes_with_objects():
    truth = objects((0, 0, *BOX), (1, 0, *BOX))
    found = detected((0, 0, 0.9, *BOX), (1, 0, 0.4, *BOX), (0, 0, 0.2, *FAR), (0, 1, 0.8, *FAR))
    curves, _ = curves_of(truth, found)
    assert curves.f1[0, curves.best] == 1
    assert curves.best_score == pytest.approx(0.3, abs=0.002)  # the middle of 0.2 to 0.4
    assert np.isnan(curves.f1[1]).all()


def test_detections_with_just_the_score_threshold_are_shown():
    curves, _ = curves_of(objects((0, 0, *BOX)), detected((0, 0, 0.5, *BOX)))
    assert curves.recall[0, 500] == 1
    assert curves.recall[0, 501] == 0
    assert np.isnan(curves.precision[0, 501])


@pytest.mark.parametrize("found", [detected(), detected((0, 0, 0.9, *BOX))])
def test_without_objects_the_best_score_is_a_half(found):
    curves, _ = curves_of(objects(), found)
    assert curves.best_score == 0.5
    assert np.isnan(curves.recall).all()
    assert np.isnan(curves.f1).all()
