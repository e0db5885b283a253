"""The input pipeline: an endless stream of training batches.

The stream's only state is the step. The sample at position `g = step * batch_size + i` shows
image `permutation(seed, g // n)[g % n]`, and all its randomness comes from a generator seeded
with (seed, g); so a run that stops and continues sees what it would have seen, however many
threads, processes or hosts take part.
"""

import contextlib
import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Generator, Sequence
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Float64, Int32, Int64

from yolov7_jax.config import PAD_VALUE
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.data.images import UnreadableImageError
from yolov7_jax.data.padding import padded_length, stack_targets
from yolov7_jax.errors import UserError, below_least
from yolov7_jax.training.batch import Batch
from yolov7_jax.training.pipeline.augment import AugmentConfig, Sample, train_sample, undrawn
from yolov7_jax.training.pipeline.file_images import FileImages
from yolov7_jax.training.pipeline.image_cache import CachedImages, ImageCache
from yolov7_jax.training.pipeline.plan import Images, Pixels, most_objects, plan_sample
from yolov7_jax.training.pipeline.workers import (
    closing,
    free_shared_memory,
    in_processes,
    in_threads,
    load_shared,
    share,
)
from yolov7_jax.types import Targets

SAMPLES_COUNTED = 64  # to learn how many objects are usual
WORKER_DIED = "terminated unexpectedly"  # what grain says then
END_OF_STREAM = 2**62  # positions; a range must end somewhere

# The first word of every seed, so that no two uses share a stream.
SHUFFLE_STREAM, SAMPLE_STREAM, COUNT_STREAM, CHANCE_STREAM = 0, 1, 2, 3


def epoch_end(epoch: int, num_images: int, batch_size: int) -> int:
    """Returns the first step after an epoch, so the step at which its last sample has been seen.

    Args:
      epoch: counted from 0.
      num_images: images in the training split.
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
    plain_from: int | None = None,
    probabilities: Float64[np.ndarray, " n"] | None = None,
    first_step: int = 0,
    num_workers: int = 2,
    worker_processes: bool = False,
    cache: ImageCache | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch, None, None]:
    """Returns an endless iterator over training batches.

    Epochs follow each other without a gap, so a batch may hold the end of one and the start of
    the next. Each image is the first of its sample exactly once an epoch. Crowd regions are no
    objects to learn.

    With several hosts, each makes its own slice of every batch; one after the other, the slices
    are the batch that one host would make. Targets have the same padding on all: each host also
    works out how many objects the samples of the others have, which takes no pixels of them.

    Args:
      dataset: the training split.
      image_size: side of the images in pixels.
      batch_size: samples a step, over all hosts.
      seed: not negative.
      augment: how far to vary the images.
      plain_from: from this epoch on, counted from 0, samples are without mosaics, mixup, copy-paste
        and paste-in.
      probabilities: of each image to be the first of a sample, with the sum 1; without, each is
        once an epoch.
      first_step: where to start; a run that stops after step k continues at k + 1.
      num_workers: threads that prepare samples; 0 prepares them in the caller's. The batches
        are the same for any number.
      worker_processes: whether the workers are processes, each making whole batches, instead of
        threads. They take seconds to start and memory for batches, and pay where more than about
        four threads would wait for each other.
      cache: images that have been decoded before.
      process_index: which host this is.
      process_count: how many hosts there are.

    Raises:
      ValueError: the data set is empty or a number is out of its range; later, while iterating,
        an image cannot be read.
    """
    limits = {
        "image_size": (image_size, 1),
        "batch_size": (batch_size, 1),
        "seed": (seed, 0),
        "first_step": (first_step, 0),
        "num_workers": (num_workers, 0),
        "process_count": (process_count, 1),
    }
    faults = below_least(limits)
    if not len(dataset):
        faults.append("dataset has no images; wanted at least 1")
    if process_count > 0 and batch_size % process_count:
        faults.append(
            f"batch_size (={batch_size}) must be a multiple of process_count (={process_count})"
        )
    if not 0 <= process_index < max(process_count, 1):
        faults.append(
            f"process_index (={process_index}) must be at least 0 and less than process_count "
            f"(={process_count})"
        )
    if cache is not None and cache.in_memory and worker_processes and num_workers:
        faults.append("cache is in the memory of this process; worker processes cannot use it")
    if cache is not None:
        faults += cache.misfits(image_size, "training")
    if faults:
        raise UserError("; ".join(faults))
    images = FileImages(dataset) if cache is None else CachedImages(FileImages(dataset), cache)
    stream = _Stream(
        images,
        image_size,
        batch_size,
        seed,
        augment,
        process_index,
        process_count,
        plain_from,
        None if probabilities is None else np.cumsum(probabilities),
        np.diff(dataset.offsets),
        usual_objects(images, image_size, augment),
    )
    own = batch_size // process_count
    numbers = grain.MapDataset.range(first_step * own, END_OF_STREAM)
    if worker_processes and num_workers:
        return _from_processes(stream, numbers, num_workers)
    samples = numbers.map(functools.partial(_drawn_at, stream))
    threaded = in_threads(samples, num_workers, ahead=2 * own)
    return closing(threaded.batch(own, batch_fn=functools.partial(_collate, stream.usual)))


def _from_processes(
    stream: "_Stream", numbers: grain.MapDataset, num_workers: int
) -> Generator[Batch, None, None]:
    with tempfile.TemporaryDirectory(prefix="yolov7_jax-") as name:
        folder = pathlib.Path(name)
        share(stream, folder)
        samples = numbers.map(lambda number: _drawn_at(load_shared(folder), number))
        own = stream.batch_size // stream.process_count
        batches = samples.batch(own, batch_fn=functools.partial(_collate, stream.usual))
        try:
            with contextlib.closing(in_processes(batches, num_workers)) as received:
                yield from map(_owned, received)
                return
        except (UserError, UnreadableImageError) as error:
            failure = error.with_traceback(None)  # the message alone is enough
        except RuntimeError as error:
            if WORKER_DIED not in str(error):
                raise
            failure = UserError(
                f"{str(error).split('. ')[0]}; if for lack of memory, fewer --num-workers "
                "would need less"
            )
        finally:
            free_shared_memory()
    raise failure


def _owned(batch: Batch) -> Batch:
    """Returns a copy of a batch from another process, so that nobody holds the shared memory.

    What is still held when the program ends cannot be freed in order any more.
    """
    targets = Targets(*(np.array(field) for field in batch.targets))
    return Batch(np.array(batch.images), targets)


def usual_objects(images: Images, image_size: int, augment: AugmentConfig) -> int:
    """Returns a number of objects that few training samples exceed.

    Padding all batches to it at least saves compilations, which take longer than a short run can
    spare; the loss hardly costs more. It is the most of some samples with seeds of their own, so
    it depends on the data and the augmentation only.
    """
    rng = np.random.default_rng(COUNT_STREAM)
    chosen = rng.integers(len(images), size=SAMPLES_COUNTED).tolist()
    return max(_num_objects(images, image_size, augment, index, rng) for index in chosen)


def load_sample(dataset: Dataset, index: int) -> Sample:
    """Reads an image and its objects without crowd regions, in its own pixels."""
    images = FileImages(dataset)
    size = images.size(index)
    image = images.pixels(index, max(size), 0).image
    objects = images.objects(index)
    half = objects.boxes_cxcywh[:, 2:] / 2
    centre = objects.boxes_cxcywh[:, :2]
    corners = np.clip(np.concatenate([centre - half, centre + half], 1), 0, 1)
    boxes_xyxy = (corners * np.asarray(size * 2, np.float32)).astype(np.float32)
    points = objects.polygons.points * np.asarray(size, np.float32)
    polygons = objects.polygons._replace(points=points)
    return Sample(image, boxes_xyxy, objects.labels, polygons)


class _Stream(NamedTuple):
    images: Images
    image_size: int
    batch_size: int
    seed: int
    augment: AugmentConfig
    process_index: int
    process_count: int
    plain_from: int | None
    cumulated: Float64[np.ndarray, " n"] | None  # probabilities
    counts: Int64[np.ndarray, " n"]  # objects of each image
    usual: int


class _Drawn(NamedTuple):
    """A sample of this host.

    Attributes:
      sample: the sample.
      most: the objects of the samples that take its place in the slices of other hosts, at most;
        0 where they are certainly no more than batches have room for anyway.
    """

    sample: Sample
    most: int


@functools.lru_cache(maxsize=4)  # two epochs meet in a batch, and threads run ahead
def _permutation(seed: int, epoch: int, length: int) -> Int32[np.ndarray, " length"]:
    order = np.random.default_rng((SHUFFLE_STREAM, seed, epoch)).permutation(length)
    return order.astype(np.int32)


def _drawn_at(stream: _Stream, number: int) -> _Drawn:
    """Makes a sample, numbered among those of this host."""
    own = stream.batch_size // stream.process_count
    step, place = divmod(number, own)
    # One place in the slice of each host, so that the hosts' workers count all samples between
    # them once a batch.
    positions = range(step * stream.batch_size + place, (step + 1) * stream.batch_size, own)
    counts = [
        _objects_if_many(stream, position)
        for host, position in enumerate(positions)
        if host != stream.process_index
    ]
    index, rng = _seeded(stream, positions[stream.process_index])
    augment = _augment_at(stream, positions[stream.process_index])
    sample = train_sample(stream.images, index, stream.image_size, augment, rng)
    return _Drawn(sample, max(counts, default=0))


def _seeded(stream: _Stream, position: int) -> tuple[int, np.random.Generator]:
    """Returns the image that a sample is about, and the sample's generator."""
    length = len(stream.images)
    epoch, place = divmod(position, length)
    rng = np.random.default_rng((SAMPLE_STREAM, stream.seed, position))
    if stream.cumulated is None:
        return int(_permutation(stream.seed, epoch, length)[place]), rng
    drawn = np.random.default_rng((CHANCE_STREAM, stream.seed, position)).random()
    index = np.searchsorted(stream.cumulated, drawn * stream.cumulated[-1], side="right")
    return min(int(index), length - 1), rng


def _augment_at(stream: _Stream, position: int) -> AugmentConfig:
    """Returns how far to vary the sample at a position, by its epoch."""
    if stream.plain_from is None or position < stream.plain_from * len(stream.images):
        return stream.augment
    return dataclasses.replace(stream.augment, mosaic=0, mixup=0, copy_paste=0, paste_in=0)


def _objects_if_many(stream: _Stream, position: int) -> int:
    """Returns how many objects a sample has, or 0 where batches have room for them anyway."""
    size, augment = stream.image_size, _augment_at(stream, position)
    index, rng = _seeded(stream, position)
    plan = plan_sample(index, len(stream.images), augment, rng)
    if most_objects(plan, stream.counts, augment) <= padded_length(stream.usual):
        return 0
    return _num_objects(stream.images, size, augment, *_seeded(stream, position))


def _num_objects(
    images: Images,
    image_size: int,
    augment: AugmentConfig,
    index: int,
    rng: np.random.Generator,
) -> int:
    """Returns how many objects a sample has, from the labels alone.

    Where objects end up does not depend on pixels, so none are drawn but those of cut-outs, which
    come from blank images. What comes last, colours and flips, changes no object's number.
    """
    plain = dataclasses.replace(augment, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0, flipud=0)
    blank = _Blank(images)
    return len(train_sample(blank, index, image_size, plain, rng, undrawn).labels)


class _Blank:
    """Images with their objects, but a single grey pixel each."""

    def __init__(self, images: Images):
        self._images = images
        self.size, self.objects = images.size, images.objects

    def __len__(self) -> int:
        return len(self._images)

    def pixels(self, index: int, longest: int, halvings: int) -> Pixels:
        width, height = self.size(index)
        return Pixels(np.full((1, 1, 3), PAD_VALUE, np.uint8), (1 / width, 1 / height))


def _collate(usual: int, drawn: Sequence[_Drawn]) -> Batch:
    images = np.stack([each.sample.image for each in drawn])
    boxes = [each.sample.boxes_xyxy for each in drawn]
    labels = [each.sample.labels for each in drawn]
    usual = max(usual, *(each.most for each in drawn))
    return Batch(images, stack_targets(boxes, labels, images.shape[1:3], usual))
