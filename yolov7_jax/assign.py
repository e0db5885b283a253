"""The two assigners: every candidate to its own object, or simplified OTA.

OTA compares every object of an image with every candidate of the image. That table is never
built: valid candidates (some 40 %) are moved to the front, and a loop takes them in chunks, as
many as the fullest image of the batch needs. What leaves a chunk is, per object, its 10 largest
IoUs and 10 cheapest candidates so far, and, per candidate, the object that it is cheapest for.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from yolov7_jax.boxes import cxcywh_to_xyxy, pairwise_iou
from yolov7_jax.candidates import Candidates, propose
from yolov7_jax.config import HeadConfig, LossConfig
from yolov7_jax.decode import decode_boxes
from yolov7_jax.gather import flatten, gather_rows
from yolov7_jax.sharding import automatic
from yolov7_jax.targets import with_a_row
from yolov7_jax.types import Assignment, Targets

SMALLEST_CHUNK = 256  # candidates of a level in a pass: the [m, chunk] tables stay in the cache
MOST_CHUNKS = 6  # wider ones where there are more candidates than that
IOU_WEIGHT = 3.0  # of the IoU against the class in the cost
IOU_EPSILON = 1e-8  # keeps the cost of boxes that do not touch finite
TINY = 1e-37  # the smallest probability that a logarithm sees; near the smallest float32


def assign_anchor(
    lead: tuple[Float[Array, "b _h _w a f"], ...],
    targets: Targets,
    head: HeadConfig,
    config: LossConfig,
    *,
    reach: float = 0.5,
) -> Assignment:
    """Matches every candidate to the object that proposed it; predictions do not matter.

    The older and cheaper of the two assigners; validation losses use it.

    Args:
      lead: the lead head's logits, one array per level; only the grids' shapes are read.
      targets: the objects.
      head: strides and anchors.
      config: `anchor_threshold` is used.
      reach: see `candidates.propose`.

    Returns:
      `Assignment` with n = levels * 5 * anchors * m.

    Source: YOLOv5's assigner as YOLOv7 (arXiv 2207.02696) keeps it.
    """
    candidates = _propose(lead, with_a_row(targets), head, config, reach)
    batch_shape = candidates.valid.shape
    return Assignment(
        matched=candidates.valid,
        object=jnp.broadcast_to(candidates.object, batch_shape),
        level=jnp.asarray(candidates.level),
        anchor=jnp.asarray(candidates.anchor),
        row=candidates.row,
        column=candidates.column,
    )


def assign_ota(
    lead: tuple[Float[Array, "b _h _w a f"], ...],
    targets: Targets,
    head: HeadConfig,
    config: LossConfig,
    *,
    reach: float = 0.5,
    top_k: int = 10,
) -> Assignment:
    """Gives each object its cheapest candidates, as many as its best IoUs add up to.

    Per image: an object claims the k candidates of least cost (class cost minus 3 log IoU), k the
    truncated sum of its `top_k` largest IoUs and at least 1; a candidate that several objects
    claim goes to the object, of all, that it costs least. Ties go to the lower index.

    Args:
      lead: the lead head's logits, one array per level. No gradient flows through them.
      targets: the objects.
      head: strides and anchors.
      config: `anchor_threshold` and `restrict_to_own_candidates` are used.
      reach: see `candidates.propose`.
      top_k: how many IoUs are summed; also the most that one object can claim.

    Returns:
      `Assignment` with n = top_k * m, or less where there are fewer candidates than top_k: the
      claimed candidates only, in candidate order.

    Raises:
      ValueError: top_k is less than 1.

    Source: OTA (arXiv 2103.14259) as simplified by YOLOX (arXiv 2107.08430) and YOLOv7
    (arXiv 2207.02696).
    """
    if top_k < 1:
        raise ValueError(f"top_k (={top_k}) must be at least 1")
    lead = lax.stop_gradient(tuple(lead))

    def assign(lead, targets):
        candidates = _propose(lead, targets, head, config, reach)
        levels = [
            _columns_of_level(candidates, level, output, head) for level, output in enumerate(lead)
        ]
        totals = _compare(lead, targets, levels, head, config, top_k)
        return _settle(totals, levels, targets)

    return automatic(assign, lead[0], by_batch=True)(lead, with_a_row(targets))


def _propose(lead, targets, head, config, reach) -> Candidates:
    grids = tuple(output.shape[1:3] for output in lead)
    return propose(targets, head, grids, anchor_threshold=config.anchor_threshold, reach=reach)


class _Columns(NamedTuple):
    """The candidates of a level, the valid ones first and in their order; padded to whole chunks.

    Decoded here, outside the loop over chunks: inside it compilers decode again for every object.
    """

    num_valid: Int[Array, "b"]
    prediction: Int[Array, "b n"]  # its index in the flattened level
    row: Int[Array, "b n"]
    column: Int[Array, "b n"]
    anchor: Int[Array, "b n"]
    object: Int[Array, "b n"]
    corners: Float[Array, "b 4 n"]  # predicted, in pixels, x1 y1 x2 y2; empty boxes where padded


def _columns_of_level(candidates: Candidates, level: int, output, head: HeadConfig) -> _Columns:
    num_levels = head.num_levels
    valid, row, column, anchor, rows = (
        jnp.broadcast_to(field, candidates.valid.shape).reshape(
            candidates.valid.shape[0], num_levels, -1
        )[:, level]
        for field in (
            candidates.valid,
            candidates.row,
            candidates.column,
            candidates.anchor,
            candidates.object,
        )
    )  # [b, n]
    size = valid.shape[1]
    padded = -(-size // _chunk_width(size)) * _chunk_width(size)
    place = jnp.where(valid, jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, padded)
    order = jnp.arange(size, dtype=jnp.int32)
    which = jax.vmap(lambda place: jnp.zeros(padded, jnp.int32).at[place].set(order, mode="drop"))(
        place
    )  # [b, padded]: the candidate in each place
    row, column, anchor, rows = (gather_rows(field, which) for field in (row, column, anchor, rows))
    prediction = (row * output.shape[2] + column) * output.shape[3] + anchor
    boxes = decode_boxes(
        gather_rows(flatten(output), prediction)[..., :4].astype(jnp.float32),
        jnp.stack([column, row], axis=-1),
        jnp.array(head.anchors[level], jnp.float32)[anchor],
        head.strides[level],
    )
    num_valid = valid.sum(axis=1, dtype=jnp.int32)
    real = jnp.arange(padded) < num_valid[:, None]
    corners = jnp.where(real[:, None], jnp.swapaxes(cxcywh_to_xyxy(boxes), 1, 2), 0)
    return _Columns(num_valid, prediction, row, column, anchor, rows, corners)


def _chunk_width(size: int) -> int:
    return min(size, max(SMALLEST_CHUNK, -(-size // MOST_CHUNKS)))


class _Totals(NamedTuple):
    """What the comparison of all objects with the candidates so far comes to."""

    largest_iou: Float[Array, "b m k"]
    least_cost: Float[Array, "b m k"]
    cheapest: Int[Array, "b m k"]  # the places of those costs
    owner: Int[Array, "b n"]  # per candidate, the object of least cost


def _compare(lead, targets, levels: list[_Columns], head, config, top_k) -> _Totals:
    batch, num_objects = targets.valid.shape
    num_places = sum(columns.row.shape[1] for columns in levels)
    kept = min(top_k, num_places)
    objects_xyxy = _objects_in_pixels(targets, lead[0].shape, head.strides[0])
    # Made from the data, so that under shard_map they vary over the devices as the results do.
    varying = levels[0].num_valid[:, None, None] * 0
    totals = _Totals(
        largest_iou=jnp.zeros((batch, num_objects, kept)) + varying,
        least_cost=jnp.full((batch, num_objects, kept), jnp.inf) + varying,
        cheapest=jnp.zeros((batch, num_objects, kept), jnp.int32) + varying,
        owner=jnp.zeros((batch, num_places), jnp.int32) + varying[..., 0],
    )
    first_place = 0
    for columns, output in zip(levels, lead, strict=True):
        width = _chunk_width(columns.row.shape[1])

        def step(chunk, totals, columns=columns, output=output, first=first_place, width=width):
            start = chunk * width
            part = _Columns(
                columns.num_valid - start,
                *(lax.dynamic_slice_in_dim(field, start, width, axis=-1) for field in columns[1:]),
            )
            iou, cost = _iou_and_cost(part, output, objects_xyxy, targets, config)
            return _merge(totals, iou, cost, first + start)

        num_chunks = -(-jnp.max(columns.num_valid) // width)
        totals = lax.fori_loop(0, num_chunks, step, totals)
        first_place += columns.row.shape[1]
    return totals


def _merge(totals: _Totals, iou, cost, start) -> _Totals:
    """Adds a chunk whose first candidate has the place `start`."""
    kept = totals.cheapest.shape[-1]
    largest_iou = jnp.concatenate([totals.largest_iou, _largest(iou, kept)], axis=-1)
    largest_iou = lax.top_k(largest_iou, kept)[0]
    # Earlier chunks stand first, so that equal costs still go to the lower place.
    least_cost, position = lax.top_k(-jnp.concatenate([totals.least_cost, cost], -1), kept)
    earlier = jnp.take_along_axis(totals.cheapest, jnp.minimum(position, kept - 1), axis=-1)
    cheapest = jnp.where(position < kept, earlier, start + position - kept)
    owner = lax.dynamic_update_slice_in_dim(totals.owner, _cheapest_row(cost), start, axis=1)
    return _Totals(largest_iou, -least_cost, cheapest, owner)


def _largest(values, kept):
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


def _cheapest_row(cost):
    """Returns argmin over axis 1, lower rows first, in two passes of min.

    On CPU an argmin is a scalar loop, ten times slower. A result that is out of range would mean
    that a compiler rounded the cost differently in the two passes; see `_settle`.
    """
    rows = jnp.arange(cost.shape[1], dtype=jnp.int32)[:, None]
    least = cost.min(axis=1, keepdims=True)
    return jnp.where(cost <= least, rows, cost.shape[1]).min(axis=1)


def _objects_in_pixels(targets, finest_shape, finest_stride):
    height, width = (side * finest_stride for side in finest_shape[1:3])
    size = jnp.array([width, height, width, height], jnp.float32)
    # Padding becomes an empty box: whatever it held, nothing that is not finite goes on.
    boxes = jnp.where(targets.valid[..., None], targets.boxes.astype(jnp.float32), 0)
    return cxcywh_to_xyxy(boxes * size)


def _iou_and_cost(part: _Columns, output, objects_xyxy, targets, config):
    """Returns the IoU and the cost of each object (rows) with each candidate of a chunk."""
    logits = gather_rows(flatten(output), part.prediction).astype(jnp.float32)  # [b, n, f]
    iou = pairwise_iou(objects_xyxy, jnp.swapaxes(part.corners, 1, 2))  # [b, m, n]
    # Added rather than selected: what is added has m or n elements, not m times n.
    real = jnp.arange(part.row.shape[1]) < part.num_valid[:, None]
    unreal = jnp.where(real, 0, jnp.inf)[:, None] + jnp.where(targets.valid, 0, jnp.inf)[..., None]
    cost = _class_cost(logits, targets.labels) - IOU_WEIGHT * jnp.log(iou + IOU_EPSILON) + unreal
    if config.restrict_to_own_candidates:
        rows = jnp.arange(targets.valid.shape[1])
        cost = jnp.where(part.object[:, None] == rows[:, None], cost, jnp.inf)
    return iou, cost


def _class_cost(logits, labels):
    """Returns the class part of the cost, `[b, m, n]`, without an array over m, n and classes.

    The sum over classes of BCE(y, [class == label]), y = sqrt(class x objectness), is a sum that
    depends on the candidate alone plus a correction for the one class that is the label.
    """
    classes, objectness = logits[..., 5:], logits[..., 4:5]  # [b, n, c], [b, n, 1]
    # One exponential and one division give both sigmoids, of the logit and of its negative.
    decay = jnp.exp(-jnp.abs(classes))
    larger = 1 / (1 + decay)
    p_class = jnp.where(classes >= 0, larger, decay * larger)
    not_class = jnp.where(classes >= 0, decay * larger, larger)
    both = p_class * jax.nn.sigmoid(objectness)
    # 1 - p without cancellation; and 1 - sqrt(p) = (1 - p) / (1 + sqrt(p)).
    not_both = not_class + p_class * jax.nn.sigmoid(-objectness)
    log_not = jnp.log(jnp.maximum(not_both, TINY) / (1 + jnp.sqrt(both)))
    log_class = jnp.minimum(classes, 0) - jnp.log1p(decay)
    log_yes = (log_class + jax.nn.log_sigmoid(objectness)) / 2
    # Products with zeros and ones pick and sum exactly. A gather and a plain sum do the same, but
    # compilers fuse them with the logarithms and compute these again for every object.
    dot = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    is_label = jax.nn.one_hot(labels, classes.shape[-1])  # [b, m, c]
    correction = dot("bmc,bnc->bmn", is_label, log_not - log_yes)
    return correction - dot("bnc,c->bn", log_not, jnp.ones(classes.shape[-1]))[:, None]


def _settle(totals: _Totals, levels: list[_Columns], targets: Targets) -> Assignment:
    """Turns claims into matches: one per candidate, in candidate order."""
    batch, num_objects, kept = totals.cheapest.shape
    num_places = totals.owner.shape[1]
    count = jnp.maximum(jnp.trunc(totals.largest_iou.sum(axis=-1)), 1)  # [b, m]
    claimed = (jnp.arange(kept) < count[..., None]) & (totals.least_cost < jnp.inf)
    place = jnp.where(claimed, totals.cheapest, num_places).reshape(batch, -1)
    claimant = jnp.repeat(jnp.arange(num_objects, dtype=jnp.int32), kept)
    place, claimant = lax.sort(
        (place, jnp.broadcast_to(claimant, place.shape)), dimension=1, num_keys=1
    )
    before = jnp.pad(place, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    after = jnp.pad(place, ((0, 0), (0, 1)), constant_values=num_places)[:, 1:]

    def take(fields):
        # Unused claims stand last and read the last place, which is in range.
        return jnp.take_along_axis(fields, jnp.minimum(place, num_places - 1), axis=1)

    def take_column(name):
        return take(jnp.concatenate([getattr(columns, name) for columns in levels], axis=1))

    level_of_place = np.repeat(
        np.arange(len(levels), dtype=np.int32), [columns.row.shape[1] for columns in levels]
    )
    owner = take(totals.owner)
    contested = (place == after) & (owner < num_objects)
    return Assignment(
        matched=(place < num_places) & (place != before),
        object=jnp.where(contested, owner, claimant),
        level=jnp.asarray(level_of_place)[jnp.minimum(place, num_places - 1)],
        anchor=take_column("anchor"),
        row=take_column("row"),
        column=take_column("column"),
    )
