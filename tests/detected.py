"""Small sets of objects and detections, by hand and at random."""

import numpy as np

from yolov7_jax.evaluate.coco_ap import GroundTruth, ScoredBoxes


def objects(*rows, crowd=()):
    """Rows are image, label, x0, y0, x1, y1; `crowd` has the numbers of rows."""
    table = np.asarray(rows, np.float64).reshape(-1, 6)
    is_crowd = np.isin(np.arange(len(table)), crowd)
    return GroundTruth(table[:, 0].astype(int), table[:, 2:], table[:, 1].astype(int), is_crowd)


def detected(*rows):
    """Rows are image, label, score, x0, y0, x1, y1."""
    table = np.asarray(rows, np.float64).reshape(-1, 7)
    image, labels = table[:, 0].astype(int), table[:, 1].astype(int)
    return ScoredBoxes(image, table[:, 3:], table[:, 2], labels)


def random_case(seed, *, num_images=6, num_classes=4, num_objects=40, num_detections=160):
    """Clustered boxes on a coarse grid: equal scores and boxes, IoUs of just 0.5, and crowds.

    The last class has no object, and the last image none either.
    """
    rng = np.random.default_rng(seed)

    def boxes(count):
        low = rng.integers(0, 8, (count, 2)) * 5
        return np.concatenate([low, low + rng.integers(2, 8, (count, 2)) * 5], 1).astype(np.float32)

    truth = GroundTruth(
        rng.integers(0, num_images - 1, num_objects),
        boxes(num_objects),
        rng.integers(0, num_classes - 1, num_objects),
        rng.random(num_objects) < 0.15,
    )
    truth.image[:8], truth.boxes_xyxy[:8] = truth.image[8:16], truth.boxes_xyxy[8:16]
    near = rng.integers(0, num_objects, num_detections)
    shaken = (
        truth.boxes_xyxy[near] + rng.integers(-1, 2, (num_detections, 4)).astype(np.float32) * 4
    )
    shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
    astray = rng.random((2, num_detections)) < 0.2
    detections = ScoredBoxes(
        np.where(astray[0], rng.integers(0, num_images, num_detections), truth.image[near]),
        shaken.astype(np.float32),
        (rng.integers(0, 20, num_detections) / 20).astype(np.float32),
        np.where(astray[1], rng.integers(0, num_classes, num_detections), truth.labels[near]),
    )
    return truth, detections, num_images, num_classes
