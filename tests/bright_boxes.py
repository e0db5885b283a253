"""A split of seven images of many sizes, with a bright rectangle in each."""

import cv2
import jax
import numpy as np

from yolov7_jax import Detections, create
from yolov7_jax.data.dataset import Dataset

SIZE, STRIDE = 64, 16
SIZES = [(128, 96), (96, 128), (64, 64), (40, 30), (200, 50), (128, 100), (1, 3)]  # width, height


def make_dataset(folder, sizes, boxes, labels, **fields):
    """Dark images with a bright rectangle for each box, brighter for class 0."""
    paths, brightness = [], iter(np.where(np.asarray(labels) == 0, 250, 200).tolist())
    for number, ((width, height), of_image) in enumerate(zip(sizes, boxes, strict=True)):
        image = np.full((height, width, 3), 20, np.uint8)
        for x0, y0, x1, y1 in of_image:
            image[y0:y1, x0:x1] = next(brightness)
        paths.append(str(folder / f"{number}.png"))
        cv2.imwrite(paths[-1], image)
    rows = [
        ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
        for (width, height), of_image in zip(sizes, boxes, strict=True)
        for x0, y0, x1, y1 in of_image
    ]
    return Dataset(
        names=("a", "b"),
        paths=tuple(paths),
        sizes=np.asarray(sizes, np.int32),
        offsets=np.cumsum([0, *(len(of_image) for of_image in boxes)]),
        labels=np.asarray(labels, np.int32),
        boxes=np.asarray(rows, np.float32).reshape(-1, 4),
        **fields,
    )


def seven_images(folder):
    boxes = [
        [(width // 4, height // 4, width // 2 + 1, height // 2 + 1)] for width, height in SIZES
    ]
    return make_dataset(
        folder,
        SIZES,
        boxes,
        [0, 1, 0, 1, 0, 1, 0],
        image_ids=np.asarray([70, 7, 9, 1, 1000, 8, 3]),
        category_ids=np.asarray([5, 90]),
    )


def find_bright(images):
    """A detector: the bright rectangle of each image, of the class that its brightness says."""
    boxes, found = np.zeros((len(images), 1, 4), np.float32), np.zeros((len(images), 1), bool)
    for row, image in enumerate(np.asarray(images)):
        ys, xs = np.nonzero(image[..., 0] > 135)
        if len(ys):
            boxes[row, 0], found[row] = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), True
    labels = np.asarray(images).max((1, 2, 3))[:, None] < 225
    return Detections(boxes, boxes.sum(2) / 1000, labels.astype(np.int32), found)


def narrow_model():
    """A narrow network of two classes that detects something."""
    model = create("yolov7-tiny", 2, width=0.125, key=jax.random.key(3))
    for level in model.detect.levels:  # fresh heads are sure of nothing
        level.bias[...] += 4
    return model


def check_same_detections(found, other):
    """As alike as the same network makes them in two programs."""
    assert len(found.labels) > 100
    np.testing.assert_array_equal(found.image, other.image)
    np.testing.assert_array_equal(found.labels, other.labels)
    np.testing.assert_allclose(found.scores, other.scores, rtol=1e-5)
    np.testing.assert_allclose(found.boxes_xyxy, other.boxes_xyxy, atol=1e-3)
