"""SimOTA's cost matrix of objects and candidates, taken in chunks and never built.

It has objects x candidates entries, 200 x 9,000 for an image of a crowd, of which hardly any are
needed again. `pack_level` moves the valid candidates, some 40 %, to the front, and
`scan_candidates` takes them in chunks that stay in the cache, as many as the fullest image of the
batch needs. Of each chunk, `RunningTopK` keeps what the matching wants: per object its largest IoUs
and its cheapest candidates, and per candidate its cheapest object.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from yolov7_jax.boxes import cxcywh_to_xyxy, pairwise_iou
from yolov7_jax.candidates import Candidates
from yolov7_jax.config import HeadConfig, LossConfig
from yolov7_jax.decode import decode_boxes
from yolov7_jax.gather import chunk_width, flatten, gather_rows
from yolov7_jax.sharding import varying_like
from yolov7_jax.types import AnyArray, Levels, Targets

MAX_CHUNKS = 6
IOU_WEIGHT = 3.0  # of the IoU against the class in the cost
IOU_EPSILON = 1e-8  # keeps the cost of boxes that do not touch finite
TINY = 1e-37  # the smallest probability that a logarithm sees; near the smallest float32


class LevelCandidates(NamedTuple):
    """The candidates of a level, the valid ones first and in their order; padded to whole chunks.

    Decoded here, outside the loop over chunks: inside it compilers decode again for every object.
    """

    num_valid: Int[Array, "b"]
    prediction: Int[Array, "b n"]  # its index in the flattened level
    row: Int[Array, "b n"]
    column: Int[Array, "b n"]
    anchor: Int[Array, "b n"]
    object: Int[Array, "b n"]  # the one that proposed it
    corners: Float[Array, "b 4 n"]  # predicted, in pixels, x1 y1 x2 y2; empty boxes where padded


def pack_level(
    candidates: Candidates, level: int, output: Float[Array, "b h w a f"], head: HeadConfig
) -> LevelCandidates:
    """Moves the valid candidates of a level to the front, and decodes their boxes."""
    shape = candidates.valid.shape
    valid, *fields = (
        jnp.broadcast_to(field, shape).reshape(shape[0], head.num_levels, -1)[:, level]
        for field in (
            candidates.valid,
            candidates.row,
            candidates.column,
            candidates.anchor,
            candidates.object,
        )
    )  # [b, n]
    size = valid.shape[1]
    width = chunk_width(size, MAX_CHUNKS)
    padded = -(-size // width) * width
    slot = jnp.where(valid, jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, padded)
    index = jnp.arange(size, dtype=jnp.int32)
    source = jax.vmap(lambda slot: jnp.zeros(padded, jnp.int32).at[slot].set(index, mode="drop"))(
        slot
    )  # [b, padded]: the candidate in each slot
    row, column, anchor, proposer = (gather_rows(field, source) for field in fields)
    prediction = (row * output.shape[2] + column) * output.shape[3] + anchor
    boxes = decode_boxes(
        gather_rows(flatten(output), prediction)[..., :4].astype(jnp.float32),
        jnp.stack([column, row], axis=-1),
        jnp.array(head.anchors[level], jnp.float32)[anchor],
        head.strides[level],
    )
    num_valid = valid.sum(axis=1, dtype=jnp.int32)
    in_use = jnp.arange(padded) < num_valid[:, None]
    corners = jnp.where(in_use[:, None], jnp.swapaxes(cxcywh_to_xyxy(boxes), 1, 2), 0)
    return LevelCandidates(num_valid, prediction, row, column, anchor, proposer, corners)


class RunningTopK(NamedTuple):
    """What is kept of the cost matrix, over the candidates scanned so far.

    A slot is the place of a packed candidate, counted through all levels.
    """

    largest_iou: Float[Array, "b m k"]
    least_cost: Float[Array, "b m k"]
    cheapest: Int[Array, "b m k"]  # the slots of these costs
    cheapest_object: Int[Array, "b n"]  # by slot


def scan_candidates(
    lead: Levels,
    targets: Targets,
    levels: list[LevelCandidates],
    head: HeadConfig,
    config: LossConfig,
    top_k: int,
) -> RunningTopK:
    """Compares all objects with all candidates, chunk by chunk."""
    batch, num_objects = targets.valid.shape
    num_slots = sum(candidates.row.shape[1] for candidates in levels)
    kept = min(top_k, num_slots)
    objects_xyxy = _objects_in_pixels(targets, lead[0].shape, head.strides[0])
    best = RunningTopK(
        largest_iou=jnp.zeros((batch, num_objects, kept)),
        least_cost=jnp.full((batch, num_objects, kept), jnp.inf),
        cheapest=jnp.zeros((batch, num_objects, kept), jnp.int32),
        cheapest_object=jnp.zeros((batch, num_slots), jnp.int32),
    )
    best = varying_like(best, levels[0].num_valid)
    first_slot = 0
    for candidates, output in zip(levels, lead, strict=True):
        size = candidates.row.shape[1]
        width = chunk_width(size, MAX_CHUNKS)

        def step(i, best, level=candidates, output=output, first_slot=first_slot, width=width):
            start = i * width
            chunk = LevelCandidates(
                level.num_valid - start,
                *(lax.dynamic_slice_in_dim(field, start, width, axis=-1) for field in level[1:]),
            )
            iou, cost = cost_matrix(chunk, output, objects_xyxy, targets, config)
            return _update(best, iou, cost, first_slot + start)

        num_chunks = -(-jnp.max(candidates.num_valid) // width)
        best = lax.fori_loop(0, num_chunks, step, best)
        first_slot += size
    return best


def cost_matrix(
    chunk: LevelCandidates,
    output: Float[Array, "b h w a f"],
    objects_xyxy: Float[Array, "b m 4"],
    targets: Targets,
    config: LossConfig,
) -> tuple[Float[Array, "b m n"], Float[Array, "b m n"]]:
    """Returns the IoU and the cost of each object (rows) with each candidate of a chunk."""
    logits = gather_rows(flatten(output), chunk.prediction).astype(jnp.float32)  # [b, n, f]
    iou = pairwise_iou(objects_xyxy, jnp.swapaxes(chunk.corners, 1, 2))  # [b, m, n]
    # Added rather than selected: what is added has m or n elements, not m times n.
    in_use = jnp.arange(chunk.row.shape[1]) < chunk.num_valid[:, None]
    invalid_penalty = (
        jnp.where(in_use, 0, jnp.inf)[:, None] + jnp.where(targets.valid, 0, jnp.inf)[..., None]
    )
    iou_cost = -IOU_WEIGHT * jnp.log(iou + IOU_EPSILON)
    cost = _class_cost(logits, targets.labels) + iou_cost + invalid_penalty
    if config.restrict_to_own_candidates:
        # The IoUs of all candidates still count for the dynamic k.
        rows = jnp.arange(targets.valid.shape[1])
        cost = jnp.where(chunk.object[:, None] == rows[:, None], cost, jnp.inf)
    return iou, cost


def _class_cost(
    logits: Float[Array, "b n f"], labels: Int[AnyArray, "b m"]
) -> Float[Array, "b m n"]:
    """Returns the class part of the cost without an array over objects, candidates and classes.

    The sum over classes of BCE(p, [class == label]), p = sqrt(class x objectness), is a sum that
    depends on the candidate alone plus a correction for the one class that is the label.
    """
    classes, objectness = logits[..., 5:], logits[..., 4:5]  # [b, n, c], [b, n, 1]
    # One exponential and one division give both sigmoids, of the logit and of its negative.
    decay = jnp.exp(-jnp.abs(classes))
    larger = 1 / (1 + decay)
    p_class = jnp.where(classes >= 0, larger, decay * larger)
    not_class = jnp.where(classes >= 0, decay * larger, larger)
    p_squared = p_class * jax.nn.sigmoid(objectness)
    # 1 - p^2 without cancellation; and 1 - p = (1 - p^2) / (1 + p).
    one_minus_p_squared = not_class + p_class * jax.nn.sigmoid(-objectness)
    log_1mp = jnp.log(jnp.maximum(one_minus_p_squared, TINY) / (1 + jnp.sqrt(p_squared)))
    log_class = jnp.minimum(classes, 0) - jnp.log1p(decay)
    log_p = (log_class + jax.nn.log_sigmoid(objectness)) / 2
    # Products with zeros and ones pick and sum exactly. A gather and a plain sum do the same, but
    # compilers fuse them with the logarithms and compute these again for every object.
    dot = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    is_label = jax.nn.one_hot(labels, classes.shape[-1])  # [b, m, c]
    correction = dot("bmc,bnc->bmn", is_label, log_1mp - log_p)
    return correction - dot("bnc,c->bn", log_1mp, jnp.ones(classes.shape[-1]))[:, None]


def _objects_in_pixels(
    targets: Targets, finest_shape: tuple[int, ...], finest_stride: int
) -> Float[Array, "b m 4"]:
    """Returns the corners of objects; those of padding are an empty box, whatever it held."""
    height, width = (side * finest_stride for side in finest_shape[1:3])
    size = jnp.array([width, height, width, height], jnp.float32)
    boxes = jnp.where(targets.valid[..., None], targets.boxes.astype(jnp.float32), 0)
    return cxcywh_to_xyxy(boxes * size)


def _update(
    best: RunningTopK,
    iou: Float[Array, "b m n"],
    cost: Float[Array, "b m n"],
    start: Int[Array, ""],
) -> RunningTopK:
    """Adds a chunk whose first candidate has the slot `start`."""
    kept = best.cheapest.shape[-1]
    largest_iou = jnp.concatenate([best.largest_iou, _largest(iou, kept)], axis=-1)
    largest_iou = lax.top_k(largest_iou, kept)[0]
    # Earlier chunks stand first, so that equal costs still go to the lower slot.
    least_cost, position = lax.top_k(-jnp.concatenate([best.least_cost, cost], -1), kept)
    earlier = jnp.take_along_axis(best.cheapest, jnp.minimum(position, kept - 1), axis=-1)
    cheapest = jnp.where(position < kept, earlier, start + position - kept)
    cheapest_object = lax.dynamic_update_slice_in_dim(
        best.cheapest_object, _cheapest_object(cost), start, axis=1
    )
    return RunningTopK(largest_iou, -least_cost, cheapest, cheapest_object)


def _largest(values: Float[Array, "b m n"], kept: int) -> Float[Array, "b m k"]:
    """Returns the `kept` largest of each row, in any order.

    They are in the `kept` groups of 4 with the largest maxima: a top_k over a quarter, then.
    """
    quarter = values.shape[-1] // 4
    if quarter <= kept:
        return lax.top_k(values, min(kept, values.shape[-1]))[0]
    groups = values[..., : 4 * quarter].reshape(*values.shape[:-1], 4, quarter)
    _, best = lax.top_k(groups.max(axis=-2), kept)
    members = jnp.take_along_axis(groups, best[..., None, :], axis=-1)
    members = members.reshape(*values.shape[:-1], 4 * kept)
    return lax.top_k(jnp.concatenate([members, values[..., 4 * quarter :]], axis=-1), kept)[0]


def _cheapest_object(cost: Float[Array, "b m n"]) -> Int[Array, "b n"]:
    """Returns argmin over axis 1, lower rows first, in two passes of min.

    On CPU an argmin is a scalar loop, ten times slower. A result that is out of range would mean
    that a compiler rounded the cost differently in the two passes; see `resolve_conflicts`.
    """
    rows = jnp.arange(cost.shape[1], dtype=jnp.int32)[:, None]
    least = cost.min(axis=1, keepdims=True)
    return jnp.where(cost <= least, rows, cost.shape[1]).min(axis=1)
