"""OTA as one would write it first: one dense table of all objects by all candidates.

The oracle of `yolov7_jax.assign_ota` at sizes where a slow one takes too long, and the version
that benchmarks/loss.py measures it against. Takes the same arguments and finds the same matches.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from yolov7_jax.assign import assign_anchor
from yolov7_jax.boxes import cxcywh_to_xyxy, pairwise_iou
from yolov7_jax.decode import decode_boxes
from yolov7_jax.types import Assignment


def assign_ota(lead, targets, head, config, *, center_radius=0.5, top_k=10) -> Assignment:
    """See `yolov7_jax.assign_ota`; n = levels * 5 * anchors * m here."""
    lead = lax.stop_gradient(lead)
    candidates = assign_anchor(lead, targets, head, config, center_radius=center_radius)
    batch, size = candidates.matched.shape
    num_objects = targets.valid.shape[1]

    images = np.arange(batch)[:, None]
    per_level = size // head.num_levels
    logits, boxes = [], []
    for this, (output, stride) in enumerate(zip(lead, head.strides, strict=True)):
        here = slice(this * per_level, (this + 1) * per_level)
        row, column = candidates.row[:, here], candidates.column[:, here]
        anchor = candidates.anchor[:, here]
        found = output[images, row, column, anchor].astype(jnp.float32)
        anchors = jnp.array(head.anchors[this], jnp.float32)[anchor]
        cells = jnp.stack([column, row], axis=-1)
        logits.append(found)
        boxes.append(decode_boxes(found[..., :4], cells, anchors, stride))
    logits, boxes = jnp.concatenate(logits, axis=1), jnp.concatenate(boxes, axis=1)

    height, width = (side * head.strides[0] for side in lead[0].shape[1:3])
    objects = targets.boxes * jnp.array([width, height, width, height], jnp.float32)
    iou = pairwise_iou(cxcywh_to_xyxy(objects), cxcywh_to_xyxy(boxes))  # [b, m, n]

    p_class, p_object = jax.nn.sigmoid(logits[..., 5:]), jax.nn.sigmoid(logits[..., 4:5])
    not_both = jax.nn.sigmoid(-logits[..., 5:]) + p_class * jax.nn.sigmoid(-logits[..., 4:5])
    log_1mp = jnp.log(jnp.maximum(not_both, 1e-37)) - jnp.log1p(jnp.sqrt(p_class * p_object))
    log_p = (jax.nn.log_sigmoid(logits[..., 5:]) + jax.nn.log_sigmoid(logits[..., 4:5])) / 2
    by_label = jax.vmap(lambda table, labels: table[:, labels].T)(log_1mp - log_p, targets.labels)
    cost = by_label - log_1mp.sum(axis=-1)[:, None] - 3 * jnp.log(iou + 1e-8)
    allowed = candidates.matched[:, None] & targets.valid[..., None]
    if config.restrict_to_own_candidates:
        allowed &= candidates.object[:, None] == jnp.arange(num_objects)[:, None]
    iou = jnp.where(candidates.matched[:, None], iou, 0)
    cost = jnp.where(allowed, cost, jnp.inf)

    kept = min(top_k, size)
    k = jnp.maximum(jnp.trunc(lax.top_k(iou, kept)[0].sum(axis=-1)), 1)
    negative, which = lax.top_k(-cost, kept)
    claimed = (jnp.arange(kept) < k[..., None]) & (negative > -jnp.inf)  # [b, m, k]
    rows = jnp.arange(num_objects)[:, None]
    claims = (
        jnp.zeros(cost.shape, bool).at[images[..., None], rows, which].max(claimed)
    )  # [b, m, n]
    claimants = claims.sum(axis=1)
    assigned = jnp.where(claimants > 1, cost.argmin(axis=1), claims.argmax(axis=1))
    return candidates._replace(matched=claimants > 0, object=assigned)
