"""Random rotation, zoom, shear, shift and perspective of a scene."""

import math

import numpy as np
from jaxtyping import Float64

from yolov7_jax.training.augment_config import AugmentConfig
from yolov7_jax.training.pipeline.geometry import (
    clip_convex,
    corners_of,
    has_outline,
    hull_of,
    keeps_enough,
    scale_and_shift,
    visible_hulls,
    warp_points,
)
from yolov7_jax.training.pipeline.mosaic import take_objects
from yolov7_jax.training.pipeline.plan import Scene

NEAREST = 0.1  # of the centre's distance: how near perspective may bring a corner of the scene


def random_perspective(
    scene: Scene, size: int, config: AugmentConfig, rng: np.random.Generator
) -> Scene:
    """Rotates, zooms, shears and shifts a scene about its centre.

    Args:
      scene: a scene of any size.
      size: side of the result in pixels; a scene of twice that is cut to its middle.
      config: the largest changes.
      rng: source of the changes.

    Returns:
      A scene of `size` x `size`; `warp_scene` says more.
    """
    matrix, zoom = _random_matrix(scene.size, size, config, rng)
    return warp_scene(scene, matrix, zoom, size)


def warp_scene(scene: Scene, matrix: Float64[np.ndarray, "3 3"], zoom: float, size: int) -> Scene:
    """Maps a scene and its objects into a square.

    Args:
      scene: a scene of any size.
      matrix: maps homogeneous coordinates of its pixels to those of the result.
      zoom: by how much the matrix enlarges, as `keeps_enough` is to count it.
      size: side of the result in pixels.

    Returns:
      A scene of `size` x `size`. The box of an object with an outline is the hull of what of it
      is visible, that of another is the hull of its warped corners, clipped. Objects of which
      `keeps_enough` says that too little is left are gone.
    """
    tiles = tuple(tile._replace(matrix=matrix @ tile.matrix) for tile in scene.tiles)
    points = warp_points(scene.polygons.points, matrix).astype(np.float32)
    polygons = scene.polygons._replace(points=points)
    hulls = hull_of(warp_points(corners_of(scene.boxes_xyxy), matrix))
    width, height = scene.size
    corners = warp_points(corners_of(np.asarray((0, 0, width, height), np.float64)), matrix)
    region = clip_convex(corners, size, size)
    outlined = has_outline(polygons)
    if len(region):
        hulls = np.where(outlined[:, None], visible_hulls(polygons, region), hulls)
    boxes_xyxy = np.clip(hulls, 0, size).astype(np.float32)
    keep = keeps_enough(scene.boxes_xyxy * np.float32(zoom), boxes_xyxy, outlined)
    warped = Scene((size, size), tiles, boxes_xyxy, scene.labels, polygons, scene.tile)
    return take_objects(warped, keep)


def _random_matrix(
    scene: tuple[int, int], size: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "3 3"], float]:
    """Returns the map from the scene's pixels to the output's, and its zoom."""
    width, height = scene
    perspective = np.eye(3)
    coefficients = rng.uniform(-config.perspective, config.perspective, 2)
    reach = float(np.abs(coefficients) @ (width / 2, height / 2))
    perspective[2, :2] = coefficients * min(1, (1 - NEAREST) / max(reach, 1e-9))
    angle = math.radians(rng.uniform(-config.degrees, config.degrees))
    zoom = rng.uniform(1 - config.scale, 1.1 + config.scale)
    turn = np.eye(3)
    turn[:2, :2] = zoom * np.asarray(
        ((math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle)))
    )
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = np.tan(np.radians(rng.uniform(-config.shear, config.shear, 2)))
    shift = size * rng.uniform(0.5 - config.translate, 0.5 + config.translate, 2)
    to_centre = scale_and_shift(1, 1, -width / 2, -height / 2)
    from_centre = scale_and_shift(1, 1, *shift.tolist())
    return from_centre @ shear @ turn @ perspective @ to_centre, zoom
