"""Detections in all images of a split, ready to be measured."""

import collections
import functools
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import UInt8

from yolov7_jax.config import PAD_VALUE
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.data.images import UnreadableImageError, fitted_image, fitted_size
from yolov7_jax.data.letterbox import unletterbox
from yolov7_jax.deploy import deploy
from yolov7_jax.detect.forward import forward
from yolov7_jax.evaluate.batches import EvalBatch, eval_batches
from yolov7_jax.evaluate.coco_ap import GroundTruth, ScoredBoxes
from yolov7_jax.model import Yolov7, split
from yolov7_jax.nms import nms
from yolov7_jax.types import Detections

STEPS_AHEAD = 2  # batches that the devices work on while the host prepares and reads others

_AXIS = "data"

DetectBatch = Callable[[EvalBatch], Detections]


class SplitDetections(NamedTuple):
    """What came of one pass over a split.

    Attributes:
      detections: by image, in pixels of the original ones.
      unreadable: what is wrong with images that could not be decoded, by their rows; nothing is
        detected in them.
    """

    detections: ScoredBoxes
    unreadable: dict[int, str]


def detect_split(
    detect: DetectBatch,
    dataset: Dataset,
    *,
    image_size: int,
    batch_size: int,
    stride: int | None = None,
) -> SplitDetections:
    """Runs a detector over a split, with a bar of progress on a terminal.

    Args:
      detect: of a batch, in pixels of its images, as `make_detect_batch` gives it.
      dataset: the split.
      image_size: the longer side of what the network sees, in pixels.
      batch_size: images at a time; the last batch of a shape is padded to it.
      stride: with it, batches are rectangles with sides that it divides, of a few shapes; without,
        they are squares.
    """
    unreadable: dict[int, str] = {}
    batches = eval_batches(
        dataset,
        image_size=image_size,
        batch_size=batch_size,
        stride=stride,
        read=functools.partial(_image_or_grey, dataset, image_size, unreadable),
    )
    found = collect_detections(_with_progress(batches, len(dataset)), detect)
    kept = ~np.isin(found.image, list(unreadable))
    rows = np.flatnonzero(kept)[np.argsort(found.image[kept], kind="stable")]
    detections = ScoredBoxes(*(field[rows] for field in found))
    return SplitDetections(detections, dict(sorted(unreadable.items())))


def collect_detections(
    batches: Iterable[EvalBatch],
    detect: DetectBatch,
    to_host: Callable[[jax.Array], np.ndarray] = np.asarray,
) -> ScoredBoxes:
    """Returns the detections in all batches, in pixels of the original images.

    Args:
      batches: of a split, from `eval_batches`; at least one.
      detect: starts the work on a batch without waiting for its end.
      to_host: returns of an array from `detect` the rows of the batch.
    """
    parts = []
    waiting: collections.deque[tuple[EvalBatch, Detections]] = collections.deque()

    def read() -> None:
        batch, found = waiting.popleft()
        boxes_xyxy, scores, labels, valid = jax.tree.map(to_host, found)
        boxes_xyxy = unletterbox(boxes_xyxy, batch.letterbox)
        kept = valid & (batch.index >= 0)[:, None]  # [b, k]
        image = np.broadcast_to(batch.index[:, None], kept.shape)
        parts.append(ScoredBoxes(image[kept], boxes_xyxy[kept], scores[kept], labels[kept]))

    for batch in batches:
        waiting.append((batch, detect(batch)))
        if len(waiting) > STEPS_AHEAD:
            read()
    while waiting:
        read()
    return ScoredBoxes(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def make_detect_batch(
    model: Yolov7,
    devices: Sequence[Any],
    *,
    score_threshold: float,
    iou_threshold: float,
    classes: Sequence[int],
    augment: bool = False,
) -> DetectBatch:
    """Returns a function that detects as evaluation wants it: several classes a box, at any score.

    It compiles once for every shape of batch. The deployed model runs; a batch is shared by the
    devices, each of which does all of the work on its images.

    Args:
      model: any model, in any form.
      devices: their number must divide the batch sizes.
      score_threshold: as for `nms`, like the next; 0.001 for AP, which counts all scores.
      iou_threshold: over which a box is dropped beside a better one of its class.
      classes: of the network, in the order in which detections are to name them; others are not
        looked for.
      augment: test-time augmentation, as for `forward.forward`.
    """
    graphdef, params, batch_stats = split(deploy(model))
    mesh = Mesh(np.asarray(devices), (_AXIS,))
    whole, by_image = PartitionSpec(), PartitionSpec(_AXIS)
    params, batch_stats = jax.device_put((params, batch_stats), NamedSharding(mesh, whole))

    def found(params, batch_stats, images) -> Detections:
        predictions = forward(graphdef, params, batch_stats, images, model.head, augment=augment)
        if list(classes) != list(range(model.head.num_classes)):
            scores = predictions.scores[..., np.asarray(classes)]
            predictions = predictions._replace(scores=scores)
        return nms(
            predictions,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            multi_label=True,
        )

    # Under jit alone, the compiler would gather the batch on every device for what sorts in NMS.
    run = jax.jit(
        jax.shard_map(found, mesh=mesh, in_specs=(whole, whole, by_image), out_specs=by_image)
    )

    def detect(batch: EvalBatch) -> Detections:
        images = jax.device_put(batch.images, NamedSharding(mesh, by_image))
        return run(params, batch_stats, images)

    return detect


def shared_batch_size(batch_size: int, devices: Sequence[Any]) -> int:
    """Returns the least batch size from a given one on that devices can share evenly."""
    return -(-batch_size // len(devices)) * len(devices)


def ground_truth(dataset: Dataset) -> GroundTruth:
    """Returns the objects of a split, in pixels of the original images.

    Crowd regions are marked, and areas are those of the source, which tell small objects from large
    ones as pycocotools does.
    """
    image = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    size = dataset.sizes[image].astype(np.float64)  # [n, 2]
    centre, side = dataset.boxes[:, :2] * size, dataset.boxes[:, 2:] * size
    limit = np.concatenate([size, size], 1)
    corners = np.concatenate([centre - side / 2, centre + side / 2], 1)
    return GroundTruth(
        image, np.clip(corners, 0, limit), dataset.labels, crowd=dataset.crowd, area=dataset.areas
    )


def without_images(truth: GroundTruth, rows: Iterable[int]) -> GroundTruth:
    """Returns the objects of all images but these."""
    kept = ~np.isin(truth.image, list(rows))
    return jax.tree.map(lambda field: field[kept], truth)


def _image_or_grey(
    dataset: Dataset, image_size: int, unreadable: dict[int, str], row: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as the network sees it; of one that cannot be read notes why."""
    try:
        return fitted_image(dataset, image_size, row, strict=True)
    except UnreadableImageError as error:
        unreadable[row] = str(error)
        width, height = fitted_size(
            dataset.sizes[row].tolist(), (image_size, image_size), enlarge=False
        )
        return np.full((height, width, 3), PAD_VALUE, np.uint8)


def _with_progress(
    batches: Iterable[EvalBatch], num_images: int
) -> Generator[EvalBatch, None, None]:
    """Yields the same batches, and shows on a terminal how many images they held."""
    from tqdm import tqdm

    with tqdm(total=num_images, unit=" images", disable=None, leave=False) as bar:
        for batch in batches:
            yield batch
            bar.update(int((batch.index >= 0).sum()))
