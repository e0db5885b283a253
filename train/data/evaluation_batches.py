"""Batches of one pass over a split: square ones, or rectangular ones of a few shapes."""

import functools
from collections.abc import Generator, Sequence
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Int32, Int64, UInt8

from train.data.dataset import Dataset
from train.data.streams import closing, in_threads
from yolov7_jax.image import PAD_VALUE, LetterboxInfo, letterbox, read_image, resize

MOST_SHAPES = 5  # each is a compilation
LEAST_PICTURES = 64  # of a shape; for fewer, compiling costs more than a little grey


class EvalBatch(NamedTuple):
    """What an evaluation step takes; numpy arrays.

    Attributes:
      images: RGB, letterboxed without enlarging.
      index: row of the picture in the data set; -1 where the batch is padded.
      letterbox: what maps boxes back to the pictures.
    """

    images: UInt8[np.ndarray, "b h w 3"]
    index: Int32[np.ndarray, " b"]  # pyright: ignore[reportIncompatibleMethodOverride]
    letterbox: LetterboxInfo


def eval_batches(
    dataset: Dataset,
    *,
    image_size: int,
    batch_size: int,
    stride: int | None = None,
    num_workers: int = 2,
) -> Generator[EvalBatch, None, None]:
    """Returns an iterator over a split that shows each picture once.

    Pictures whose longer side exceeds `image_size` are scaled to it, then padded to the shape of
    their batch. The last batch of each shape is padded with rows of nothing.

    Args:
      dataset: the split.
      image_size: the longer side of what the network sees, in pixels.
      batch_size: pictures a step.
      stride: with it, batches have the shapes of `batch_shapes`; without, they are square, and
        the pictures in the order of the data set.
      num_workers: threads that prepare pictures; 0 prepares them in the caller's.

    Raises:
      ValueError: a number is out of its range; later, a picture cannot be read.
    """
    limits = {
        "image_size": (image_size, 1),
        "batch_size": (batch_size, 1),
        "stride": (stride or 1, 1),
        "num_workers": (num_workers, 0),
    }
    faults = [
        f"{name} (={value}) must be at least {least}"
        for name, (value, least) in limits.items()
        if value < least
    ]
    if faults:
        raise ValueError("; ".join(faults))
    if stride is None:
        shapes = np.full((len(dataset), 2), image_size)
    else:
        shapes = batch_shapes(dataset.sizes, image_size, stride)
    rows, shape_of_row = [], []
    for shape in np.unique(shapes, axis=0):
        of_shape = np.flatnonzero((shapes == shape).all(1))
        padded = np.full(-(-len(of_shape) // batch_size) * batch_size, -1)
        padded[: len(of_shape)] = of_shape
        rows += padded.tolist()
        shape_of_row += [tuple(shape.tolist())] * len(padded)
    places = list(zip(rows, shape_of_row, strict=True))
    samples = grain.MapDataset.range(len(places)).map(
        functools.partial(_eval_sample, dataset, image_size, places)
    )
    threaded = in_threads(samples, num_workers, ahead=2 * batch_size)
    return closing(threaded.batch(batch_size, batch_fn=_collate))


def batch_shapes(
    sizes: Int32[np.ndarray, "n 2"], image_size: int, stride: int
) -> Int64[np.ndarray, "n 2"]:
    """Chooses, for each picture, the shape of the batch that it is in.

    There are at most 5 shapes, of at least 64 pictures each if there is more than one, chosen so
    that little is padded. They depend on the pictures' sizes only, not on the batches.

    Args:
      sizes: width and height of the pictures.
      image_size: what longer sides are scaled to; shorter ones stay.
      stride: the sides of the shapes are multiples of it.

    Returns:
      Height and width in pixels, no smaller than the scaled picture.
    """
    fitted = np.asarray([_fitted(size, image_size)[::-1] for size in sizes.tolist()], np.int64)
    needed = -(-fitted.reshape(-1, 2) // stride) * stride
    shapes, group, counts = np.unique(needed, axis=0, return_inverse=True, return_counts=True)
    group, counts = group.reshape(-1), counts.astype(np.int64)
    while len(shapes) > 1:
        joined = np.maximum(shapes[:, None], shapes)  # [k, k, 2]
        padding = counts * shapes.prod(1)
        cost = joined.prod(2) * (counts[:, None] + counts) - padding[:, None] - padding
        cost = np.where(np.eye(len(shapes), dtype=bool), np.iinfo(np.int64).max, cost)
        small = counts < LEAST_PICTURES
        if len(shapes) <= MOST_SHAPES:
            if not small.any():
                break
            cost[~small] = np.iinfo(np.int64).max
        one, other = divmod(int(cost.argmin()), len(shapes))
        shapes[one] = joined[one, other]
        counts[one] += counts[other]
        group[group == other] = one
        group[group > other] -= 1
        shapes, counts = np.delete(shapes, other, 0), np.delete(counts, other)
    return shapes[group]


class _EvalSample(NamedTuple):
    row: int
    image: UInt8[np.ndarray, "h w 3"]
    letterbox: LetterboxInfo


def _fitted(size: Sequence[int], image_size: int) -> tuple[int, int]:
    """Returns width and height of a picture as the network sees it, before padding."""
    scale = min(1.0, image_size / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def _eval_sample(
    dataset: Dataset, image_size: int, places: list[tuple[int, tuple[int, int]]], position: int
) -> _EvalSample:
    row, shape = places[position]
    if row < 0:
        blank = np.full((1, 1, 3), PAD_VALUE, np.uint8)
        return _EvalSample(row, *letterbox(blank, shape, enlarge=False))
    image = read_image(dataset.paths[row])
    height, width = image.shape[:2]
    # The scale is that of the square whatever the shape, so that the pixels are the same.
    fitted = resize(image, *_fitted((width, height), image_size))
    padded, info = letterbox(fitted, shape, enlarge=False)
    return _EvalSample(
        row,
        padded,
        LetterboxInfo(
            scale=np.asarray(min(1.0, image_size / max(width, height)), np.float32),
            pad_xy=info.pad_xy,
            size_wh=np.asarray((width, height), np.int32),
        ),
    )


def _collate(samples: Sequence[_EvalSample]) -> EvalBatch:
    infos = [sample.letterbox for sample in samples]
    return EvalBatch(
        np.stack([sample.image for sample in samples]),
        np.asarray([sample.row for sample in samples], np.int32),
        LetterboxInfo(*(np.stack(field) for field in zip(*infos, strict=True))),
    )
