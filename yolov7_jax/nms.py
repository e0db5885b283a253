"""Non-maximum suppression with fixed shapes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from yolov7_jax.boxes import pairwise_iou
from yolov7_jax.config import MAX_CANDIDATES
from yolov7_jax.errors import UserError
from yolov7_jax.sharding import varying_like
from yolov7_jax.types import Detections, Predictions

BLOCK = 1024  # candidates


def nms(
    predictions: Predictions,
    *,
    score_threshold: float | Float[Array, ""],
    iou_threshold: float | Float[Array, ""],
    multi_label: bool = False,
    class_agnostic: bool = False,
    classes: Sequence[int] | None = None,
    max_candidates: int = MAX_CANDIDATES,
    max_detections: int = 300,
) -> Detections:
    """Keeps, greedily, the best boxes that overlap no better one of their class.

    Args:
      predictions: see `decode`.
      score_threshold: objectness and score must both be more than this.
      iou_threshold: a box is dropped where its IoU with a kept one is more than this.
      multi_label: every class over the threshold makes a candidate of its own, as evaluation
        wants it; otherwise only a box's best class does.
      class_agnostic: boxes suppress those of other classes too.
      classes: class indices to keep, applied after the best class is chosen; None keeps all.
      max_candidates: only as many of the best candidates are considered.
      max_detections: the static number of rows returned per image.

    Returns:
      `Detections`, `[b, max_detections]`, best first; equal scores in the order of predictions,
      then classes.

    Raises:
      ValueError: shapes that do not fit.
      UserError: a class that does not exist, or a limit under 1.

    Source: the greedy algorithm of torchvision's batched_nms.
    """
    num_classes = predictions.scores.shape[-1]
    shapes = tuple(field.shape for field in predictions)
    if shapes != ((*shapes[1], 4), shapes[1], (*shapes[1], num_classes)) or 0 in shapes[1]:
        raise ValueError(
            f"predictions (boxes_xyxy, objectness, scores) have shapes {shapes}; "
            "[b, n, 4], [b, n], [b, n, c] were wanted, b and n at least 1"
        )
    if max_candidates < 1 or max_detections < 1:
        raise UserError(
            f"max_candidates (={max_candidates}) and max_detections (={max_detections}) must be "
            "at least 1"
        )
    wanted = range(num_classes) if classes is None else [int(label) for label in classes]
    unknown = [label for label in wanted if not 0 <= label < num_classes]
    if unknown:
        raise UserError(f"classes {unknown} do not exist; there are 0 to {num_classes - 1}")

    boxes = predictions.boxes_xyxy.astype(jnp.float32)
    scores = predictions.scores.astype(jnp.float32)  # [b, n, c]
    allowed = (scores > score_threshold) & (predictions.objectness > score_threshold)[..., None]
    best = jnp.argmax(scores, axis=-1)  # [b, n]
    if not multi_label:
        allowed &= best[..., None] == jnp.arange(num_classes)
    if classes is not None:
        allowed &= np.isin(np.arange(num_classes), wanted)
    if multi_label or num_classes == 1:
        scores = jnp.where(allowed, scores, -jnp.inf).reshape(scores.shape[0], -1)
        labels = None
    else:
        # One candidate a box: the table shrinks by the number of classes before it is sorted.
        scores = jnp.where(allowed, scores, -jnp.inf).max(axis=-1)
        labels = best

    scores, index = lax.top_k(scores, min(max_candidates, scores.shape[1]))  # [b, k]
    if labels is None:
        index, labels = index // num_classes, index % num_classes
    else:
        labels = jnp.take_along_axis(labels, index, axis=1)
    boxes = jnp.take_along_axis(boxes, index[..., None], axis=1)
    group = jnp.zeros_like(labels) if class_agnostic else labels
    kept, valid = jax.vmap(_greedy, in_axes=(0, 0, 0, None, None))(
        boxes, group, scores > -jnp.inf, iou_threshold, max_detections
    )

    def take(field):
        found = jax.vmap(lambda rows, kept: rows[kept])(field, kept)
        mask = valid.reshape(valid.shape + (1,) * (found.ndim - 2))
        return jnp.where(mask, found, 0)

    return Detections(take(boxes), take(scores), take(labels).astype(jnp.int32), valid)


def _greedy(
    boxes_xyxy: Float[Array, "k 4"],
    group: Int[Array, " k"],
    alive: Bool[Array, " k"],
    iou_threshold: float | Float[Array, ""],
    max_detections: int,
) -> tuple[Int[Array, " d"], Bool[Array, " d"]]:
    """Returns the places of the kept boxes of one image, and which of these places are real.

    Candidates are taken in blocks, best first. What is kept before a block suppresses in one table
    what it overlaps of it; within the block, boxes are kept one by one. It ends with the last box
    that is wanted, so most blocks are usually not processed.
    """
    block = min(BLOCK, boxes_xyxy.shape[0])
    num_blocks = -(-boxes_xyxy.shape[0] // block)
    missing = num_blocks * block - boxes_xyxy.shape[0]
    boxes_xyxy, group, alive = (
        jnp.pad(field, [(0, missing)] + [(0, 0)] * (field.ndim - 1))
        for field in (boxes_xyxy, group, alive)
    )
    last = jnp.where(alive, jnp.arange(len(alive)), -1).max()
    inside = jnp.arange(block, dtype=jnp.int32)
    rows = jnp.arange(max_detections)

    def first_alive(alive: Bool[Array, " block"]) -> Int[Array, ""]:
        return jnp.where(alive, inside, block).min()

    def process_block(state):
        number, count, kept = state
        start = number * block
        boxes = lax.dynamic_slice_in_dim(boxes_xyxy, start, block)
        groups = lax.dynamic_slice_in_dim(group, start, block)
        alive_here = lax.dynamic_slice_in_dim(alive, start, block)
        suppressed = pairwise_iou(boxes_xyxy[kept], boxes) > iou_threshold  # [d, block]
        suppressed &= (group[kept][:, None] == groups) & (rows < count)[:, None]

        def keep_next(state):
            count, place, alive_here, kept = state
            iou = pairwise_iou(lax.dynamic_slice_in_dim(boxes, place, 1), boxes)[0]
            suppressed = (iou > iou_threshold) & (groups == groups[place])
            alive_here &= ~suppressed & (inside != place)
            return count + 1, first_alive(alive_here), alive_here, kept.at[count].set(start + place)

        def block_unfinished(state):
            count, place, _, _ = state
            return (place < block) & (count < max_detections)

        alive_here &= ~suppressed.any(0)
        state = (count, first_alive(alive_here), alive_here, kept)
        count, _, _, kept = lax.while_loop(block_unfinished, keep_next, state)
        return number + 1, count, kept

    def unfinished(state):
        number, count, _ = state
        return (number * block <= last) & (count < max_detections)

    start = (jnp.int32(0), jnp.int32(0), jnp.zeros(max_detections, jnp.int32))
    _, count, kept = lax.while_loop(unfinished, process_block, varying_like(start, alive))
    return kept, rows < count
