"""The letterbox: fitting images into the network's input, and boxes back.

Pixel coordinates are continuous: the first pixel of a row covers x from 0 to 1.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from yolov7_jax.config import PAD_VALUE
from yolov7_jax.data.images import fitted_size, resize


class LetterboxInfo(NamedTuple):
    """How an image was placed in the network's input; a batch has a leading axis `b`.

    Attributes:
      scale_xy: input pixels per image pixel. The two differ by what rounding to whole pixels
        changes, which for long images is several of their pixels.
      pad_xy: where the image's top left corner lies, in input pixels.
      size_wh: width and height of the image before the letterbox, in pixels.
    """

    scale_xy: Float32[np.ndarray, "*b 2"]
    pad_xy: Float32[np.ndarray, "*b 2"]
    size_wh: Int32[np.ndarray, "*b 2"]


def letterbox(
    image: UInt8[np.ndarray, "h w 3"], size: int | tuple[int, int], *, enlarge: bool = True
) -> tuple[UInt8[np.ndarray, "H W 3"], LetterboxInfo]:
    """Scales an image to fit, keeping its proportions, and pads it with grey on both sides.

    Args:
      image: the image.
      size: the network's input, in pixels: its side, or its (height, width).
      enlarge: whether an image smaller than the input is scaled up. Training does, evaluation
        does not.

    Returns:
      The padded image, and what `unletterbox` needs to map boxes back.

    Raises:
      ValueError: the image is empty or not `[h, w, 3]`, or the size is not positive.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size (={size}) must be positive")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image has the shape {image.shape}; wanted [h, w, 3] with h, w > 0")
    old_height, old_width = image.shape[:2]
    new_width, new_height = fitted_size((old_width, old_height), (width, height), enlarge=enlarge)
    left, top = (width - new_width) // 2, (height - new_height) // 2
    padded = np.full((height, width, 3), PAD_VALUE, np.uint8)
    padded[top : top + new_height, left : left + new_width] = resize(image, new_width, new_height)
    info = LetterboxInfo(
        scale_xy=np.asarray((new_width / old_width, new_height / old_height), np.float32),
        pad_xy=np.asarray((left, top), np.float32),
        size_wh=np.asarray((old_width, old_height), np.int32),
    )
    return padded, info


def unletterbox(
    boxes_xyxy: Float32[np.ndarray, "*b n 4"], info: LetterboxInfo
) -> Float32[np.ndarray, "*b n 4"]:
    """Maps boxes from input pixels back to image pixels and clips them to the image.

    Args:
      boxes_xyxy: corners in pixels of the network's input.
      info: what `letterbox` returned, with the same leading axes as the boxes.

    Returns:
      Corners in pixels of the original image.
    """
    # Of corners `x0 y0 x1 y1`, [*b, 1, 4].
    scale, offset, limit = (np.concatenate([field, field], -1)[..., None, :] for field in info)
    boxes = (np.asarray(boxes_xyxy, np.float32) - offset) / scale
    return np.asarray(np.clip(boxes, 0, limit), np.float32)
