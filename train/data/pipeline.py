"""The input pipeline: an endless stream of training batches, and one pass over a split.

The stream's only state is the step. The sample at position `g = step * batch_size + i` shows
picture `permutation(seed, g // n)[g % n]`, and all its randomness comes from a generator seeded
with (seed, g); so a run that stops and continues sees what it would have seen.
"""

import functools
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import cv2
import grain
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from train.data.augment import AugmentConfig, Sample, train_sample
from train.data.dataset import Dataset
from yolov7_jax.image import PAD_VALUE, LetterboxInfo, letterbox, letterbox_boxes, read_image
from yolov7_jax.types import Targets

SMALLEST_PADDING = 8  # objects of an image; doubled until all have room
EVAL_THREADS = 2
END_OF_STREAM = 2**62  # positions; a range must end somewhere

# The first word of every seed, so that no two uses share a stream.
SHUFFLE_STREAM, SAMPLE_STREAM = 0, 1


class Batch(NamedTuple):
    """What a training step takes; numpy arrays.

    Attributes:
      images: RGB, s x s.
      targets: the objects, normalised by s.
    """

    images: UInt8[np.ndarray, "b s s 3"]
    targets: Targets


class EvalBatch(NamedTuple):
    """What an evaluation step takes; numpy arrays.

    Attributes:
      images: RGB, letterboxed to s x s without enlarging.
      index: row of the picture in the data set; -1 where the batch is padded.
      targets: the objects, normalised by s.
      letterbox: what maps boxes back to the pictures.
    """

    images: UInt8[np.ndarray, "b s s 3"]
    index: Int32[np.ndarray, " b"]  # pyright: ignore[reportIncompatibleMethodOverride]
    targets: Targets
    letterbox: LetterboxInfo


def epoch_end(epoch: int, num_images: int, batch_size: int) -> int:
    """Returns the first step after an epoch, so the step at which its last sample has been seen.

    Args:
      epoch: counted from 0.
      num_images: pictures in the training split.
      batch_size: samples a step, over all hosts.
    """
    return -(-(epoch + 1) * num_images // batch_size)


def train_batches(
    dataset: Dataset,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    augment: AugmentConfig,
    first_step: int = 0,
    num_workers: int = 2,
) -> Generator[Batch, None, None]:
    """Returns an endless iterator over training batches.

    Epochs follow each other without a gap, so a batch may hold the end of one and the start of
    the next. Each picture is the first of its sample exactly once an epoch.

    Args:
      dataset: the training split.
      image_size: side of the pictures in pixels.
      batch_size: samples a step.
      seed: not negative.
      augment: how far to vary the pictures.
      first_step: where to start; a run that stops after step k continues at k + 1.
      num_workers: threads that prepare samples; 0 prepares them in the caller's. The batches
        are the same for any number.

    Raises:
      ValueError: the data set is empty or a number is out of its range; later, while iterating,
        a picture cannot be read.
    """
    limits = {
        "image_size": (image_size, 1),
        "batch_size": (batch_size, 1),
        "seed": (seed, 0),
        "first_step": (first_step, 0),
        "num_workers": (num_workers, 0),
    }
    faults = [
        f"{name} (={value}) must be at least {least}"
        for name, (value, least) in limits.items()
        if value < least
    ]
    if not len(dataset):
        faults.append("dataset has no pictures; wanted at least 1")
    if faults:
        raise ValueError("; ".join(faults))

    sample_at = functools.partial(_sample_at, _Stream(dataset, image_size, seed, augment))
    positions = grain.MapDataset.range(first_step * batch_size, END_OF_STREAM)
    samples = positions.map(sample_at).to_iter_dataset(_read_options(num_workers, 2 * batch_size))
    collate = functools.partial(_collate, usual_objects(dataset, augment))
    return _close_after(samples.batch(batch_size, batch_fn=collate))


def eval_batches(
    dataset: Dataset, *, image_size: int, batch_size: int
) -> Generator[EvalBatch, None, None]:
    """Returns an iterator over a split, once and in order; the last batch is padded.

    Args:
      dataset: the split.
      image_size: side of the network's input in pixels.
      batch_size: pictures a step.

    Raises:
      ValueError: image_size or batch_size is not positive; later, a picture cannot be read.
    """
    if image_size < 1 or batch_size < 1:
        raise ValueError(
            f"image_size (={image_size}) and batch_size (={batch_size}) must be at least 1"
        )
    padded_length = -(-len(dataset) // batch_size) * batch_size
    rows = grain.MapDataset.range(padded_length)
    samples = rows.map(functools.partial(_eval_sample, dataset, image_size)).to_iter_dataset(
        _read_options(EVAL_THREADS, 2 * batch_size)
    )
    return _close_after(samples.batch(batch_size, batch_fn=_collate_eval))


def usual_objects(dataset: Dataset, augment: AugmentConfig) -> int:
    """Returns a number of objects that few training samples exceed.

    Padding all batches to it at least saves compilations, which take longer than a short run can
    spare; the loss hardly costs more.
    """
    counts = np.diff(dataset.offsets)
    if not augment.mosaic:
        return int(counts.max())
    return round(3 * float(np.quantile(counts, 0.9)))  # of four pictures, parts are cut off


def load_sample(dataset: Dataset, index: int) -> Sample:
    """Reads a picture and its objects, in its own pixels."""
    image = read_image(dataset.paths[index])
    labels, boxes_cxcywh, _, _ = dataset.objects_of(index)
    height, width = image.shape[:2]
    half = boxes_cxcywh[:, 2:] / 2
    corners = np.concatenate([boxes_cxcywh[:, :2] - half, boxes_cxcywh[:, :2] + half], 1)
    boxes_xyxy = np.clip(corners, 0, 1) * np.asarray((width, height) * 2, np.float32)
    return Sample(image, boxes_xyxy.astype(np.float32), labels)


def stack_targets(
    boxes_xyxy: list[Float32[np.ndarray, "_ 4"]],
    labels: list[Int32[np.ndarray, " _"]],
    size: int,
    usual: int,
) -> Targets:
    """Pads the objects of a batch to the first of 8, 16, 32, ... with room; none is dropped.

    A short ladder, because every length met is one more compilation of the training step.

    Args:
      boxes_xyxy: per picture, in pixels of the network's input.
      labels: per picture.
      size: side of the network's input.
      usual: batches with fewer objects in an image are padded as if they had this many.
    """
    most = max(usual, *(len(rows) for rows in labels))
    length = SMALLEST_PADDING
    while length < most:
        length *= 2
    boxes = np.zeros((len(labels), length, 4), np.float32)
    classes = np.zeros((len(labels), length), np.int32)
    valid = np.zeros((len(labels), length), bool)
    for image, (corners, of_image) in enumerate(zip(boxes_xyxy, labels, strict=True)):
        count = len(of_image)
        boxes[image, :count, :2] = (corners[:, :2] + corners[:, 2:]) / (2 * size)
        boxes[image, :count, 2:] = (corners[:, 2:] - corners[:, :2]) / size
        classes[image, :count] = of_image
        valid[image, :count] = True
    return Targets(boxes, classes, valid)


class _Stream(NamedTuple):
    dataset: Dataset
    image_size: int
    seed: int
    augment: AugmentConfig


@functools.lru_cache(maxsize=4)  # two epochs meet in a batch, and threads run ahead
def _permutation(seed: int, epoch: int, length: int) -> Int32[np.ndarray, " length"]:
    order = np.random.default_rng((SHUFFLE_STREAM, seed, epoch)).permutation(length)
    return order.astype(np.int32)


def _sample_at(stream: _Stream, position: int) -> Sample:
    length = len(stream.dataset)
    epoch, place = divmod(position, length)
    index = int(_permutation(stream.seed, epoch, length)[place])
    rng = np.random.default_rng((SAMPLE_STREAM, stream.seed, position))
    load = functools.partial(load_sample, stream.dataset)
    return train_sample(load, index, length, stream.image_size, stream.augment, rng)


class _EvalSample(NamedTuple):
    row: int
    sample: Sample
    letterbox: LetterboxInfo


def _eval_sample(dataset: Dataset, image_size: int, row: int) -> _EvalSample:
    if row < len(dataset):
        sample = load_sample(dataset, row)
    else:
        blank = np.full((image_size, image_size, 3), PAD_VALUE, np.uint8)
        sample = Sample(blank, np.zeros((0, 4), np.float32), np.zeros(0, np.int32))
        row = -1
    image, info = letterbox(sample.image, image_size, enlarge=False)
    boxes_xyxy = letterbox_boxes(sample.boxes_xyxy, info)
    return _EvalSample(row, Sample(image, boxes_xyxy, sample.labels), info)


def _collate(usual: int, samples: Sequence[Sample]) -> Batch:
    images = np.stack([sample.image for sample in samples])
    boxes = [sample.boxes_xyxy for sample in samples]
    labels = [sample.labels for sample in samples]
    return Batch(images, stack_targets(boxes, labels, images.shape[1], usual))


def _collate_eval(samples: Sequence[_EvalSample]) -> EvalBatch:
    images, targets = _collate(0, [sample.sample for sample in samples])
    index = np.asarray([sample.row for sample in samples], np.int32)
    infos = [sample.letterbox for sample in samples]
    stacked = LetterboxInfo(*(np.stack(field) for field in zip(*infos, strict=True)))
    return EvalBatch(images, index, targets, stacked)


def _read_options(num_threads: int, ahead: int) -> grain.ReadOptions:
    # OpenCV's own threads and ours would compete for the same cores.
    cv2.setNumThreads(1)
    return grain.ReadOptions(num_threads, max(num_threads, ahead) if num_threads else 0)


def _close_after(batches: grain.IterDataset) -> Generator[Any, None, None]:
    iterator = iter(batches)
    try:
        yield from iterator
    finally:
        iterator.close()
