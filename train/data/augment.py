"""Augmentation of training pictures: pure functions of samples and a generator.

A scene is first made of what is known without pixels: which pictures, where, and where their
objects end up. Only then the pixels that show are drawn. The randomness does not depend on them.
"""

import functools
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

from train.data.augment_config import AugmentConfig
from train.data.blend import copy_paste, mixup, paste_in
from train.data.colour import random_hsv
from train.data.mosaic import letterbox_scene, random_mosaic
from train.data.perspective import random_perspective
from train.data.render import render
from train.data.sample import Pictures, Sample, Scene
from yolov7_jax.config import PAD_VALUE

__all__ = ["AugmentConfig", "Sample", "random_flips", "train_sample", "undrawn"]

Draw = Callable[[Scene, Pictures, int], Sample]  # the last is the longest side, as for `render`


def train_sample(
    pictures: Pictures,
    index: int,
    image_size: int,
    config: AugmentConfig,
    rng: np.random.Generator,
    draw: Draw = render,
) -> Sample:
    """Makes one augmented training sample.

    Args:
      pictures: the data set; the other pictures of a mosaic come from it too.
      index: the picture that the sample is about.
      image_size: side of the result in pixels.
      config: how far to vary.
      rng: the sample's own generator; the same state gives the same sample.
      draw: `render`; or `undrawn`, where only the objects matter.

    Returns:
      A sample with an `[image_size, image_size, 3]` picture.

    Raises:
      UnreadableImageError: a picture cannot be decoded; the message names it.
    """
    if rng.random() < config.mosaic:
        sample = _mosaic_sample(pictures, index, image_size, config, rng, draw)
        if rng.random() < config.mixup:
            second = int(rng.integers(len(pictures)))
            other = _mosaic_sample(pictures, second, image_size, config, rng, draw)
            sample = mixup(sample, other, rng)
    else:
        scene = letterbox_scene(pictures, index, image_size)
        sample = draw(random_perspective(scene, image_size, config, rng), pictures, image_size)
    sample = random_hsv(sample, config, rng)
    if rng.random() < config.paste_in:
        sample = paste_in(sample, pictures, image_size, rng)
    return random_flips(sample, config, rng)


def random_flips(sample: Sample, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """Mirrors left to right and top to bottom, each with its own probability."""
    mirror_x, mirror_y = (rng.random(2) < (config.fliplr, config.flipud)).tolist()
    if not mirror_x and not mirror_y:
        return sample
    image, boxes, points = sample.image, sample.boxes_xyxy, sample.polygons.points
    height, width = image.shape[:2]
    if mirror_x:
        boxes = boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0, width, 0)
        points = points * (-1, 1) + (width, 0)
    if mirror_y:
        boxes = boxes[:, [0, 3, 2, 1]] * (1, -1, 1, -1) + (0, height, 0, height)
        points = points * (1, -1) + (0, height)
    code = -1 if mirror_x and mirror_y else 1 if mirror_x else 0  # both, x, y
    return Sample(
        np.asarray(cv2.flip(image, code), np.uint8),
        boxes.astype(np.float32),
        sample.labels,
        sample.polygons._replace(points=points.astype(np.float32)),
    )


def _mosaic_sample(
    pictures: Pictures,
    index: int,
    size: int,
    config: AugmentConfig,
    rng: np.random.Generator,
    draw: Draw,
) -> Sample:
    scene = copy_paste(random_mosaic(pictures, index, size, rng), config, rng)
    return draw(random_perspective(scene, size, config, rng), pictures, size)


def undrawn(scene: Scene, pictures: Pictures, longest: int) -> Sample:
    """Returns a scene's objects with a picture of nothing, as large as that of `render`."""
    del pictures, longest
    return Sample(_nothing(scene.size), scene.boxes_xyxy, scene.labels, scene.polygons)


@functools.lru_cache(maxsize=1)
def _nothing(size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    image = np.full((size[1], size[0], 3), PAD_VALUE, np.uint8)
    image.flags.writeable = False  # every sample has the same
    return image
