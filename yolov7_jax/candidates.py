"""The coarse choice: which cells and anchors could predict which object.

Every object proposes, on every level, its own cell and up to four neighbours with every anchor
whose shape is near enough. The proposals of an image form one block of static shape
`[levels, directions, anchors, objects]`, flattened in that order; the order decides every tie
that comes later.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from yolov7_jax.config import HeadConfig
from yolov7_jax.types import Targets

# Own cell, left, up, right, down: what is subtracted, times the radius, from the centre.
DIRECTIONS = ((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1))

FAR = 1e9  # cells; nothing real is farther out

GridShapes = tuple[tuple[int, ...], ...]  # (rows, columns) of each level


class Candidates(NamedTuple):
    """The proposals of a batch; n = levels * 5 * anchors * m, and most are not valid.

    Attributes:
      valid: whether the object is real, the cell near its centre and the anchor near its shape.
      row, column: the cell, inside the grid also where not valid.
      level, anchor, object: where in the block each candidate stands.
    """

    valid: Bool[Array, "b n"]
    row: Int[Array, "b n"]
    column: Int[Array, "b n"]
    level: Int[np.ndarray, "n"]
    anchor: Int[np.ndarray, "n"]
    object: Int[np.ndarray, "n"]


def grid_size(grid: tuple[int, ...]) -> np.ndarray:
    """Returns (columns, rows, columns, rows): what turns normalised cxcywh into grid units."""
    rows, columns = grid
    return np.array([columns, rows, columns, rows], np.float32)


def propose(
    targets: Targets,
    head: HeadConfig,
    grids: GridShapes,
    *,
    anchor_threshold: float,
    center_radius: float,
) -> Candidates:
    """Lists every candidate of every object.

    Args:
      targets: the objects; `m` of them after padding.
      head: strides and anchors.
      grids: (rows, columns) of each level's output.
      anchor_threshold: see `LossConfig`.
      center_radius: how near to a border of its cell, in cells, the centre of an object must be
        for the neighbour behind that border to be a candidate: 0.5 as a rule, 1.0 for auxiliary
        heads.

    Returns:
      `Candidates` in (level, direction, anchor, object) order.

    Source: YOLOv7 (arXiv 2207.02696), "find 3 positive".
    """
    levels = [
        _propose_on_level(targets, stride, anchors, grid, anchor_threshold, center_radius)
        for stride, anchors, grid in zip(head.strides, head.anchors, grids, strict=True)
    ]
    batch, num_objects = targets.valid.shape
    block = (head.num_levels, len(DIRECTIONS), head.num_anchors, num_objects)
    level, _, anchor, rows = (index.reshape(-1) for index in np.indices(block, np.int32))
    valid, row, column = (
        jnp.stack(parts, axis=1).reshape(batch, -1) for parts in zip(*levels, strict=True)
    )
    return Candidates(valid, row, column, level, anchor, rows)


def _propose_on_level(
    targets: Targets,
    stride: int,
    anchors: tuple[tuple[float, float], ...],
    grid: tuple[int, ...],
    anchor_threshold: float,
    center_radius: float,
) -> tuple[Bool[Array, "b 5 a m"], Int[Array, "b 5 a m"], Int[Array, "b 5 a m"]]:
    """Returns which proposals of a level are valid, and their rows and columns."""
    size = grid_size(grid)
    # The clip keeps the compiler from contracting this product and the differences below into
    # fused multiply-adds, which round once instead of twice: objects on grid lines would change
    # cells. No optimization_barrier does that on CPU, where they are dropped before fusion.
    boxes = jnp.clip(targets.boxes.astype(jnp.float32) * size, -FAR, FAR)  # [b, m, 4]
    centre, extent = boxes[..., :2], boxes[..., 2:]

    anchor_extent = np.array(anchors, np.float32) / np.float32(stride)  # [a, 2]
    ratio = extent[:, None] / anchor_extent[:, None]  # [b, a, m, 2]
    ratio = jnp.maximum(ratio, 1 / ratio)
    near = jnp.max(ratio, axis=-1) < anchor_threshold  # [b, a, m]

    far_side = size[:2] - centre
    towards_low = (centre - jnp.floor(centre) < center_radius) & (centre > 1)  # left, up
    towards_high = (far_side - jnp.floor(far_side) < center_radius) & (far_side > 1)  # right, down
    own = jnp.ones_like(towards_low[..., :1])
    within = jnp.concatenate([own, towards_low, towards_high], axis=-1)  # [b, m, 5]
    within = jnp.moveaxis(within, -1, 1)  # [b, 5, m]

    offsets = np.array(DIRECTIONS, np.float32) * np.float32(center_radius)
    cells = jnp.trunc(centre[:, None] - offsets[:, None])  # [b, 5, m, 2]
    # Clipped before the cast: a box far outside the image would overflow an integer.
    cells = jnp.clip(cells, 0, size[:2] - 1).astype(jnp.int32)

    valid = within[:, :, None] & near[:, None] & targets.valid[:, None, None]  # [b, 5, a, m]
    column = jnp.broadcast_to(cells[..., None, :, 0], valid.shape)
    row = jnp.broadcast_to(cells[..., None, :, 1], valid.shape)
    return valid, row, column
