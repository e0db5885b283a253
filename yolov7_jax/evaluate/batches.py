"""Batches of one pass over a split: square ones, or rectangular ones of a few shapes."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from yolov7_jax.config import PAD_VALUE
from yolov7_jax.data.ahead import map_ahead
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.data.images import fitted_image, fitted_size
from yolov7_jax.data.letterbox import LetterboxInfo, letterbox
from yolov7_jax.data.padding import stack_targets
from yolov7_jax.errors import UserError, below_least
from yolov7_jax.types import Targets

# Returns the image of a row, shrunk so that its longer side is at most the image size.
Reader = Callable[[int], UInt8[np.ndarray, "h w 3"]]

MOST_SHAPES = 5  # each is a compilation
COMPILATION_IMAGES = 64  # squares that take about as long as compiling for one more shape


class EvalBatch(NamedTuple):
    """What an evaluation step takes; numpy arrays.

    Attributes:
      images: RGB, letterboxed without enlarging.
      targets: their objects, normalised by the sides of the images.
      index: row of the image in the data set; -1 where the batch is padded.
      letterbox: what maps boxes back to the images.
    """

    images: UInt8[np.ndarray, "b h w 3"]
    targets: Targets
    index: Int32[np.ndarray, " b"]  # pyright: ignore[reportIncompatibleMethodOverride]
    letterbox: LetterboxInfo


def eval_batches(
    dataset: Dataset,
    *,
    image_size: int,
    batch_size: int,
    stride: int | None = None,
    num_workers: int = 2,
    read: Reader | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[EvalBatch, None, None]:
    """Returns an iterator over a split that shows each image once.

    With several hosts, each makes its own slice of every batch.

    Images whose longer side exceeds `image_size` are scaled to it, then padded to the shape of
    their batch. The last batch of each shape is padded with rows of nothing.

    Args:
      dataset: the split.
      image_size: the longer side of what the network sees, in pixels.
      batch_size: images a step, over all hosts.
      stride: with it, batches have the shapes of `batch_shapes`; without, they are square, and
        the images in the order of the data set.
      num_workers: threads that prepare images; 0 prepares them in the caller's.
      read: what `fitted_image` does, for a caller who has kept what it once returned.
      process_index: which host this is.
      process_count: how many hosts there are; they divide the batch size.

    Raises:
      UserError: a number is out of its range; later, an image cannot be read.
    """
    limits = {
        "image_size": (image_size, 1),
        "batch_size": (batch_size, 1),
        "stride": (1 if stride is None else stride, 1),
        "num_workers": (num_workers, 0),
    }
    faults = below_least(limits)
    if batch_size % process_count:
        faults.append(
            f"batch_size (={batch_size}) must be a multiple of process_count (={process_count})"
        )
    if faults:
        raise UserError("; ".join(faults))
    if stride is None:
        shapes = np.full((len(dataset), 2), image_size)
    else:
        shapes = batch_shapes(dataset.sizes, image_size, stride)
    places: list[tuple[int, tuple[int, int]]] = []  # row and shape; -1 fills up a batch
    for shape in np.unique(shapes, axis=0):
        rows = np.flatnonzero((shapes == shape).all(1)).tolist()
        rows += [-1] * (-len(rows) % batch_size)
        places += [(row, tuple(shape.tolist())) for row in rows]
    own = batch_size // process_count
    places = [
        place for number, place in enumerate(places) if number % batch_size // own == process_index
    ]
    read = read or functools.partial(fitted_image, dataset, image_size)
    samples = map_ahead(
        functools.partial(_eval_sample, dataset, read), places, workers=num_workers, ahead=2 * own
    )
    most = int(np.diff(dataset.offsets).max(initial=0))
    return _batches(samples, own, dataset, most)


class _EvalSample(NamedTuple):
    row: int
    image: UInt8[np.ndarray, "h w 3"]
    letterbox: LetterboxInfo


def _eval_sample(dataset: Dataset, read: Reader, place: tuple[int, tuple[int, int]]) -> _EvalSample:
    row, shape = place
    if row < 0:
        blank = np.full((1, 1, 3), PAD_VALUE, np.uint8)
        return _EvalSample(row, *letterbox(blank, shape, enlarge=False))
    size_wh, image = dataset.sizes[row], read(row)
    padded, info = letterbox(image, shape, enlarge=False)
    scale_xy = (image.shape[1::-1] / size_wh).astype(np.float32)
    return _EvalSample(row, padded, LetterboxInfo(scale_xy, info.pad_xy, size_wh))


def _batches(
    samples: Generator[_EvalSample, None, None], size: int, dataset: Dataset, most: int
) -> Generator[EvalBatch, None, None]:
    with contextlib.closing(samples):
        while together := list(itertools.islice(samples, size)):
            rows, images, infos = zip(*together, strict=True)
            objects = [_objects(dataset, row, info) for row, _, info in together]
            boxes, labels = zip(*objects, strict=True)
            yield EvalBatch(
                np.stack(images),
                stack_targets(boxes, labels, images[0].shape[:2], most),
                np.asarray(rows, np.int32),
                LetterboxInfo(*(np.stack(field) for field in zip(*infos, strict=True))),
            )


def _objects(
    dataset: Dataset, row: int, info: LetterboxInfo
) -> tuple[Float32[np.ndarray, "m 4"], Int32[np.ndarray, " m"]]:
    """Returns boxes, in pixels of the padded image, and labels of what there is to detect."""
    if row < 0:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
    objects = dataset.objects_of(row)
    wanted = ~objects.crowd
    side = np.asarray(info.size_wh, np.float32) * info.scale_xy
    centre = objects.boxes_cxcywh[wanted, :2] * side + info.pad_xy
    half = objects.boxes_cxcywh[wanted, 2:] * side / 2
    corners = np.concatenate([centre - half, centre + half], 1)
    return corners.astype(np.float32), objects.labels[wanted]


def batch_shapes(
    sizes: Int32[np.ndarray, "n 2"], image_size: int, stride: int
) -> Int64[np.ndarray, "n 2"]:
    """Chooses, for each image, the shape of the batch that it is in.

    There are at most 5 shapes, chosen so that little is padded; fewer where the pixels that are
    padded for it cost less than a compilation, taken for as costly as 64 square images. They
    depend on the images' sizes only, not on the batches.

    Args:
      sizes: width and height of the images.
      image_size: what longer sides are scaled to; shorter ones stay.
      stride: the sides of the shapes are multiples of it.

    Returns:
      Height and width in pixels, no smaller than the scaled image.
    """
    square = image_size, image_size
    fitted = [fitted_size(size, square, enlarge=False)[::-1] for size in sizes.tolist()]
    needed = -(-np.asarray(fitted, np.int64).reshape(-1, 2) // stride) * stride
    shapes, group, counts = np.unique(needed, axis=0, return_inverse=True, return_counts=True)
    group, counts = group.reshape(-1), counts.astype(np.int64)
    while len(shapes) > 1:
        joined = np.maximum(shapes[:, None], shapes)  # [k, k, 2]
        padding = counts * shapes.prod(1)
        cost = joined.prod(2) * (counts[:, None] + counts) - padding[:, None] - padding
        cost = np.where(np.eye(len(shapes), dtype=bool), np.iinfo(np.int64).max, cost)
        if len(shapes) <= MOST_SHAPES and cost.min() >= COMPILATION_IMAGES * image_size**2:
            break
        one, other = divmod(int(cost.argmin()), len(shapes))
        shapes[one] = joined[one, other]
        counts[one] += counts[other]
        group[group == other] = one
        group[group > other] -= 1
        shapes, counts = np.delete(shapes, other, 0), np.delete(counts, other)
    return shapes[group]
