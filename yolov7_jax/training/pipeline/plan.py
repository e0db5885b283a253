"""What augmentation works on: images not yet drawn (scenes), and drawn ones (samples)."""

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt8

from yolov7_jax.data.dataset import Objects, Polygons
from yolov7_jax.training.augment_config import AugmentConfig
from yolov7_jax.training.pipeline.geometry import concatenate_polygons

NINE_SHARE = 0.2  # of mosaics have nine images, the others four
# Places for cut-outs: how many there are of each largest side, as a fraction of the image's.
PASTE_PLACES = ((1, 0.75), (2, 0.5), (4, 0.25), (5, 0.125), (8, 0.0625))


class Sample(NamedTuple):
    """An image and its objects.

    Attributes:
      image: 8-bit RGB.
      boxes_xyxy: corners in pixels.
      labels: class indices.
      polygons: outlines in pixels; they may reach out of the image.
    """

    image: UInt8[np.ndarray, "h w 3"]
    boxes_xyxy: Float32[np.ndarray, "m 4"]
    labels: Int32[np.ndarray, " m"]
    polygons: Polygons

    def with_objects(
        self, boxes_xyxy: np.ndarray, labels: np.ndarray, polygons: Polygons
    ) -> "Sample":
        """Returns the sample with more objects."""
        return Sample(
            self.image,
            np.concatenate([self.boxes_xyxy, boxes_xyxy]),
            np.concatenate([self.labels, labels]),
            concatenate_polygons([self.polygons, polygons]),
        )


class Pixels(NamedTuple):
    """An image of the data set, perhaps smaller than it is.

    Attributes:
      image: 8-bit RGB.
      scale_xy: pixels of `image` per pixel of the whole image.
    """

    image: UInt8[np.ndarray, "h w 3"]
    scale_xy: tuple[float, float]


class Images(Protocol):
    """The images of a data set, and their objects, which are known without their pixels."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """Returns an image's width and height in pixels."""
        ...

    def objects(self, index: int) -> Objects:
        """Returns the objects of an image that are to be learnt, so without crowd regions."""
        ...

    def pixels(self, index: int, longest: int, halvings: int) -> Pixels:
        """Returns an image's pixels.

        Args:
          index: the image.
          longest: an image with a longer side than that is shrunk to it; others stay.
          halvings: how often the sides are then halved, rounding up; 0 to MAX_HALVINGS.

        Returns:
          The pixels: the same for the same arguments, however they are kept.

        Raises:
          UnreadableImageError: the file cannot be decoded; the message names it.
        """
        ...


MAX_HALVINGS = 3  # an eighth of the side: as far as JPEG decoders shrink at no cost


class Tile(NamedTuple):
    """A part of an image, and where it is drawn.

    Attributes:
      image: its index.
      matrix: maps homogeneous coordinates of the image's pixels to those of the scene.
      region_xyxy: the part that is drawn, in pixels of the image.
      outline: where given, only what lies within is drawn: corners of each part `[corners, 2]` in
        pixels of the image.
    """

    image: int
    matrix: Float64[np.ndarray, "3 3"]
    region_xyxy: tuple[float, float, float, float]
    outline: tuple[Float64[np.ndarray, "_ 2"], ...] = ()


class Scene(NamedTuple):
    """A sample before its pixels are drawn, so that only pixels that will be seen ever are.

    Attributes:
      size: width and height in pixels.
      tiles: what to draw, later ones over earlier ones; grey where nothing is.
      boxes_xyxy: corners in pixels.
      labels: class indices.
      polygons: outlines in pixels; they may reach out of the scene.
      tile: which of the tiles shows each object.
    """

    size: tuple[int, int]
    tiles: tuple[Tile, ...]
    boxes_xyxy: Float32[np.ndarray, "m 4"]
    labels: Int32[np.ndarray, " m"]
    polygons: Polygons
    tile: Int32[np.ndarray, " m"]


Plan = tuple[tuple[int, ...], ...]  # the images of each scene of a sample


def plan_sample(
    index: int, num_images: int, config: AugmentConfig, rng: np.random.Generator
) -> Plan:
    """Decides which images a sample is made of, before anything else about it.

    Args:
      index: the image that the sample is about.
      num_images: in the data set.
      config: how often there are mosaics, and how often two.
      rng: the sample's own generator; these are its first random numbers.

    Returns:
      One image alone, or one mosaic of four or nine, or two to be blended.
    """
    if rng.random() >= config.mosaic:
        return ((index,),)
    firsts = [index]
    if rng.random() < config.mixup:
        firsts.append(int(rng.integers(num_images)))
    mosaics = []
    for first in firsts:
        others = 8 if rng.random() < NINE_SHARE else 3
        mosaics.append((first, *rng.integers(num_images, size=others).tolist()))
    return tuple(mosaics)


def most_objects(plan: Plan, counts: Int64[np.ndarray, " n"], config: AugmentConfig) -> int:
    """Returns as many objects as the images of a plan have, and copies and cut-outs add.

    A fiftieth of the time that it takes to find out where they end up, and mostly enough to know
    that they need no more room than usual.

    Args:
      plan: from `plan_sample`.
      counts: objects of each image of the data set.
      config: how many objects may be repeated and pasted.
    """
    most = bool(config.paste_in) * sum(count for count, _ in PASTE_PLACES)
    for scene in plan:
        of_scene = int(counts[list(scene)].sum())
        most += of_scene + (len(scene) > 1) * round(config.copy_paste * of_scene)
    return most
