"""Draws scenes: each image is warped straight to where it shows, and only that part of it.

The usual way draws a mosaic on a canvas of twice the size and warps that, which decodes, copies
and warps much that is never seen. Both differ by less than interpolation does.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float64, Int32, UInt8

from yolov7_jax.config import PAD_VALUE
from yolov7_jax.training.pipeline.geometry import (
    corners_of,
    hull_of,
    is_affine,
    scale_and_shift,
    warp_points,
)
from yolov7_jax.training.pipeline.plan import MAX_HALVINGS, Images, Pixels, Sample, Scene, Tile

MARGIN = 2  # pixels around the part of an image that is warped, for interpolation
SUBPIXEL_BITS = 4  # of OpenCV's fixed-point corners

Rectangle = tuple[int, int, int, int]  # x0, y0, x1, y1
Matrix = Float64[np.ndarray, "3 3"]


def render(scene: Scene, images: Images, longest: int) -> Sample:
    """Draws a scene.

    Args:
      scene: what to draw.
      images: where its pixels come from.
      longest: images with a longer side than that are shrunk to it first.
    """
    width, height = scene.size
    image = np.full((height, width, 3), PAD_VALUE, np.uint8)
    for tile in scene.tiles:
        draw_tile(image, tile, images, longest)
    return Sample(image, scene.boxes_xyxy, scene.labels, scene.polygons)


def draw_tile(image: UInt8[np.ndarray, "h w 3"], tile: Tile, images: Images, longest: int) -> None:
    """Draws a part of an image into an image, in place.

    Args:
      image: where to; what lies outside of it is left away, before anything is decoded.
      tile: what to draw; its matrix leads to the image's pixels.
      images: where the pixels come from.
      longest: an image with a longer side than that is shrunk to it first.
    """
    left, top, right, bottom = tile.region_xyxy
    if not (left < right and top < bottom):
        return
    quad = warp_points(corners_of(np.asarray(tile.region_xyxy)), tile.matrix)
    visible = _visible_pixels(quad, image.shape)
    if visible is None:
        return
    zoom = _zoom(tile.matrix, (left + right) / 2, (top + bottom) / 2)
    base = min(1.0, longest / max(images.size(tile.image)))
    halvings = min(_halvings(base / zoom), MAX_HALVINGS)
    drawn = _warp(images.pixels(tile.image, longest, halvings), tile.matrix, visible)
    x0, y0, x1, y1 = visible
    target = image[y0:y1, x0:x1]
    if tile.outline:
        parts = [warp_points(part, tile.matrix) for part in tile.outline]
        cv2.copyTo(drawn, _outline_mask(parts, visible), target)
    elif _keeps_upright(tile.matrix):
        target[:] = drawn
    else:
        cv2.copyTo(drawn, _quad_mask(quad, visible), target)


def _visible_pixels(quad: Float64[np.ndarray, "4 2"], shape: tuple[int, ...]) -> Rectangle | None:
    """Returns the rectangle of the image's pixels whose centres are in the hull of a region."""
    # Adjacent regions share a border, and each pixel's centre is on one side of it.
    height, width = shape[:2]
    hull = np.clip(hull_of(quad), 0, (width, height, width, height))
    x0, y0, x1, y1 = np.ceil(hull - 0.5).astype(int).tolist()
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _zoom(matrix: Matrix, x: float, y: float) -> float:
    """Returns the most that a matrix enlarges any direction at a point."""
    (a, b, p), (c, d, q), (g, h, i) = matrix.tolist()
    depth = g * x + h * y + i
    u, v = (a * x + b * y + p) / depth, (c * x + d * y + q) / depth
    a, b, c, d = a - u * g, b - u * h, c - v * g, d - v * h
    # The largest singular value in closed form.
    return (math.hypot(a + d, b - c) + math.hypot(a - d, b + c)) / (2 * abs(depth))


def _halvings(shrink: float) -> int:
    """Returns how often to halve before bilinear interpolation shrinks by less than two."""
    return math.floor(math.log2(max(shrink, 1.0)))


def _keeps_upright(matrix: Matrix) -> bool:
    """Says whether rectangles stay rectangles with their sides along the axes."""
    return is_affine(matrix) and matrix[0, 1] == 0 and matrix[1, 0] == 0


def _warp(pixels: Pixels, matrix: Matrix, visible: Rectangle) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a rectangle of the output filled from an image, edges repeated beyond its own."""
    x0, y0, x1, y1 = visible
    image, (scale_x, scale_y) = pixels
    # OpenCV's coordinates have integers in the centres of pixels, ours half ones.
    to_whole = scale_and_shift(1 / scale_x, 1 / scale_y, 0.5 / scale_x, 0.5 / scale_y)
    matrix = scale_and_shift(1, 1, -x0 - 0.5, -y0 - 0.5) @ matrix @ to_whole
    size, border = (x1 - x0, y1 - y0), cv2.BORDER_REPLICATE
    if is_affine(matrix):  # else what is seen may have no bound
        left, top, right, bottom = _seen(matrix, size, image.shape)
        image = image[top:bottom, left:right]
        matrix = matrix @ scale_and_shift(1, 1, left, top)
    image, matrix = _shrink(image, matrix)
    # OpenCV warps four channels in half the time that three take it.
    image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    if is_affine(matrix):
        warped = cv2.warpAffine(image, matrix[:2], size, borderMode=border)
    else:
        warped = cv2.warpPerspective(image, matrix, size, borderMode=border)
    return np.asarray(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), np.uint8)


def _seen(matrix: Matrix, size: tuple[int, int], shape: tuple[int, ...]) -> Rectangle:
    """Returns the rectangle of an image that shows in an output of a size, with a margin."""
    height, width = shape[:2]
    corners = corners_of(np.asarray((0, 0, size[0] - 1, size[1] - 1), np.float64))
    x0, y0, x1, y1 = hull_of(warp_points(corners, np.linalg.inv(matrix))).tolist()
    left = min(max(math.floor(x0) - MARGIN, 0), width - 1)
    top = min(max(math.floor(y0) - MARGIN, 0), height - 1)
    right = min(max(math.ceil(x1) + MARGIN + 1, left + 1), width)
    bottom = min(max(math.ceil(y1) + MARGIN + 1, top + 1), height)
    return left, top, right, bottom


def _shrink(
    image: UInt8[np.ndarray, "h w 3"], matrix: Matrix
) -> tuple[UInt8[np.ndarray, "_ _ 3"], Matrix]:
    """Averages over blocks of pixels where bilinear interpolation would skip some."""
    height, width = image.shape[:2]
    divisor = 2 ** _halvings(1 / _zoom(matrix, width / 2, height / 2))
    if divisor == 1:
        return image, matrix
    size = math.ceil(width / divisor), math.ceil(height / divisor)
    ratio_x, ratio_y = width / size[0], height / size[1]
    smaller = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    back = scale_and_shift(ratio_x, ratio_y, (ratio_x - 1) / 2, (ratio_y - 1) / 2)
    return np.asarray(smaller, np.uint8), matrix @ back


def _outline_mask(
    parts: Sequence[Float64[np.ndarray, "_ 2"]], visible: Rectangle
) -> UInt8[np.ndarray, "h w"]:
    """Returns 255 in the pixels of a rectangle of the output that lie in any of some polygons."""
    x0, y0, x1, y1 = visible
    # OpenCV fills wrong pixels where polygons leave the image, so there is room for all corners.
    points = np.concatenate(parts)
    low = np.minimum(np.floor(points.min(0)).astype(int), (x0, y0))
    high = np.maximum(np.ceil(points.max(0)).astype(int) + 1, (x1, y1))
    mask = np.zeros((high - low)[::-1], np.uint8)
    for part in parts:
        cv2.fillPoly(mask, [_fixed_point(part - low)], (255,), shift=SUBPIXEL_BITS)
    left, top = (x0, y0) - low
    return mask[top : top + y1 - y0, left : left + x1 - x0]


def _quad_mask(quad: Float64[np.ndarray, "4 2"], visible: Rectangle) -> UInt8[np.ndarray, "h w"]:
    """Returns 255 in the pixels of a rectangle of the output that lie in a convex region."""
    x0, y0, x1, y1 = visible
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    corners = _fixed_point(quad - (x0, y0))
    return np.asarray(cv2.fillConvexPoly(mask, corners, (255,), shift=SUBPIXEL_BITS), np.uint8)


def _fixed_point(points: Float64[np.ndarray, "_ 2"]) -> Int32[np.ndarray, "_ 2"]:
    return ((points - 0.5) * 2**SUBPIXEL_BITS).round().astype(np.int32)
