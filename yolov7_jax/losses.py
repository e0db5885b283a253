"""The detection loss: box, objectness and class terms of matched candidates."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from yolov7_jax import boxes
from yolov7_jax.assign import CENTER_RADIUS, TOP_K, Assigner, assign_ota
from yolov7_jax.candidates import grid_size
from yolov7_jax.config import HeadConfig, LossConfig
from yolov7_jax.cost_matrix import TINY
from yolov7_jax.decode import check_levels, decode_boxes
from yolov7_jax.errors import UserError
from yolov7_jax.gather import MatchedPredictions, flat_index, objectness_and_terms
from yolov7_jax.sharding import automatic, varying_like
from yolov7_jax.targets import with_a_row
from yolov7_jax.types import Assignment, Levels, LossTerms, Outputs, Targets

AUXILIARY_WEIGHT = 0.25
AUXILIARY_CENTER_RADIUS = 1.0
AUXILIARY_TOP_K = 20  # for the lead's assignment too, where there are auxiliary heads
FOCAL_ALPHA = 0.25
BALANCES = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06)}  # by number of levels
BALANCE_DECAY = 0.9999
SMALLEST_OBJ = 1e-20  # a loss that underflowed to 0 must not end the balance in NaN
BALANCE_STRIDE = 16  # the level whose balance stays 1

Axis = str | tuple[str, ...] | None


def detection_loss(
    outputs: Outputs,
    targets: Targets,
    head: HeadConfig,
    config: LossConfig,
    *,
    assigner: Assigner = assign_ota,
    balance: Float[Array, " l"] | Sequence[float] | None = None,
    axis_name: Axis = None,
) -> tuple[Float[Array, ""], LossTerms]:
    """The loss of a batch: box + objectness + class, times the number of images.

    Means are over the whole batch: over its matched candidates, or its cells for objectness. So
    they are the same on any number of devices: under `jax.jit` with a sharded batch by
    themselves, under `jax.pmap` and `jax.shard_map` with `axis_name`.

    Args:
      outputs: logits of the lead head and, where there are any, of the auxiliary heads. Any float
        dtype; arithmetic is in float32.
      targets: the objects, padded.
      head: strides and anchors.
      config: gains and thresholds.
      assigner: `assign_ota`, `assign_anchor`, or any function that is called like them; see
        `assign.Assigner`. It is told `center_radius` and `top_k`: 10, or 20 where there are
        auxiliary heads, as YOLOv7 has them. For other values wrap one in a function of your own.
      balance: weights of the levels' objectness; by default (4, 1, 0.4) for 3 levels and
        (4, 1, 0.25, 0.06) for 4. See `update_balance`.
      axis_name: the mapped axis, or axes, that the batch is spread over. Differentiate inside the
        mapped function; the gradients of parameters are then to be summed over the axis (under
        `jax.shard_map` with its replication checks on, that sum comes by itself).

    Returns:
      The total, and its terms; the same on every device.

    Raises:
      ValueError: shapes or dtypes that do not fit the head or each other; a balance of another
        length, or none where the number of levels has no default.

    Reverse-mode differentiation only, with respect to the outputs; the targets get no gradient.

    Source: YOLOv7 (arXiv 2207.02696).
    """
    outputs = Outputs(tuple(outputs.lead), tuple(outputs.auxiliary))
    _check(outputs, targets, head)
    targets = with_a_row(targets)

    def total_and_terms(outputs, targets, balance):
        return _total_and_terms(outputs, targets, balance, head, config, assigner, axis_name)

    run = automatic(total_and_terms, outputs.lead[0], by_batch=False)
    return run(outputs, targets, _checked_balance(balance, head))


def _total_and_terms(
    outputs: Outputs,
    targets: Targets,
    balance: Float[Array, " l"],
    head: HeadConfig,
    config: LossConfig,
    assigner: Assigner,
    axis_name: Axis,
) -> tuple[Float[Array, ""], LossTerms]:
    assign = functools.partial(
        assigner,
        outputs.lead,
        targets,
        head,
        config,
        top_k=AUXILIARY_TOP_K if outputs.auxiliary else TOP_K,
    )
    assignment = assign(center_radius=CENTER_RADIUS)
    terms = _head_terms(outputs.lead, assignment, targets, head, config, axis_name)
    weighted = _weigh(terms, balance, config)
    if outputs.auxiliary:
        # The lead's predictions decide for the auxiliary heads too, more generously.
        coarse_assignment = assign(center_radius=AUXILIARY_CENTER_RADIUS)
        auxiliary = _head_terms(
            outputs.auxiliary, coarse_assignment, targets, head, config, axis_name
        )
        weighted += AUXILIARY_WEIGHT * _weigh(auxiliary, balance, config)

    num_images = targets.valid.shape[0] * _axis_size(axis_name)
    box, obj, cls = weighted
    return weighted.sum() * num_images, LossTerms(box, obj, cls, terms.obj, terms.num_matched)


def update_balance(
    balance: Float[Array, " l"] | Sequence[float],
    obj_per_level: Float[Array, " l"],
    head: HeadConfig,
) -> Float[Array, " l"]:
    """Autobalance: moves each level's objectness weight towards the inverse of its loss.

    Args:
      balance: the current weights.
      obj_per_level: `LossTerms.obj_per_level` of the call that used them.
      head: its strides say which level keeps weight 1: that of stride 16.

    Returns:
      The weights for the next call.

    Raises:
      ValueError: no level has stride 16.

    Source: YOLOv5's autobalance as YOLOv7 keeps it.
    """
    if BALANCE_STRIDE not in head.strides:
        raise UserError(f"autobalance needs a level of stride {BALANCE_STRIDE}; got {head.strides}")
    balance = jnp.asarray(balance, jnp.float32)
    inverse = 1 / jnp.maximum(obj_per_level, SMALLEST_OBJ)
    balance = BALANCE_DECAY * balance + (1 - BALANCE_DECAY) * inverse
    return balance / balance[head.strides.index(BALANCE_STRIDE)]


class HeadTerms(NamedTuple):
    """Means per level of one head, before gains and balance."""

    box: Float[Array, " l"]
    obj: Float[Array, " l"]
    cls: Float[Array, " l"]
    num_matched: Int[Array, " l"]


def _weigh(terms: HeadTerms, balance: Float[Array, " l"], config: LossConfig) -> Float[Array, "3"]:
    """Returns the box, objectness and class term of a head."""
    return jnp.stack(
        [
            config.box_gain * terms.box.sum(),
            config.obj_gain * (balance * terms.obj).sum(),
            config.cls_gain * terms.cls.sum(),
        ]
    )


def _head_terms(
    levels: Levels,
    assignment: Assignment,
    targets: Targets,
    head: HeadConfig,
    config: LossConfig,
    axis_name: Axis,
) -> HeadTerms:
    matched, level = assignment.matched, assignment.level
    index = flat_index(assignment.row, assignment.column, assignment.anchor, level, levels)
    found: Any = objectness_and_terms(
        functools.partial(_candidate_terms, config=config),
        levels,
        MatchedPredictions(matched, level, index),
        _matched_objects(assignment, levels, targets, head),
    )
    objectness, (ciou, cls_sums) = found
    target_if_matched = 1 - config.iou_ratio * (1 - jnp.maximum(lax.stop_gradient(ciou), 0))
    objectness_targets = _last_written(target_if_matched, matched, level, index, objectness)

    on_level = matched[..., None] & (level[..., None] == jnp.arange(head.num_levels))  # [b, n, l]
    num_matched = _global_sum(on_level.sum(axis=(0, 1), dtype=jnp.int32), axis_name)

    def mean_per_level(values, values_per_candidate):
        total = jnp.where(on_level, values[..., None], 0).sum(axis=(0, 1)) / values_per_candidate
        return _global_sum(total, axis_name) / jnp.maximum(num_matched, 1)

    num_images = targets.valid.shape[0] * _axis_size(axis_name)
    obj = []
    for logits, wanted in zip(objectness, objectness_targets, strict=True):
        logits = logits.astype(jnp.float32)
        bce = _bce(logits, wanted, config.obj_pos_weight, config.focal_gamma)
        obj.append(bce.sum() / (num_images * logits.shape[1]))
    return HeadTerms(
        mean_per_level(1 - ciou, 1),
        _global_sum(jnp.stack(obj), axis_name),
        mean_per_level(cls_sums, head.num_classes),
        num_matched,
    )


class MatchedObjects(NamedTuple):
    """What each candidate is to predict, and with which anchor."""

    boxes_cxcywh: Float[Array, "b n 4"]  # in grid units relative to the candidate's cell
    anchors: Float[Array, "b n 2"]  # in grid units
    labels: Int[Array, "b n"]


def _matched_objects(
    assignment: Assignment, levels: Levels, targets: Targets, head: HeadConfig
) -> MatchedObjects:
    matched, level = assignment.matched, assignment.level
    sizes = jnp.array([grid_size(output.shape[1:3]) for output in levels])[level]  # [b, n, 4]
    strides = jnp.array(head.strides, jnp.float32)[level][..., None]
    rows = jnp.where(matched, assignment.object, 0)
    wanted = jnp.take_along_axis(targets.boxes.astype(jnp.float32), rows[..., None], axis=1)
    cells = jnp.stack([assignment.column, assignment.row], axis=-1)
    wanted = wanted * sizes - jnp.pad(cells, ((0, 0), (0, 0), (0, 2)))
    return MatchedObjects(
        jnp.where(matched[..., None], wanted, 1),
        jnp.array(head.anchors, jnp.float32)[level, assignment.anchor] / strides,
        jnp.take_along_axis(targets.labels, rows, axis=1),
    )


def _candidate_terms(
    box_logits: Float[Array, "b k 4"],
    class_logits: Float[Array, "b k c"],
    matched: Bool[Array, "b k"],
    objects: MatchedObjects,
    config: LossConfig,
) -> tuple[Float[Array, "b k"], Float[Array, "b k"]]:
    """Returns each candidate's CIoU with its object, and its class BCE summed over classes."""
    predicted = decode_boxes(box_logits, 0.0, objects.anchors, 1.0)
    ciou = jnp.where(matched, boxes.ciou(predicted, objects.boxes_cxcywh), 0)
    num_classes = class_logits.shape[-1]
    if num_classes == 1:
        return ciou, jnp.zeros_like(ciou)
    smooth = config.label_smoothing / 2
    is_label = objects.labels[..., None] == jnp.arange(num_classes)  # [b, k, c]
    targets = jnp.where(is_label, 1 - smooth, smooth)
    bce = _bce(class_logits, targets, config.cls_pos_weight, config.focal_gamma)
    return ciou, jnp.where(matched, bce.sum(axis=-1), 0)


def _last_written(
    values: Float[Array, "b n"],
    matched: Bool[Array, "b n"],
    level: Int[Array, "b n"],
    index: Int[Array, "b n"],
    objectness: tuple[Float[Array, "b _p"], ...],
) -> list[Float[Array, "b _p"]]:
    """Writes values into dense arrays like `objectness`; of repeated cells the last one stays.

    By the largest position rather than by overwriting, whose order accelerators leave open.
    """
    num = matched.shape[1]
    sizes = [logit.shape[1] for logit in objectness]
    offsets = jnp.array(np.cumsum([0, *sizes[:-1]]), jnp.int32)
    place = jnp.where(matched, offsets[level] + index, sum(sizes))
    position = jnp.arange(num, dtype=jnp.int32)
    written = jax.vmap(
        lambda place: jnp.full(sum(sizes), -1, jnp.int32).at[place].max(position, mode="drop")
    )(place)  # [b, cells of all levels]
    found = jnp.take_along_axis(values, jnp.maximum(written, 0), axis=1)
    dense = jnp.where(written >= 0, found, 0)
    return jnp.split(dense, np.cumsum(sizes)[:-1], axis=1)


def _bce(
    logits: Float[Array, "*n"], targets: Float[Array, "*n"], pos_weight: float, gamma: float
) -> Float[Array, "*n"]:
    """Binary cross-entropy with logits, elementwise; focal where gamma > 0."""
    loss = (1 - targets) * logits + (1 + (pos_weight - 1) * targets) * jax.nn.softplus(-logits)
    if gamma > 0:
        balance = targets * FOCAL_ALPHA + (1 - targets) * (1 - FOCAL_ALPHA)
        # 1 - p_t from both sigmoids: no cancellation, and no infinite slope at zero.
        miss = targets * jax.nn.sigmoid(-logits) + (1 - targets) * jax.nn.sigmoid(logits)
        loss = loss * balance * jnp.maximum(miss, TINY) ** gamma
    return loss


def _global_sum(x: Shaped[Array, "*n"], axis_name: Axis) -> Shaped[Array, "*n"]:
    """Sum over the mapped axis whose gradient is that of this device's part."""
    if axis_name is None:
        return x
    if jnp.issubdtype(x.dtype, jnp.integer):
        return lax.psum(x, axis_name)
    # Under pmap the gradient of psum is psum again: the sum over all devices' copies of one loss,
    # `copies` times too large. Under shard_map it is 1, unless its checks are off.
    constant = lax.stop_gradient(x)
    ones = varying_like(jnp.ones_like(x), constant)
    copies = jax.grad(lambda one: lax.psum(one, axis_name).sum())(ones)
    return lax.psum(constant + (x - constant) / copies, axis_name)


def _axis_size(axis_name: Axis) -> int:
    return 1 if axis_name is None else lax.axis_size(axis_name)


def _checked_balance(
    balance: Float[Array, " l"] | Sequence[float] | None, head: HeadConfig
) -> Float[Array, " l"]:
    if balance is None:
        if head.num_levels not in BALANCES:
            raise ValueError(
                f"balance has no default for {head.num_levels} levels; only for {list(BALANCES)}"
            )
        balance = BALANCES[head.num_levels]
    balance = jnp.asarray(balance, jnp.float32)
    if balance.shape != (head.num_levels,):
        raise ValueError(
            f"balance has shape {balance.shape}; one weight for each of {head.num_levels} levels "
            "was wanted"
        )
    return balance


def _check(outputs: Outputs, targets: Targets, head: HeadConfig) -> None:
    check_levels(outputs.lead, head, "outputs.lead")
    if outputs.auxiliary:
        check_levels(outputs.auxiliary, head, "outputs.auxiliary")
        if outputs.auxiliary[0].shape[:3] != outputs.lead[0].shape[:3]:
            raise ValueError(
                f"outputs.auxiliary[0] has shape {outputs.auxiliary[0].shape}; that of "
                f"outputs.lead[0], {outputs.lead[0].shape}, was wanted"
            )
    batch = outputs.lead[0].shape[0]
    shapes = tuple(field.shape for field in targets)
    num_objects = targets.valid.shape[-1:]
    wanted = ((batch, *num_objects, 4), (batch, *num_objects), (batch, *num_objects))
    if shapes != wanted:
        raise ValueError(
            f"targets (boxes, labels, valid) have shapes {shapes}; {wanted} was wanted"
        )
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    if not all(jnp.issubdtype(f.dtype, kind) for f, kind in zip(targets, kinds, strict=True)):
        dtypes = tuple(str(field.dtype) for field in targets)
        raise ValueError(
            f"targets (boxes, labels, valid) have dtypes {dtypes}; "
            "floats, integers and booleans were wanted"
        )
