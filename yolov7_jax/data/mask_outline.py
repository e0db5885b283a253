"""Outlines of masks, as COCO files hold them in run lengths."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import hotcoco
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from yolov7_jax.data.faults import quoted

MOST_PIXELS = 1 << 25  # of a mask; tracing one takes a dozen times as many bytes
MOST_PARTS = 100  # of an outline; a mask of more is noise
TOLERANCE = 0.75  # pixels between an outline and the border of its mask


class MaskOutline(NamedTuple):
    """The outline of a mask.

    Attributes:
      size: width and height of the mask in pixels.
      parts: corners in pixels, the left border of the first pixel at 0; holes are filled.
    """

    size: tuple[int, int]
    parts: list[Float32[np.ndarray, "corners 2"]]


def trace_mask(segmentation: Mapping[str, Any]) -> MaskOutline:
    """Returns the outline of a mask.

    Args:
      segmentation: `size`, height and width in pixels, and `counts`, the run lengths column by
        column, as numbers or as the text that COCO compresses them to.

    Raises:
      ValueError: the mask cannot be decoded, is empty, or is too large or ragged to be an object;
        tells what is wrong with it.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2 or any(type(side) is not int for side in size):
        raise ValueError(f"a mask must have its height and width as size, got {quoted(size)}")
    height, width = size
    if min(size) < 1 or height * width > MOST_PIXELS:
        raise ValueError(f"a mask must have 1 to {MOST_PIXELS} pixels, got {width} x {height}")
    try:
        # One dictionary for both: what else the file says of a mask is not the decoder's business.
        encoded = {"size": size, "counts": counts}
        left, top, columns, rows = (round(side) for side in hotcoco.mask.to_bbox(encoded).tolist())
        decoded = hotcoco.mask.decode(encoded)[top : top + rows, left : left + columns]
    except (TypeError, ValueError) as error:
        raise ValueError(f"a mask's run lengths cannot be decoded: {error}") from None
    if not decoded.any():
        raise ValueError("a mask must have a pixel that is set")
    parts = _trace(decoded)
    if len(parts) > MOST_PARTS:
        raise ValueError(f"a mask must have at most {MOST_PARTS} separate parts, got {len(parts)}")
    return MaskOutline(
        (width, height), [part + np.array((left, top), np.float32) for part in parts]
    )


def _trace(mask: UInt8[np.ndarray, "h w"]) -> list[Float32[np.ndarray, "corners 2"]]:
    # OpenCV follows the middles of pixels. Of doubled ones, every part has a width to follow.
    doubled = mask.repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [_simplified(contour[:, 0]) / 2 for contour in contours]


def _simplified(contour: Int32[np.ndarray, "points 2"]) -> Float32[np.ndarray, "corners 2"]:
    """Returns fewer corners, moved from the middles of pixels out to their borders."""
    low, high = contour.min(0), contour.max(0) + 1
    corners = cv2.approxPolyDP(contour, 2 * TOLERANCE, closed=True)[:, 0].astype(np.float32)
    own_low, own_side = corners.min(0), np.ptp(corners, axis=0)
    if len(corners) < 3 or not own_side.all():
        (left, top), (right, bottom) = low, high
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
    # Both sides keep their places, so that the box of the outline is that of the mask.
    return (low + (corners - own_low) / own_side * (high - low)).astype(np.float32)
