"""Augmentation of training pictures: pure functions from samples and a generator to a sample."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, UInt8

from yolov7_jax.image import PAD_VALUE, letterbox, letterbox_boxes, resize

MIN_SIDE = 2.0  # pixels; a box must stay larger than this
MAX_ASPECT = 20.0
MIN_AREA_KEPT = 0.1  # of the box as it would be without clipping


class Sample(NamedTuple):
    """A picture and its objects.

    Attributes:
      image: 8-bit RGB.
      boxes_xyxy: corners in pixels.
      labels: class indices.
    """

    image: UInt8[np.ndarray, "h w 3"]
    boxes_xyxy: Float32[np.ndarray, "m 4"]
    labels: Int32[np.ndarray, " m"]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How far training pictures are varied. The defaults are those for custom data.

    Attributes:
      mosaic: probability that a sample is a mosaic of four pictures.
      degrees: largest rotation, in degrees.
      translate: largest shift, as a fraction of the output's side; at most 0.5.
      scale: the zoom is uniform in [1 - scale, 1.1 + scale]; less than 1.
      shear: largest shear along each axis, in degrees.
      perspective: largest perspective coefficient, per pixel; useful values are up to 0.001.
      hsv_h, hsv_s, hsv_v: largest relative change of hue, saturation and value; at most 1.
      fliplr: probability of mirroring left to right.
      flipud: probability of mirroring top to bottom.

    Raises:
      ValueError: a value is out of its range; every one is named.
    """

    mosaic: float = 1.0
    degrees: float = 0.0
    translate: float = 0.2
    scale: float = 0.5
    shear: float = 0.0
    perspective: float = 0.0
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    fliplr: float = 0.5
    flipud: float = 0.0

    def __post_init__(self):
        limits = {
            "degrees": 180.0,
            "translate": 0.5,
            "scale": 0.99,
            "shear": 80.0,
            "perspective": 0.001,
        }
        faults = []
        for field in dataclasses.fields(self):
            value, limit = getattr(self, field.name), limits.get(field.name, 1.0)
            if not 0 <= value <= limit:
                faults.append(f"{field.name} (={value}) must be between 0 and {limit:g}")
        if faults:
            raise ValueError("; ".join(faults))


def train_sample(
    load: Callable[[int], Sample],
    index: int,
    num_images: int,
    image_size: int,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Sample:
    """Makes one augmented training sample.

    Args:
      load: gives a picture of the data set by its index, unchanged.
      index: the picture that the sample is about.
      num_images: how many pictures the data set has; the others of a mosaic come from them.
      image_size: side of the result in pixels.
      config: how far to vary.
      rng: the sample's own generator; the same state gives the same sample.

    Returns:
      A sample with an `[image_size, image_size, 3]` picture.
    """
    if rng.random() < config.mosaic:
        others = rng.integers(num_images, size=3)
        tiles = [load(i) for i in (index, *others.tolist())]
        sample = mosaic4([fit_longer_side(tile, image_size) for tile in tiles], image_size, rng)
    else:
        sample = letterbox_sample(load(index), image_size)
    sample = random_perspective(sample, image_size, config, rng)
    sample = random_hsv(sample, config, rng)
    return random_flips(sample, config, rng)


def fit_longer_side(sample: Sample, size: int) -> Sample:
    """Scales a sample so that its longer side has `size` pixels."""
    height, width = sample.image.shape[:2]
    ratio = size / max(height, width)
    new_width, new_height = max(1, round(width * ratio)), max(1, round(height * ratio))
    factors = np.asarray((new_width / width, new_height / height) * 2, np.float32)
    image = resize(sample.image, new_width, new_height)
    return Sample(image, sample.boxes_xyxy * factors, sample.labels)


def letterbox_sample(sample: Sample, size: int) -> Sample:
    """Fits a sample into a square, enlarging it where it is smaller."""
    image, info = letterbox(sample.image, size)
    return Sample(image, letterbox_boxes(sample.boxes_xyxy, info), sample.labels)


def mosaic4(tiles: list[Sample], size: int, rng: np.random.Generator) -> Sample:
    """Puts four samples around a random point of a canvas of twice the training size.

    Args:
      tiles: top left, top right, bottom left and bottom right. What does not fit is cut off.
      size: the training size s. The canvas is 2s x 2s; the point where the four meet is uniform
        in [s / 2, 3s / 2] on each axis.
      rng: source of the point.

    Returns:
      The canvas; boxes are clipped to it, and those entirely outside are gone.
    """
    side = 2 * size
    centre_x, centre_y = (int(value) for value in rng.uniform(size / 2, 1.5 * size, 2))
    canvas = np.full((side, side, 3), PAD_VALUE, np.uint8)
    boxes = []
    for position, tile in enumerate(tiles):
        height, width = tile.image.shape[:2]
        left = centre_x - width if position % 2 == 0 else centre_x
        top = centre_y - height if position < 2 else centre_y
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + width, side), min(top + height, side)
        canvas[y0:y1, x0:x1] = tile.image[y0 - top : y1 - top, x0 - left : x1 - left]
        boxes.append(tile.boxes_xyxy + np.asarray((left, top, left, top), np.float32))
    boxes_xyxy = np.clip(np.concatenate(boxes), 0, side)
    labels = np.concatenate([tile.labels for tile in tiles])
    inside = (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(1)
    return Sample(canvas, boxes_xyxy[inside], labels[inside])


def random_perspective(
    sample: Sample, size: int, config: AugmentConfig, rng: np.random.Generator
) -> Sample:
    """Rotates, zooms, shears and shifts a sample about its centre.

    Args:
      sample: a picture of any size.
      size: side of the result in pixels; a canvas of twice that is cut to its middle.
      config: the largest changes.
      rng: source of the changes.

    Returns:
      A `[size, size, 3]` sample. Its boxes are the hulls of the warped corners, clipped, without
      those of which `keeps_enough` says that too little is left.
    """
    matrix, zoom = _random_matrix(sample.image.shape[:2], size, config, rng)
    warp = cv2.warpPerspective if config.perspective else _warp_affine
    image = warp(sample.image, matrix, (size, size), borderValue=(PAD_VALUE,) * 3)
    hulls = _warp_boxes(sample.boxes_xyxy, matrix)
    boxes_xyxy = np.clip(hulls, 0, size)
    keep = keeps_enough(sample.boxes_xyxy * np.float32(zoom), boxes_xyxy)
    return Sample(np.asarray(image, np.uint8), boxes_xyxy[keep], sample.labels[keep])


def _warp_affine(image, matrix, size, borderValue):  # noqa: N803 - OpenCV's name
    return cv2.warpAffine(image, matrix[:2], size, borderValue=borderValue)


def _random_matrix(
    shape: tuple[int, ...], size: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "3 3"], float]:
    """Returns the map from the picture's pixels to the output's, and its zoom."""
    height, width = shape
    to_centre = np.eye(3)
    to_centre[:2, 2] = -width / 2, -height / 2
    perspective = np.eye(3)
    perspective[2, :2] = rng.uniform(-config.perspective, config.perspective, 2)
    angle = math.radians(rng.uniform(-config.degrees, config.degrees))
    zoom = rng.uniform(1 - config.scale, 1.1 + config.scale)
    turn = np.eye(3)
    turn[:2, :2] = zoom * np.asarray(
        ((math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle)))
    )
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = np.tan(np.radians(rng.uniform(-config.shear, config.shear, 2)))
    shift = np.eye(3)
    shift[:2, 2] = size * rng.uniform(0.5 - config.translate, 0.5 + config.translate, 2)
    return shift @ shear @ turn @ perspective @ to_centre, zoom


def _warp_boxes(
    boxes_xyxy: Float32[np.ndarray, "m 4"], matrix: Float64[np.ndarray, "3 3"]
) -> Float32[np.ndarray, "m 4"]:
    corners = boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    homogeneous = np.concatenate([corners, np.ones_like(corners[..., :1])], -1) @ matrix.T
    warped = homogeneous[..., :2] / homogeneous[..., 2:]  # [m, 4, 2]
    return np.concatenate([warped.min(1), warped.max(1)], 1).astype(np.float32)


def keeps_enough(
    before_xyxy: Float32[np.ndarray, "m 4"], after_xyxy: Float32[np.ndarray, "m 4"]
) -> Bool[np.ndarray, " m"]:
    """Says which boxes are still worth learning after warping and clipping.

    Args:
      before_xyxy: the boxes in the output's scale, without clipping.
      after_xyxy: the boxes warped and clipped.

    Returns:
      True where both sides are over 2 pixels, the longer under 20 times the shorter, and over a
      tenth of the area is left.
    """
    before = before_xyxy[:, 2:] - before_xyxy[:, :2]
    after = after_xyxy[:, 2:] - after_xyxy[:, :2]
    shorter, longer = after.min(1, initial=np.inf), after.max(1, initial=0)
    aspect = longer / np.maximum(shorter, 1e-9)
    kept = after.prod(1) / np.maximum(before.prod(1), 1e-9)
    return (shorter > MIN_SIDE) & (aspect < MAX_ASPECT) & (kept > MIN_AREA_KEPT)


def random_hsv(sample: Sample, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """Multiplies hue, saturation and value by random gains; hue wraps around."""
    limits = np.asarray((config.hsv_h, config.hsv_s, config.hsv_v))
    gains = 1 + rng.uniform(-1, 1, 3) * limits
    if not limits.any():
        return sample
    levels = np.arange(256)
    tables = (
        (levels * gains[0]) % 180,  # OpenCV's 8-bit hue counts half degrees
        np.clip(levels * gains[1], 0, 255),
        np.clip(levels * gains[2], 0, 255),
    )
    table = np.stack(tables, -1).astype(np.uint8)[None]  # [1, 256, 3]
    hsv = cv2.LUT(cv2.cvtColor(sample.image, cv2.COLOR_RGB2HSV), table)
    return sample._replace(image=np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8))


def random_flips(sample: Sample, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """Mirrors left to right and top to bottom, each with its own probability."""
    mirror_x, mirror_y = rng.random(2) < (config.fliplr, config.flipud)
    image, boxes = sample.image, sample.boxes_xyxy
    height, width = image.shape[:2]
    if mirror_x:
        image = image[:, ::-1]
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    if mirror_y:
        image = image[::-1]
        boxes = np.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], 1)
    return Sample(np.ascontiguousarray(image), boxes.astype(np.float32), sample.labels)
