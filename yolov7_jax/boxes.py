"""Boxes: conversions between formats, IoU and CIoU. Pure, elementwise over leading axes."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

SMALLEST_AREA = 1e-30  # makes 0 / 0 a 0
CIOU_EPSILON = 1e-7  # part of the definition, not a safeguard alone: it shifts values near zero


def cxcywh_to_xyxy(boxes_cxcywh: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Centre and size to corners, in the same unit."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return jnp.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def xyxy_to_cxcywh(boxes_xyxy: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Corners to centre and size, in the same unit."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def pairwise_iou(
    a_xyxy: Float[Array, "*b n 4"], b_xyxy: Float[Array, "*b m 4"]
) -> Float[Array, "*b n m"]:
    """IoU of every box of `a` with every box of `b`; two boxes without area have IoU 0.

    No epsilon in the union: the assigner compares IoUs, and an epsilon would order small boxes
    by their size.
    """
    a_x1, a_y1, a_x2, a_y2 = (a_xyxy[..., :, None, i] for i in range(4))  # [*b, n, 1]
    b_x1, b_y1, b_x2, b_y2 = (b_xyxy[..., None, :, i] for i in range(4))  # [*b, 1, m]
    width = jnp.maximum(jnp.minimum(a_x2, b_x2) - jnp.maximum(a_x1, b_x1), 0)
    height = jnp.maximum(jnp.minimum(a_y2, b_y2) - jnp.maximum(a_y1, b_y1), 0)
    intersection = width * height  # [*b, n, m]
    a_area = (a_x2 - a_x1) * (a_y2 - a_y1)
    b_area = (b_x2 - b_x1) * (b_y2 - b_y1)
    union = a_area + b_area - intersection
    return intersection / jnp.maximum(union, SMALLEST_AREA)


def ciou(
    predicted_cxcywh: Float[Array, "*n 4"], true_cxcywh: Float[Array, "*n 4"]
) -> Float[Array, "*n"]:
    """Complete IoU of matched boxes: overlap, centre distance and aspect ratio.

    Args:
      predicted_cxcywh: gradients flow through these; sizes at least 0.
      true_cxcywh: the objects, in the same unit.

    Returns:
      CIoU, at most 1; its gradient is finite for boxes of no area too.

    Source: Zheng et al. (arXiv 1911.08287), with the epsilons that YOLOv7 uses.
    """
    px, py, pw, ph = (predicted_cxcywh[..., i] for i in range(4))
    tx, ty, tw, th = (true_cxcywh[..., i] for i in range(4))
    p_left, p_right, p_top, p_bottom = px - pw / 2, px + pw / 2, py - ph / 2, py + ph / 2
    t_left, t_right, t_top, t_bottom = tx - tw / 2, tx + tw / 2, ty - th / 2, ty + th / 2

    width = jnp.maximum(jnp.minimum(p_right, t_right) - jnp.maximum(p_left, t_left), 0)
    height = jnp.maximum(jnp.minimum(p_bottom, t_bottom) - jnp.maximum(p_top, t_top), 0)
    intersection = width * height
    # Heights get the epsilon, as in the reference numbers; areas and angles both see it.
    p_height, t_height = ph + CIOU_EPSILON, th + CIOU_EPSILON
    union = pw * p_height + tw * t_height - intersection + CIOU_EPSILON
    iou = intersection / union

    hull_width = jnp.maximum(p_right, t_right) - jnp.minimum(p_left, t_left)
    hull_height = jnp.maximum(p_bottom, t_bottom) - jnp.minimum(p_top, t_top)
    diagonal2 = hull_width**2 + hull_height**2 + CIOU_EPSILON
    distance2 = (px - tx) ** 2 + (py - ty) ** 2

    # "+ eps" once more: the formula adds it to heights that have it already.
    angle = jnp.arctan(tw / (t_height + CIOU_EPSILON)) - jnp.arctan(pw / (p_height + CIOU_EPSILON))
    v = 4 / jnp.pi**2 * angle**2
    # IoU is at most 1, but its rounding is not: the maximum keeps the denominator positive.
    alpha = lax.stop_gradient(v / (jnp.maximum(v - iou + 1, 0) + CIOU_EPSILON))
    return iou - (distance2 / diagonal2 + v * alpha)
