"""Accuracy of a model on a split."""

import collections
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from train.data.picture_cache import PictureCache, cached_reader
from train.distributed import gather_rows
from train.mesh import own_rows, shard_batch
from train.step import EvalLosses
from yolov7_jax import Detections
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.data.evaluation_batches import EvalBatch, eval_batches
from yolov7_jax.image import unletterbox
from yolov7_jax.metrics import CocoAp, GroundTruth, ScoredBoxes, coco_ap

STEPS_AHEAD = 2  # batches that the devices work on while the host prepares and reads others


class Evaluation(NamedTuple):
    """What came of one pass over a split.

    Attributes:
      accuracy: COCO average precision.
      detections: of all pictures, in pixels of the original ones.
      losses: the terms of the loss, means over the pictures.
    """

    accuracy: CocoAp
    detections: ScoredBoxes
    losses: dict[str, float]


def evaluate(
    eval_step: Callable[..., tuple[Detections, EvalLosses]],
    dataset: Dataset,
    truth: GroundTruth,
    mesh: Mesh,
    *,
    image_size: int,
    batch_size: int,
    stride: int | None = None,
    num_workers: int = 2,
    cache: PictureCache | None = None,
) -> Evaluation:
    """Runs a detector over a split and measures it; each process has its share of every batch.

    Args:
      eval_step: of pictures, targets and which pictures are there, as `make_eval_step` gives it,
        with the weights bound.
      dataset: the split.
      truth: its objects, from `ground_truth`.
      mesh: the devices that share a batch.
      image_size: the longer side of what the network sees.
      batch_size: pictures at a time, over all processes; the last batch is padded to it.
      stride: with it, batches are rectangles with sides that it divides, of a few shapes, which
        saves grey padding; without, they are squares. Accuracy differs a little between the two.
      num_workers: threads that prepare pictures.
      cache: pictures of an earlier pass, opened for evaluation.

    Returns:
      The same in all processes.
    """
    parts, losses = [], []
    waiting: collections.deque[tuple[EvalBatch, Detections]] = collections.deque()

    def read() -> None:
        batch, detections = waiting.popleft()
        parts.append(_in_pictures(batch, jax.tree.map(own_rows, detections)))

    for batch in eval_batches(
        dataset,
        image_size=image_size,
        batch_size=batch_size,
        stride=stride,
        num_workers=num_workers,
        read=None if cache is None else cached_reader(dataset, image_size, cache),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    ):
        given = shard_batch((batch.images, batch.targets, batch.index >= 0), mesh)
        detections, sums = eval_step(*given)
        waiting.append((batch, detections))
        losses.append(sums)
        if len(waiting) > STEPS_AHEAD:
            read()
    while waiting:
        read()
    own = ScoredBoxes(*(np.concatenate(field) for field in zip(*parts, strict=True)))
    detections = gather_rows(own)
    accuracy = coco_ap(truth, detections, num_images=len(dataset), num_classes=len(dataset.names))
    terms = np.asarray(jax.device_get(losses), np.float64).sum(0) / len(dataset)
    named = dict(zip(EvalLosses._fields, terms.tolist(), strict=True))
    return Evaluation(accuracy, detections, named)


def _in_pictures(batch: EvalBatch, found: Detections) -> ScoredBoxes:
    """Returns the detections of a batch, in pixels of the original pictures."""
    boxes_xyxy = unletterbox(np.asarray(found.boxes_xyxy), batch.letterbox)
    kept = np.asarray(found.valid) & (batch.index >= 0)[:, None]  # [b, k]
    image = np.broadcast_to(batch.index[:, None], kept.shape)
    scores, labels = np.asarray(found.scores), np.asarray(found.labels)
    return ScoredBoxes(image[kept], boxes_xyxy[kept], scores[kept], labels[kept])


def write_detections(dataset: Dataset, detections: ScoredBoxes, path: pathlib.Path) -> None:
    """Writes detections as COCO results: JSON that pycocotools and evaluation servers read.

    Args:
      dataset: the split; pictures and classes get the ids that its source has for them.
      detections: in pixels of the original pictures.
      path: where to write.
    """
    corners = np.asarray(detections.boxes_xyxy, np.float64)
    boxes_xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    rows = zip(
        dataset.image_ids[detections.image].tolist(),
        dataset.category_ids[detections.labels].tolist(),
        boxes_xywh.round(3).tolist(),
        np.asarray(detections.scores, np.float64).tolist(),
        strict=True,
    )
    fields = ("image_id", "category_id", "bbox", "score")
    results = [dict(zip(fields, row, strict=True)) for row in rows]
    path.write_text(json.dumps(results), encoding="utf-8")


def ground_truth(dataset: Dataset) -> GroundTruth:
    """Returns the objects of a split, in pixels of the original pictures.

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
