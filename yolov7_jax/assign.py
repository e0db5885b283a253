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
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from yolov7_jax.boxes import cxcywh_to_xyxy, pairwise_iou
from yolov7_jax.candidates import Candidates, propose
from yolov7_jax.config import HeadConfig, LossConfig
from yolov7_jax.decode import decode_boxes
from yolov7_jax.gather import flat_index, gather_predictions
from yolov7_jax.targets import with_a_row
from yolov7_jax.types import Assignment, Targets

CHUNK = 512  # candidates in a pass: an [m, CHUNK] table stays in a core's cache
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
      `Assignment` with n = min(top_k * m, levels * 5 * anchors * m): the claimed candidates only,
      in candidate order.

    Source: OTA (arXiv 2103.14259) as simplified by YOLOX (arXiv 2107.08430) and YOLOv7
    (arXiv 2207.02696).
    """
    lead, targets = lax.stop_gradient(lead), with_a_row(targets)
    candidates = _propose(lead, targets, head, config, reach)
    columns = _valid_first(candidates)
    totals = _compare(lead, targets, columns, head, config, top_k)
    return _settle(totals, columns, targets)


def _propose(lead, targets, head, config, reach) -> Candidates:
    grids = tuple(output.shape[1:3] for output in lead)
    return propose(
        targets, head, grids, anchor_threshold=config.anchor_threshold, reach=reach
    )


class _Columns(NamedTuple):
    """The candidates with the valid ones first, still in their order; padded to whole chunks."""

    count: Int[Array, "b"]
    row: Int[Array, "b n"]
    column: Int[Array, "b n"]
    level: Int[Array, "b n"]
    anchor: Int[Array, "b n"]
    object: Int[Array, "b n"]


def _valid_first(candidates: Candidates) -> _Columns:
    valid = candidates.valid
    batch, size = valid.shape
    padded = -(-size // CHUNK) * CHUNK if size > CHUNK else size
    place = jnp.where(valid, jnp.cumsum(valid, axis=1) - 1, padded)
    which = jax.vmap(
        lambda place: jnp.zeros(padded, jnp.int32).at[place].set(jnp.arange(size), mode="drop")
    )(place)  # [b, padded]: the candidate in each place

    def take(field):
        field = jnp.broadcast_to(field, valid.shape)
        return jnp.take_along_axis(field, which, axis=1)

    return _Columns(
        valid.sum(axis=1, dtype=jnp.int32),
        take(candidates.row),
        take(candidates.column),
        take(candidates.level),
        take(candidates.anchor),
        take(candidates.object),
    )


class _Totals(NamedTuple):
    """What the comparison of all objects with all candidates comes to."""

    largest_iou: Float[Array, "b m k"]
    least_cost: Float[Array, "b m k"]
    cheapest: Int[Array, "b m k"]  # the places of those costs
    owner: Int[Array, "b n"]  # per candidate, the object of least cost


def _compare(lead, targets, columns, head, config, top_k) -> _Totals:
    batch, num_places = columns.row.shape
    num_objects = targets.valid.shape[1]
    width = min(CHUNK, num_places)
    kept = min(top_k, num_places)
    objects_xyxy = _objects_in_pixels(targets, lead[0].shape, head.strides[0])

    def step(chunk, totals):
        start = chunk * width
        part = _Columns(
            columns.count - start,
            *(lax.dynamic_slice_in_dim(field, start, width, axis=1) for field in columns[1:]),
        )
        iou, cost = _iou_and_cost(part, lead, objects_xyxy, targets, head, config)
        largest_iou = lax.top_k(jnp.concatenate([totals.largest_iou, iou], axis=-1), kept)[0]
        # Earlier chunks stand first, so that equal costs still go to the lower place.
        least_cost, position = lax.top_k(-jnp.concatenate([totals.least_cost, cost], -1), kept)
        earlier = jnp.take_along_axis(totals.cheapest, jnp.minimum(position, kept - 1), axis=-1)
        cheapest = jnp.where(position < kept, earlier, start + position - kept)
        owner = lax.dynamic_update_slice_in_dim(
            totals.owner, _argmin_over_rows(cost), start, axis=1
        )
        return _Totals(largest_iou, -least_cost, cheapest, owner)

    # Made from the data, so that under shard_map they vary over the devices as the results do.
    varying = columns.count[:, None, None] * 0
    start = _Totals(
        largest_iou=jnp.zeros((batch, num_objects, kept)) + varying,
        least_cost=jnp.full((batch, num_objects, kept), jnp.inf) + varying,
        cheapest=jnp.zeros((batch, num_objects, kept), jnp.int32) + varying,
        owner=jnp.zeros((batch, num_places), jnp.int32) + varying[..., 0],
    )
    num_chunks = -(-jnp.max(columns.count) // width)
    return lax.fori_loop(0, num_chunks, step, start)


def _objects_in_pixels(targets, finest_shape, finest_stride):
    height, width = (side * finest_stride for side in finest_shape[1:3])
    size = jnp.array([width, height, width, height], jnp.float32)
    return cxcywh_to_xyxy(targets.boxes.astype(jnp.float32) * size)


def _iou_and_cost(part, lead, objects_xyxy, targets, head, config):
    """Returns the IoU and the cost of each object (rows) with each candidate of a chunk."""
    batch, width = part.row.shape
    index = flat_index(part.row, part.column, part.anchor, part.level, lead)
    logits = gather_predictions(lead, part.level, index).astype(jnp.float32)  # [b, n, f]

    anchors = jnp.array(head.anchors, jnp.float32)[part.level, part.anchor]  # [b, n, 2]
    strides = jnp.array(head.strides, jnp.float32)[part.level][..., None]  # [b, n, 1]
    cells = jnp.stack([part.column, part.row], axis=-1)
    predicted_xyxy = cxcywh_to_xyxy(decode_boxes(logits[..., :4], cells, anchors, strides))
    real = jnp.arange(width) < part.count[:, None]  # [b, n]
    iou = pairwise_iou(objects_xyxy, predicted_xyxy)  # [b, m, n]

    cost = _class_cost(logits, targets.labels) - IOU_WEIGHT * jnp.log(iou + IOU_EPSILON)
    allowed = real[:, None] & targets.valid[..., None]
    if config.restrict_to_own_candidates:
        rows = jnp.arange(targets.valid.shape[1])
        allowed &= part.object[:, None] == rows[:, None]
    iou = jnp.where(real[:, None], iou, 0)
    cost = jnp.where(allowed, cost, jnp.inf)
    # One table for all that reads it: computed twice, it could round twice.
    return lax.optimization_barrier((iou, cost))


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


def _argmin_over_rows(cost):
    """Returns argmin over axis 1, lower rows first.

    Rounds of elementwise comparisons, each row against its neighbour: on CPU a plain argmin
    becomes a scalar loop, ten times slower. (Two passes of min would be as fast, but may round
    the fused cost in two ways and then find no row.)
    """
    winner = jnp.broadcast_to(jnp.arange(cost.shape[1], dtype=jnp.int32)[:, None], cost.shape)
    while (num_rows := cost.shape[1]) > 1:
        even = ((0, 0), (0, num_rows % 2), (0, 0))
        cost, winner = jnp.pad(cost, even, constant_values=jnp.inf), jnp.pad(winner, even)
        low, high = cost[:, 0::2], cost[:, 1::2]
        winner = jnp.where(low <= high, winner[:, 0::2], winner[:, 1::2])
        cost = jnp.minimum(low, high)
    return winner[:, 0]


def _settle(totals: _Totals, columns: _Columns, targets: Targets) -> Assignment:
    """Turns claims into matches: one per candidate, in candidate order."""
    batch, num_objects, kept = totals.cheapest.shape
    num_places = columns.row.shape[1]
    count = jnp.maximum(jnp.trunc(totals.largest_iou.sum(axis=-1)), 1)  # [b, m]
    claimed = (jnp.arange(kept) < count[..., None]) & (totals.least_cost < jnp.inf)
    place = jnp.where(claimed, totals.cheapest, num_places).reshape(batch, -1)
    claimant = jnp.repeat(jnp.arange(num_objects, dtype=jnp.int32), kept)
    place, claimant = lax.sort(
        (place, jnp.broadcast_to(claimant, place.shape)), dimension=1, num_keys=1
    )
    before = jnp.pad(place, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    after = jnp.pad(place, ((0, 0), (0, 1)), constant_values=num_places)[:, 1:]

    def take(field):
        # Unused claims stand last and read the last place, which is in range.
        return jnp.take_along_axis(field, jnp.minimum(place, num_places - 1), axis=1)

    return Assignment(
        matched=(place < num_places) & (place != before),
        object=jnp.where(place == after, take(totals.owner), claimant),
        level=take(columns.level),
        anchor=take(columns.anchor),
        row=take(columns.row),
        column=take(columns.column),
    )
