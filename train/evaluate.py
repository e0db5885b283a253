"""Accuracy of a model on a split."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from train.data.dataset import Dataset
from train.data.pipeline import eval_batches
from train.mesh import shard_batch
from yolov7_jax import Detections
from yolov7_jax.image import unletterbox
from yolov7_jax.metrics import CocoAp, GroundTruth, ScoredBoxes, coco_ap


class Evaluation(NamedTuple):
    """What came of one pass over a split.

    Attributes:
      accuracy: COCO average precision.
      detections: of all pictures, in pixels of the original ones.
    """

    accuracy: CocoAp
    detections: ScoredBoxes


def evaluate(
    detect: Callable[[Any], Detections],
    dataset: Dataset,
    truth: GroundTruth,
    mesh: Mesh,
    *,
    image_size: int,
    batch_size: int,
) -> Evaluation:
    """Runs a detector over a split and measures it.

    Args:
      detect: `[b, s, s, 3]` uint8 pictures to detections in their pixels.
      dataset: the split.
      truth: its objects, from `ground_truth`.
      mesh: the devices that share a batch.
      image_size: side s of the network's input.
      batch_size: pictures at a time; the last batch is padded to it.
    """
    parts = []
    for batch in eval_batches(dataset, image_size=image_size, batch_size=batch_size):
        found = jax.device_get(detect(shard_batch(batch.images, mesh)))
        boxes_xyxy = unletterbox(found.boxes_xyxy, batch.letterbox)
        kept = found.valid & (batch.index >= 0)[:, None]  # [b, k]
        image = np.broadcast_to(batch.index[:, None], kept.shape)
        parts.append(
            ScoredBoxes(image[kept], boxes_xyxy[kept], found.scores[kept], found.labels[kept])
        )
    detections = ScoredBoxes(*(np.concatenate(field) for field in zip(*parts, strict=True)))
    accuracy = coco_ap(truth, detections, num_images=len(dataset), num_classes=len(dataset.names))
    return Evaluation(accuracy, detections)


def ground_truth(dataset: Dataset) -> GroundTruth:
    """Returns the objects of a split, in pixels of the original pictures."""
    image = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    size = dataset.sizes[image].astype(np.float64)  # [n, 2]
    centre, side = dataset.boxes[:, :2] * size, dataset.boxes[:, 2:] * size
    limit = np.concatenate([size, size], 1)
    corners = np.concatenate([centre - side / 2, centre + side / 2], 1)
    return GroundTruth(image, np.clip(corners, 0, limit), dataset.labels)
