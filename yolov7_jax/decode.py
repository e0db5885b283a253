"""Raw outputs to boxes and scores."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from yolov7_jax.boxes import cxcywh_to_xyxy
from yolov7_jax.config import HeadConfig
from yolov7_jax.types import AnyArray, Predictions


def decode_boxes(
    logits: Float[Array, "*#n 4"],
    cells: Int[AnyArray, "*#n 2"] | float,
    anchors: Float[AnyArray, "*#n 2"],
    strides: Float[Array, "*#n 1"] | float | int,
) -> Float[Array, "*#n 4"]:
    """Turns box logits into centres and sizes.

    Args:
      logits: `tx ty tw th`.
      cells: (column, row) of each prediction; 0 for centres relative to the cell.
      anchors: (w, h) in the unit of the result.
      strides: length of a cell's side in the unit of the result; 1 for grid units.

    Returns:
      `cx cy w h`. The centre can leave its cell by half a cell, and the size reach 4 anchors:
      both have bounds, so that no logit makes a gradient explode.

    Source: YOLOv4/YOLOv7 (arXiv 2207.02696).
    """
    sigmoid = jax.nn.sigmoid(logits)
    centre = (2 * sigmoid[..., :2] - 0.5 + cells) * strides
    size = (2 * sigmoid[..., 2:]) ** 2 * anchors
    return jnp.concatenate([centre, size], axis=-1)


def decode(lead: Sequence[Float[Array, "b _h _w a f"]], head: HeadConfig) -> Predictions:
    """Turns raw head outputs into boxes and scores, in float32.

    Args:
      lead: one `[b, h, w, a, 5 + c]` array of logits per level, finest first.
      head: strides and anchors, in input pixels.

    Returns:
      `Predictions`; n counts all cells and anchors, in (level, anchor, row, column) order. With
      one class the score is the objectness alone.

    Raises:
      ValueError: the outputs do not fit the head.

    Source: YOLOv7 (arXiv 2207.02696).
    """
    check_levels(lead, head, "lead")
    boxes, objectness, scores = [], [], []
    for output, stride, anchors in zip(lead, head.strides, head.anchors, strict=True):
        batch, rows, columns, num_anchors, num_fields = output.shape
        logits = jnp.moveaxis(output, 3, 1).astype(jnp.float32)  # [b, a, h, w, f]
        cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)  # [h, w, 2]
        anchors = np.array(anchors, np.float32)[:, None, None]  # [a, 1, 1, 2]
        level_boxes = cxcywh_to_xyxy(decode_boxes(logits[..., :4], cells, anchors, stride))
        level_objectness = jax.nn.sigmoid(logits[..., 4])
        level_scores = level_objectness[..., None]
        if head.num_classes > 1:
            level_scores = level_scores * jax.nn.sigmoid(logits[..., 5:])
        num = num_anchors * rows * columns
        boxes.append(level_boxes.reshape(batch, num, 4))
        objectness.append(level_objectness.reshape(batch, num))
        scores.append(level_scores.reshape(batch, num, num_fields - 5))
    return Predictions(
        jnp.concatenate(boxes, axis=1),
        jnp.concatenate(objectness, axis=1),
        jnp.concatenate(scores, axis=1),
    )


def check_levels(
    levels: Sequence[Float[Array, "b _h _w a f"]], head: HeadConfig, name: str
) -> None:
    """Raises ValueError with everything in which `levels` does not fit `head`."""
    if len(levels) != head.num_levels:
        raise ValueError(
            f"{name} has {len(levels)} levels; the head has {head.num_levels} "
            f"(strides {head.strides})"
        )
    faults = []
    for level, (output, stride) in enumerate(zip(levels, head.strides, strict=True)):
        wanted = (head.num_anchors, head.num_fields)
        if output.ndim != 5 or output.shape[3:] != wanted:
            faults.append(
                f"{name}[{level}] has shape {tuple(output.shape)}; "
                f"[batch, height, width, {wanted[0]}, {wanted[1]}] was wanted"
            )
            continue
        pixels = tuple(side * stride for side in output.shape[1:3])
        finest = tuple(side * head.strides[0] for side in levels[0].shape[1:3])
        if output.shape[0] != levels[0].shape[0] or pixels != finest:
            faults.append(
                f"{name}[{level}] covers {output.shape[0]} images of {pixels} pixels, "
                f"{name}[0] {levels[0].shape[0]} of {finest}"
            )
    if faults:
        raise ValueError("; ".join(faults))
