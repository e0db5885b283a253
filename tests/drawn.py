"""Small data sets of drawn images, as augmentation asks for them."""

import math

import cv2
import numpy as np

from yolov7_jax.data.dataset import Objects, Polygons
from yolov7_jax.data.images import resize
from yolov7_jax.training.pipeline.plan import Pixels

BACKGROUND = 40
COLOURS = np.asarray(
    [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (0, 255, 255),
        (255, 0, 255),
        (255, 255, 0),
        (255, 128, 0),
        (128, 0, 255),
        (0, 255, 128),
    ],
    np.uint8,
)


class DrawnImages:
    """Images in memory; `asked` lists those whose pixels were wanted."""

    def __init__(self, images, objects):
        self.images, self._objects, self.asked = images, objects, []

    def __len__(self):
        return len(self.images)

    def size(self, index):
        height, width = self.images[index].shape[:2]
        return width, height

    def objects(self, index):
        return self._objects[index]

    def pixels(self, index, longest, halvings):
        self.asked.append((index, halvings))
        image = self.images[index]
        height, width = image.shape[:2]
        shrink = min(1, longest / max(height, width))
        new_width, new_height = (
            math.ceil(max(1, round(side * shrink)) / 2**halvings) for side in (width, height)
        )
        scale_xy = new_width / width, new_height / height
        return Pixels(resize(image, new_width, new_height), scale_xy)


def objects_in_pixels(boxes_xyxy, labels, polygons, size_wh):
    """Objects of an image from corners and outlines in its pixels."""
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4) / (*size_wh, *size_wh)
    cxcywh = np.concatenate(
        [(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1
    ).astype(np.float32)
    packed = Polygons.pack([[np.asarray(p) / size_wh for p in parts] for parts in polygons])
    return Objects(np.asarray(labels, np.int32), cxcywh, np.zeros(len(boxes), bool), packed)


def rectangles(rng, count=9, outlined=False, sides=(60, 160)):
    """One image for each colour, with one rectangle of it."""
    images, objects = [], []
    for label in range(count):
        width, height = rng.integers(*sides, size=2, endpoint=True).tolist()
        x0, y0 = (rng.uniform(0.05, 0.4, 2) * (width, height)).astype(int).tolist()
        x1, y1 = np.ceil(rng.uniform(0.6, 0.95, 2) * (width, height)).astype(int).tolist()
        image = np.full((height, width, 3), BACKGROUND, np.uint8)
        image[y0:y1, x0:x1] = COLOURS[label]
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        images.append(image)
        objects.append(
            objects_in_pixels(
                [(x0, y0, x1, y1)], [label], [[corners] if outlined else []], (width, height)
            )
        )
    return DrawnImages(images, objects)


def stars(rng, count=9, size=140):
    """One image for each colour, with one star-shaped object of it and its outline."""
    images, objects = [], []
    for label in range(count):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 14))
        radii = rng.uniform(0.3, 0.48, 14) * size
        outline = size / 2 + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
        image = np.full((size, size, 3), BACKGROUND, np.uint8)
        fixed = ((outline - 0.5) * 16).round().astype(np.int32)
        cv2.fillPoly(image, [fixed], COLOURS[label].tolist(), shift=4)
        box = (*outline.min(0), *outline.max(0))
        images.append(image)
        objects.append(objects_in_pixels([box], [label], [[outline]], (size, size)))
    return DrawnImages(images, objects)


def seen_box(image, label):
    """The box around the pixels of a colour, or None where there are none."""
    near = (np.abs(image.astype(int) - COLOURS[label]) < 60).all(2)
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    if not len(rows):
        return None
    return np.asarray([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def empty_images(sizes):
    """Grey images of these (width, height) without objects."""
    images = [np.full((height, width, 3), BACKGROUND, np.uint8) for width, height in sizes]
    objects = [objects_in_pixels([], [], [], size) for size in sizes]
    return DrawnImages(images, objects)
