"""Accuracy and losses of a model on a split, over all devices of all processes."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from yolov7_jax import Detections
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.evaluate.batches import EvalBatch, eval_batches
from yolov7_jax.evaluate.coco_ap import CocoAp, GroundTruth, ScoredBoxes, coco_ap
from yolov7_jax.evaluate.detect_split import collect_detections
from yolov7_jax.training.distributed import gather_over_processes
from yolov7_jax.training.mesh import own_rows, shard_batch
from yolov7_jax.training.pipeline.image_cache import ImageCache, cached_reader
from yolov7_jax.training.step import EvalLosses

Watch = Callable[[Iterable[EvalBatch]], Iterator[EvalBatch]]


class Evaluation(NamedTuple):
    """What came of one pass over a split.

    Attributes:
      accuracy: COCO average precision.
      detections: of all images, in pixels of the original ones.
      losses: the terms of the loss, means over the images.
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
    watched: Watch = iter,
    image_size: int,
    batch_size: int,
    stride: int | None = None,
    num_workers: int = 2,
    cache: ImageCache | None = None,
) -> Evaluation:
    """Runs a detector over a split and measures it; each process has its share of every batch.

    Args:
      eval_step: of images, targets and which images are there, as `make_eval_step` gives it,
        with the weights bound.
      dataset: the split.
      truth: its objects, from `ground_truth`.
      mesh: the devices that share a batch.
      watched: gives the batches on, or stops it all with an error; as many in every process.
      image_size: the longer side of what the network sees.
      batch_size: images at a time, over all processes; the last batch is padded to it.
      stride: with it, batches are rectangles with sides that it divides, of a few shapes, which
        saves grey padding; without, they are squares. Accuracy differs a little between the two.
      num_workers: threads that prepare images.
      cache: images of an earlier pass, opened for evaluation.

    Returns:
      The same in all processes.
    """
    losses = []

    def detect(batch: EvalBatch) -> Detections:
        given = shard_batch((batch.images, batch.targets, batch.index >= 0), mesh)
        detections, sums = eval_step(*given)
        losses.append(sums)
        return detections

    batches = eval_batches(
        dataset,
        image_size=image_size,
        batch_size=batch_size,
        stride=stride,
        num_workers=num_workers,
        read=None if cache is None else cached_reader(dataset, image_size, cache),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    own = collect_detections(watched(batches), detect, to_host=own_rows)
    detections = gather_over_processes(own)
    accuracy = coco_ap(truth, detections, num_images=len(dataset), num_classes=len(dataset.names))
    terms = np.asarray(jax.device_get(losses), np.float64).sum(0) / len(dataset)
    named = dict(zip(EvalLosses._fields, terms.tolist(), strict=True))
    return Evaluation(accuracy, detections, named)
