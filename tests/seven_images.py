"""A small data set for tests of the input pipeline."""

import contextlib
import dataclasses
import itertools

import cv2
import numpy as np

from yolov7_jax.data.dataset import Dataset, Polygons
from yolov7_jax.training.augment_config import AugmentConfig
from yolov7_jax.training.pipeline.stream import train_batches

SIZE = 64
NUM_IMAGES = 7
EVERYTHING = AugmentConfig(
    mosaic=0.8, mixup=0.5, copy_paste=0.5, paste_in=0.5, degrees=10, shear=5, flipud=0.5
)
ALONE = dataclasses.replace(EVERYTHING, mosaic=0, mixup=0, copy_paste=0, paste_in=0)
PLAIN = AugmentConfig(mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)


def take(dataset, count, **changes):
    """So many batches."""
    options = {"image_size": SIZE, "batch_size": 4, "seed": 3, "augment": EVERYTHING}
    batches = train_batches(dataset, **({"num_workers": 0} | options | changes))
    with contextlib.closing(batches):
        return list(itertools.islice(batches, count))


def images_shown(batches):
    """The greys in the middle of plain batches, where no padding is, tell their images."""
    return [round(image[SIZE // 2, SIZE // 2, 0] / 20) for b in batches for image in b.images]


def make_dataset(folder):
    """Seven images, each of its own grey and with its own number of objects, 0 to 6.

    Objects have an outline, the last one of each image is a crowd region.
    """
    paths, sizes = [], []
    for number in range(NUM_IMAGES):
        width, height = 40 + 10 * number, 50
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), np.full((height, width, 3), 20 * number, np.uint8))
        paths.append(str(path))
        sizes.append((width, height))
    counts = np.arange(NUM_IMAGES)
    rng = np.random.default_rng(0)
    centres, sides = rng.uniform(0.3, 0.7, (21, 2)), rng.uniform(0.3, 0.6, (21, 2))
    crowd = np.zeros(21, bool)
    crowd[np.cumsum(counts)[1:] - 1] = True
    diamond = np.asarray(((0, -0.5), (0.5, 0), (0, 0.5), (-0.5, 0)))
    outlines = [
        [] if is_crowd else [centre + side * diamond]
        for is_crowd, centre, side in zip(crowd, centres, sides, strict=True)
    ]
    return Dataset(
        names=tuple("abcdefg"),
        paths=tuple(paths),
        sizes=np.asarray(sizes, np.int32),
        offsets=np.cumsum([0, *counts]),
        labels=np.repeat(counts, counts).astype(np.int32),
        boxes=np.concatenate([centres, sides], 1).astype(np.float32),
        crowd=crowd,
        polygons=Polygons.pack(outlines),
    )
