import numpy as np
import pytest
from detected import detected, objects, random_case

from yolov7_jax.evaluate.confusion import confusion_matrix
from yolov7_jax.evaluate.curves import SCORES, precision_recall
from yolov7_jax.evaluate.matching import DetectionKind, match_detections

BOX, HALF, FAR = (0, 0, 10, 10), (0, 0, 10, 5), (50, 50, 60, 60)


def matrix_of(truth, detections, num_images=2, num_classes=2, score=0.0):
    matches = match_detections(truth, detections, num_images=num_images, num_classes=num_classes)
    return confusion_matrix(
        truth, detections, matches, num_classes=num_classes, score_threshold=score
    )


def test_found_mistaken_missed_and_false_by_hand():
    truth = objects((0, 0, *BOX), (0, 1, *FAR), (1, 1, *BOX))
    found = detected(
        (0, 0, 0.9, *BOX),  # right
        (0, 0, 0.8, *HALF),  # a second time
        (0, 0, 0.7, *FAR),  # 0 for 1
        (1, 0, 0.6, *FAR),  # nothing there
    )
    assert matrix_of(truth, found).tolist() == [[1, 0, 0], [1, 0, 1], [2, 0, 0]]
    assert matrix_of(truth, found, score=0.7).tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 0]]
    assert matrix_of(truth, found, score=1.0).tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 0]]


def test_a_found_object_is_not_mistaken_too():
    truth = objects((0, 0, *BOX))
    found = detected((0, 1, 0.9, *BOX), (0, 0, 0.5, *BOX))
    assert matrix_of(truth, found).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert matrix_of(truth, found, score=0.6).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_a_missed_object_is_taken_for_the_class_with_the_best_score():
    truth = objects((0, 0, *BOX))
    found = detected((0, 1, 0.5, *BOX), (0, 2, 0.9, *HALF))
    assert matrix_of(truth, found, num_classes=3)[0].tolist() == [0, 0, 1, 0]


def test_crowds_and_what_lies_in_them_are_not_counted():
    truth = objects((0, 0, 0, 0, 100, 100), crowd=[0])
    assert matrix_of(truth, detected((0, 0, 0.9, *BOX))).sum() == 0


@pytest.mark.parametrize("index", [0, 300, 700, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_rows_are_objects_columns_detections_and_the_diagonal_agrees_with_the_curves(seed, index):
    truth, detections, images, classes = random_case(seed)
    sizes = {"num_images": images, "num_classes": classes}
    matches = match_detections(truth, detections, **sizes)
    curves = precision_recall(truth, detections, matches, num_classes=classes)
    matrix = matrix_of(truth, detections, **sizes, score=float(SCORES[index]))
    shown = matches.kinds != DetectionKind.IGNORED
    shown &= detections.scores.astype(float) >= SCORES[index]
    np.testing.assert_array_equal(matrix[:-1].sum(1), curves.objects)
    np.testing.assert_array_equal(
        matrix[:, :-1].sum(0), np.bincount(detections.labels[shown], minlength=classes)
    )
    assert matrix[-1, -1] == 0
    right, real = np.diag(matrix)[:-1], curves.objects
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(right / real, curves.recall[:, index])
        np.testing.assert_allclose(right / matrix[:, :-1].sum(0), curves.precision[:, index])
