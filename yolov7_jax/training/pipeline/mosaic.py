"""Scenes of one, four or nine images of a data set."""

from collections.abc import Sequence

import numpy as np

from yolov7_jax.data.images import fitted_size
from yolov7_jax.training.pipeline.geometry import concatenate_polygons, scale_and_shift
from yolov7_jax.training.pipeline.plan import Images, Scene, Tile


def mosaic4(images: Images, indices: Sequence[int], size: int, rng: np.random.Generator) -> Scene:
    """Puts four images around a random point, each with its longer side of the training size.

    Args:
      images: the data set.
      indices: which are top left, top right, bottom left and bottom right.
      size: the training size s. The scene is 2s x 2s; the point where the four meet is uniform in
        [s / 2, 3s / 2] on each axis. What does not fit is cut off.
      rng: source of the point.

    Returns:
      The scene; boxes are clipped to it, and objects entirely outside are gone.
    """
    centre_x, centre_y = (int(value) for value in rng.uniform(size / 2, 1.5 * size, 2))
    places = []
    for position, index in enumerate(indices):
        width, height = fitted_size(images.size(index), (size, size), enlarge=True)
        left = centre_x - width if position % 2 == 0 else centre_x
        top = centre_y - height if position < 2 else centre_y
        places.append((left, top, width, height))
    return _place(images, indices, places, 2 * size)


def mosaic9(images: Images, indices: Sequence[int], size: int, rng: np.random.Generator) -> Scene:
    """Puts eight images around a ninth; neighbours touch, and none overlap.

    Args:
      images: the data set.
      indices: which is in the middle, then above it, and on clockwise.
      size: the training size s. The images lie on 3s x 3s, the middle one with its top left
        corner at (s, s); the scene is a window of 2s x 2s with its corner uniform in [0, s].
      rng: source of the window.

    Returns:
      The scene; boxes are clipped to it, and objects entirely outside are gone.
    """
    sizes = [fitted_size(images.size(index), (size, size), enlarge=True) for index in indices]
    widths, heights = [width for width, _ in sizes], [height for _, height in sizes]
    right, bottom = size + widths[0], size + heights[0]
    corners = [
        (size, size),
        (size, size - heights[1]),  # above
        (size + widths[1], size - heights[2]),
        (right, size),  # to the right
        (right, size + heights[3]),
        (right - widths[5], bottom),  # below
        (right - widths[5] - widths[6], bottom),
        (size - widths[7], bottom - heights[7]),  # to the left
        (size - widths[8], bottom - heights[7] - heights[8]),
    ]
    window_x, window_y = rng.integers(size, size=2, endpoint=True).tolist()
    places = [
        (left - window_x, top - window_y, *fitted)
        for (left, top), fitted in zip(corners, sizes, strict=True)
    ]
    return _place(images, indices, places, 2 * size)


def letterbox_scene(images: Images, index: int, size: int) -> Scene:
    """Fits one image into the middle of a square, enlarging it where it is smaller."""
    width, height = fitted_size(images.size(index), (size, size), enlarge=True)
    place = ((size - width) // 2, (size - height) // 2, width, height)
    return _place(images, [index], [place], size)


def _place(
    images: Images,
    indices: Sequence[int],
    places: Sequence[tuple[int, int, int, int]],
    side: int,
) -> Scene:
    """Returns a scene of images scaled to their places (left, top, width, height)."""
    tiles = []
    for index, (left, top, width, height) in zip(indices, places, strict=True):
        image_width, image_height = images.size(index)
        scale_x, scale_y = width / image_width, height / image_height
        matrix = scale_and_shift(scale_x, scale_y, left, top)
        x0, x1 = (min(max(x, 0), side) - left for x in (left, left + width))
        y0, y1 = (min(max(y, 0), side) - top for y in (top, top + height))
        region = x0 / scale_x, y0 / scale_y, x1 / scale_x, y1 / scale_y
        tiles.append(Tile(index, matrix, region))

    objects = [images.objects(index) for index in indices]
    table = np.asarray(places, np.float64)
    counts = [len(of_image.labels) for of_image in objects]
    tile = np.repeat(np.arange(len(indices), dtype=np.int32), counts)
    corner, extent = table[tile, :2], table[tile, 2:]
    boxes = np.concatenate([of_image.boxes_cxcywh for of_image in objects])
    centre, half = boxes[:, :2] * extent + corner, boxes[:, 2:] / 2 * extent
    # To the place first: a box may exceed its image a little.
    low, high = np.maximum(corner, 0), np.minimum(corner + extent, side)
    boxes_xyxy = np.concatenate([np.clip(centre + reach, low, high) for reach in (-half, half)], 1)
    polygons = concatenate_polygons([of_image.polygons for of_image in objects])
    points = [len(of_image.polygons.points) for of_image in objects]
    of_point = np.repeat(table, points, axis=0)
    points = (polygons.points * of_point[:, 2:] + of_point[:, :2]).astype(np.float32)
    scene = Scene(
        (side, side),
        tuple(tiles),
        boxes_xyxy.astype(np.float32),
        np.concatenate([of_image.labels for of_image in objects]),
        polygons._replace(points=points),
        tile,
    )
    inside = np.all(boxes_xyxy[:, 2:] > boxes_xyxy[:, :2], axis=1)
    return scene if inside.all() else take_objects(scene, inside)


def take_objects(scene: Scene, keep: np.ndarray) -> Scene:
    """Returns the scene with some of its objects.

    Args:
      scene: the scene.
      keep: `[m]` booleans.
    """
    return scene._replace(
        boxes_xyxy=scene.boxes_xyxy[keep],
        labels=scene.labels[keep],
        polygons=scene.polygons.take(keep),
        tile=scene.tile[keep],
    )
