"""Augmentation of training images: pure functions of samples and a generator.

A scene is first made of what is known without pixels: which images, where, and where their
objects end up. Only then the pixels that show are drawn. The randomness does not depend on them.
"""

from collections.abc import Callable

import cv2
import numpy as np

from yolov7_jax.config import PAD_VALUE
from yolov7_jax.training.augment_config import AugmentConfig
from yolov7_jax.training.pipeline.colour import random_hsv
from yolov7_jax.training.pipeline.copy_paste import copy_paste, paste_in
from yolov7_jax.training.pipeline.mixup import mixup
from yolov7_jax.training.pipeline.mosaic import letterbox_scene, mosaic4, mosaic9
from yolov7_jax.training.pipeline.perspective import random_perspective
from yolov7_jax.training.pipeline.plan import Images, Sample, Scene, plan_sample
from yolov7_jax.training.pipeline.render import render

__all__ = ["AugmentConfig", "Sample", "random_flips", "train_sample", "undrawn"]

Draw = Callable[[Scene, Images, int], Sample]  # the last is the longest side, as for `render`


def train_sample(
    images: Images,
    index: int,
    image_size: int,
    config: AugmentConfig,
    rng: np.random.Generator,
    draw: Draw = render,
) -> Sample:
    """Makes one augmented training sample.

    Args:
      images: the data set; the other images of a mosaic come from it too.
      index: the image that the sample is about.
      image_size: side of the result in pixels.
      config: how far to vary.
      rng: the sample's own generator; the same state gives the same sample.
      draw: `render`; or `undrawn`, where only the objects matter.

    Returns:
      A sample with an `[image_size, image_size, 3]` image.

    Raises:
      UnreadableImageError: an image cannot be decoded; the message names it.
    """
    samples = []
    for chosen in plan_sample(index, len(images), config, rng):
        if len(chosen) == 1:
            scene = letterbox_scene(images, index, image_size)
        else:
            mosaic = mosaic4 if len(chosen) == 4 else mosaic9
            scene = copy_paste(mosaic(images, chosen, image_size, rng), config, rng)
        scene = random_perspective(scene, image_size, config, rng)
        samples.append(draw(scene, images, image_size))
    sample = samples[0] if len(samples) == 1 else mixup(samples[0], samples[1], rng)
    sample = random_hsv(sample, config, rng)
    if rng.random() < config.paste_in:
        sample = paste_in(sample, images, image_size, rng)
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


def undrawn(scene: Scene, images: Images, longest: int) -> Sample:
    """Returns a scene's objects with an image of nothing, as large as that of `render`."""
    del images, longest
    width, height = scene.size
    grey = np.broadcast_to(np.uint8(PAD_VALUE), (height, width, 3))  # a pixel of memory
    return Sample(grey, scene.boxes_xyxy, scene.labels, scene.polygons)
