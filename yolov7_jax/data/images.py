"""Images on the host: reading and resizing."""

import os

import numpy as np
from jaxtyping import UInt8

from yolov7_jax.errors import UserError

try:
    import cv2
except ImportError as error:
    raise ImportError(
        "yolov7_jax.data.images needs OpenCV: pip install 'yolov7-jax[images]'"
    ) from error


class UnreadableImageError(UserError):
    """A file is missing, or is no image that can be decoded; the message names it."""

    advice = "; `yolov7-jax check` finds all such images of a data set and leaves them out"


def read_image(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as 8-bit RGB, turned upright as its EXIF orientation says.

    Grey becomes three equal channels, 16 bits become 8 and transparency is dropped.

    Args:
      path: an image in a format that OpenCV reads: JPEG, PNG, WebP, BMP, TIFF, ...

    Raises:
      UnreadableImageError: the file is missing or is no such image; the message names it.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnreadableImageError(f"{os.fspath(path)}: cannot be read: {reason}") from error
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB) if encoded.size else None
    except cv2.error:
        image = None
    if image is None:
        raise UnreadableImageError(f"{os.fspath(path)}: is not an image that OpenCV can decode")
    return np.asarray(image, np.uint8)


def resize(
    image: UInt8[np.ndarray, "h w 3"], width: int, height: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Resizes, averaging over areas when both sides shrink so that fine detail does not alias."""
    old_height, old_width = image.shape[:2]
    if (old_width, old_height) == (width, height):
        return image
    shrinks = width <= old_width and height <= old_height
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)
