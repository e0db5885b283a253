"""A small data set for tests of the input pipeline."""

import cv2
import numpy as np

from yolov7_jax.data.dataset import Dataset, Polygons
from yolov7_jax.training.pipeline.augment import AugmentConfig

SIZE = 64
NUM_IMAGES = 7
EVERYTHING = AugmentConfig(
    mosaic=0.8, mixup=0.5, copy_paste=0.5, paste_in=0.5, degrees=10, shear=5, flipud=0.5
)


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
