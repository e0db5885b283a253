import numpy as np
import pytest
from detected import detected, objects, random_case

from yolov7_jax.evaluate.coco_ap import coco_ap
from yolov7_jax.evaluate.curves import RECALLS, SCORES, precision_recall
from yolov7_jax.evaluate.matching import DetectionKind, match_detections

BOX, FAR = (0, 0, 10, 10), (50, 50, 60, 60)


def curves_of(truth, detections, num_images=2, num_classes=2):
    sizes = {"num_images": num_images, "num_classes": num_classes}
    matches = match_detections(truth, detections, **sizes)
    return precision_recall(truth, detections, matches, num_classes=num_classes), matches


def check_area(truth, detections, num_images, num_classes):
    curves, _ = curves_of(truth, detections, num_images, num_classes)
    accuracy = coco_ap(truth, detections, num_images=num_images, num_classes=num_classes)
    area = curves.precision_at_recall.mean(1)
    np.testing.assert_allclose(area, accuracy.class_ap50, atol=1e-9)
    assert accuracy.ap50 == pytest.approx(np.nanmean(area), abs=1e-9)
    return accuracy


@pytest.mark.parametrize("seed", range(20))
def test_area_under_precision_is_coco_ap50(seed):
    accuracy = check_area(*random_case(seed))
    assert 0 < accuracy.ap50 < 1


def test_area_is_coco_ap50_beyond_100_detections_of_a_image_and_class():
    truth, detections, _, _ = random_case(3, num_detections=500)
    truth = truth._replace(image=truth.image * 0)
    check_area(truth, detections._replace(image=detections.image * 0), 1, 4)


def test_area_is_coco_ap50_without_detections():
    truth, detections, images, classes = random_case(0)
    check_area(truth, type(detections)(*(field[:0] for field in detections)), images, classes)


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


def test_precision_at_recall_by_hand():
    truth = objects((0, 0, *BOX), (0, 0, *FAR), (1, 0, *BOX))
    found = detected((0, 0, 0.9, *BOX), (1, 0, 0.8, *FAR), (0, 0, 0.7, *FAR))
    curves, _ = curves_of(truth, found)
    wanted = np.select([RECALLS <= 1 / 3, RECALLS <= 2 / 3], [1, 2 / 3], 0)
    np.testing.assert_allclose(curves.precision_at_recall[0], wanted)
    assert np.isnan(curves.precision_at_recall[1]).all()
    assert curves.objects.tolist() == [3, 0]


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
