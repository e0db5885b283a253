"""Arithmetic of boxes and outlines: warping, clipping, and what is left of them."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from yolov7_jax.data.dataset import Polygons, offsets_of

MIN_SIDE = 2.0  # pixels; a box must stay larger than this
MAX_ASPECT = 20.0
MIN_AREA_KEPT = 0.1  # of the box as it would be without clipping
MIN_AREA_KEPT_OUTLINED = 0.01  # an outline says exactly what of the object still shows

SHORTEST_EDGE = 1e-6  # pixels


def concatenate_polygons(polygons: Sequence[Polygons]) -> Polygons:
    """Returns the outlines of all objects, one group after the other."""
    corners = [np.diff(group.point_offsets) for group in polygons]
    parts = [np.diff(group.part_offsets) for group in polygons]
    return Polygons(
        np.concatenate([group.points for group in polygons]),
        offsets_of(np.concatenate(corners)),
        offsets_of(np.concatenate(parts)),
    )


def has_outline(polygons: Polygons) -> Bool[np.ndarray, " m"]:
    """Says which objects have any corner."""
    return np.diff(polygons.object_offsets()) > 0


def outline_of(polygons: Polygons, row: int) -> tuple[Float32[np.ndarray, "_ 2"], ...]:
    """Returns the corners of each part of one object."""
    first, last = polygons.part_offsets[row : row + 2]
    bounds = polygons.point_offsets[first : last + 1]
    return tuple(polygons.points[start:stop] for start, stop in itertools.pairwise(bounds.tolist()))


def warp_points(
    points: Float[np.ndarray, "*n 2"], matrix: Float64[np.ndarray, "3 3"]
) -> Float64[np.ndarray, "*n 2"]:
    """Maps points by a matrix of homogeneous coordinates."""
    mapped = points @ matrix[:2, :2].T + matrix[:2, 2]
    if is_affine(matrix):
        return mapped
    return mapped / (points @ matrix[2, :2] + matrix[2, 2])[..., None]


def is_affine(matrix: Float64[np.ndarray, "3 3"]) -> bool:
    """Says whether parallel lines stay parallel."""
    return matrix[2, 0] == 0 and matrix[2, 1] == 0


def scale_and_shift(
    scale_x: float, scale_y: float, shift_x: float, shift_y: float
) -> Float64[np.ndarray, "3 3"]:
    """Returns the matrix that scales, then shifts."""
    return np.asarray(((scale_x, 0, shift_x), (0, scale_y, shift_y), (0, 0, 1)), np.float64)


def corners_of(boxes_xyxy: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n 4 2"]:
    """Returns the corners of boxes, one after the other around them."""
    return boxes_xyxy[..., [0, 1, 2, 1, 2, 3, 0, 3]].reshape(*boxes_xyxy.shape[:-1], 4, 2)


def hull_of(points: Float[np.ndarray, "*n p 2"]) -> Float[np.ndarray, "*n 4"]:
    """Returns the smallest boxes around groups of points."""
    return np.concatenate([points.min(-2), points.max(-2)], -1)


def visible_hulls(
    polygons: Polygons, region: Float64[np.ndarray, "corners 2"]
) -> Float64[np.ndarray, "m 4"]:
    """Returns the box around the part of each object that lies in a convex region.

    That is the box around the part of its boundary in the region, to any precision without
    resampling, and around the corners of the region that are inside the object.

    Args:
      polygons: outlines of objects. Parts may touch or overlap; holes do not exist.
      region: at least 3 corners, one after the other around it, in either direction.

    Returns:
      Boxes as corners; zeros where an object has no outline or nothing of it is visible.
    """
    visible = np.zeros((len(polygons.part_offsets) - 1, 4))
    outlined = has_outline(polygons)
    if not outlined.any():
        return visible
    polygons = polygons.take(outlined)
    object_starts = polygons.object_offsets()[:-1]
    part_starts, part_stops = polygons.point_offsets[:-1], polygons.point_offsets[1:]
    filled = part_stops > part_starts
    part_starts, part_stops = part_starts[filled], part_stops[filled]
    start = polygons.points.astype(np.float64)
    follows = np.arange(1, len(start) + 1)
    follows[part_stops - 1] = part_starts
    stop = start[follows]

    # Each edge, as start + t (stop - start), is cut by all half-planes at once.
    normals, limits = _half_planes(region)
    from_start, from_stop = start @ normals.T - limits, stop @ normals.T - limits  # [edges, k]
    crosses = (from_start > 0) != (from_stop > 0)
    at = from_start / np.where(crosses, from_start - from_stop, 1)
    enter = np.where(crosses & (from_start > 0), at, 0).max(1)[:, None]
    leave = np.where(crosses & (from_stop > 0), at, 1).min(1)[:, None]
    beyond = np.any((from_start > 0) & (from_stop > 0), axis=1, keepdims=True)
    outside = beyond | (enter > leave)
    first, last = start + enter * (stop - start), start + leave * (stop - start)
    low = np.where(outside, np.inf, np.minimum(first, last))
    high = np.where(outside, -np.inf, np.maximum(first, last))
    low, high = np.minimum.reduceat(low, object_starts), np.maximum.reduceat(high, object_starts)

    # A ray to the right of a corner of the region crosses a part around it an odd number of times.
    x, y = region.T
    rises = stop[:, 1] - start[:, 1]
    slope = (stop[:, 0] - start[:, 0]) / np.where(rises == 0, 1, rises)
    spans = (start[:, 1:] > y) != (stop[:, 1:] > y)  # [edges, k]
    right = x < start[:, :1] + slope[:, None] * (y - start[:, 1:])
    inside_part = np.add.reduceat((spans & right).astype(np.int64), part_starts) % 2 == 1
    first_parts = np.searchsorted(part_starts, object_starts)
    inside = np.logical_or.reduceat(inside_part, first_parts)[..., None]  # [m, k, 1]
    low = np.minimum(low, np.where(inside, region, np.inf).min(1))
    high = np.maximum(high, np.where(inside, region, -np.inf).max(1))
    hulls = np.concatenate([low, high], 1)
    visible[outlined] = np.where(np.isfinite(hulls), hulls, 0)
    return visible


def _half_planes(
    region: Float64[np.ndarray, "k 2"],
) -> tuple[Float64[np.ndarray, "k 2"], Float64[np.ndarray, " k"]]:
    """Returns n and c such that the region is where n x <= c."""
    edges = np.roll(region, -1, 0) - region
    long = (np.abs(edges) > SHORTEST_EDGE).any(1)  # the direction of others is noise
    normals = np.stack([edges[:, 1], -edges[:, 0]], 1)[long]
    limits = (normals * region[long]).sum(1)
    sign = np.where((region.mean(0) @ normals.T - limits).sum() > 0, -1, 1)
    return normals * sign, limits * sign


def clip_convex(
    region: Float64[np.ndarray, "_ 2"], width: float, height: float
) -> Float64[np.ndarray, "_ 2"]:
    """Clips a convex region to the rectangle from the origin to (width, height).

    Returns:
      The corners of what is left; none where nothing is.
    """
    points = region.tolist()
    for axis, limit, sign in ((0, 0.0, -1), (0, width, 1), (1, 0.0, -1), (1, height, 1)):
        corners = []
        before = points[-1]
        for corner in points:
            here, there = sign * (corner[axis] - limit), sign * (before[axis] - limit)
            if (here > 0) != (there > 0):
                share = there / (there - here)
                corners.append([b + share * (c - b) for b, c in zip(before, corner, strict=True)])
            if here <= 0:
                corners.append(corner)
            before = corner
        if len(corners) < 3:
            return np.zeros((0, 2))
        points = corners
    return np.asarray(points)


def covered_share(
    boxes_xyxy: Float[np.ndarray, "n 4"], by_xyxy: Float[np.ndarray, "4"]
) -> Float[np.ndarray, " n"]:
    """Returns the share of each box's area that another box covers."""
    low = np.maximum(boxes_xyxy[:, :2], by_xyxy[:2])
    high = np.minimum(boxes_xyxy[:, 2:], by_xyxy[2:])
    covered = np.maximum(high - low, 0).prod(1)
    return covered / np.maximum((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1), 1e-9)


def keeps_enough(
    before_xyxy: Float32[np.ndarray, "m 4"],
    after_xyxy: Float32[np.ndarray, "m 4"],
    outlined: Bool[np.ndarray, " m"],
) -> Bool[np.ndarray, " m"]:
    """Says which boxes are still worth learning after warping and clipping.

    Args:
      before_xyxy: the boxes in the output's scale, without clipping.
      after_xyxy: the boxes warped and clipped.
      outlined: which boxes come from an outline.

    Returns:
      True where both sides are over 2 pixels, the longer under 20 times the shorter, and over a
      tenth of the area is left; a hundredth where it comes from an outline.
    """
    before = before_xyxy[:, 2:] - before_xyxy[:, :2]
    after = after_xyxy[:, 2:] - after_xyxy[:, :2]
    shorter, longer = after.min(1, initial=np.inf), after.max(1, initial=0)
    aspect = longer / np.maximum(shorter, 1e-9)
    kept = after.prod(1) / np.maximum(before.prod(1), 1e-9)
    least = np.where(outlined, MIN_AREA_KEPT_OUTLINED, MIN_AREA_KEPT)
    return (shorter > MIN_SIDE) & (aspect < MAX_ASPECT) & (kept > least)
