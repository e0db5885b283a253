"""Images on the host: reading and resizing."""

import contextlib
import os
import struct

import numpy as np
from jaxtyping import UInt8

from yolov7_jax.data.image_header import JPEG_START, PNG_START, jpeg_header, png_pixels
from yolov7_jax.errors import UserError

try:
    import cv2
    import simplejpeg
except ImportError as error:
    raise ImportError(
        f"yolov7_jax.data.images needs {error.name}: pip install 'yolov7-jax[images]'"
    ) from error

# Where a JPEG decoder loses its place; only OpenCV knows whether there is an image all the same.
LOST = ("Unsupported marker type", "Bogus ", "Invalid JPEG file structure:")
# A JPEG image with these is decoded to the end, but some of it is grey or displaced.
DAMAGE = ("Corrupt JPEG data:", *LOST)
TRUNCATED = "Premature end of JPEG file"
# What lies between the image and its end: nothing that matters, or what was left over when the
# decoder lost its place in damaged data.
DOUBT = "extraneous bytes before marker 0xd"
# By EXIF orientation, what OpenCV's flip is to do after the image was transposed from 5 on.
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
MOST_PIXELS = 2**28  # of a JPEG image; a small file can claim 2**32


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
    return read_strictly(path)[0]


def read_strictly(path: str | os.PathLike[str]) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """Reads an image as `read_image` does, and says what its decoder complains of.

    A damaged JPEG image is decoded to its end, with a part that is grey or displaced.

    Returns:
      The image, and the complaint, of which `is_damage` and `is_doubt` tell what it means; empty
      where there is none.

    Raises:
      UnreadableImageError: as `read_image` does, with the complaint.
    """
    content = _content(path)
    image, complaint = None, ""
    if content.startswith(JPEG_START):
        image, complaint = _decode_jpeg(content)
        if complaint == TRUNCATED:
            raise UnreadableImageError(f"{os.fspath(path)}: is truncated or damaged ({complaint})")
    elif content.startswith(PNG_START):
        content = png_pixels(content)
    if image is None and content:
        with contextlib.suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        told = f" ({complaint})" if complaint else ""
        raise UnreadableImageError(
            f"{os.fspath(path)}: is not an image that OpenCV can decode{told}"
        )
    return np.asarray(image, np.uint8), complaint


def _decode_jpeg(content: bytes) -> tuple[UInt8[np.ndarray, "h w 3"] | None, str]:
    """Decodes a third faster than OpenCV, with the same pixels.

    Returns:
      The upright image, None where OpenCV is to try; and what the decoder complains of.
    """
    try:
        header = jpeg_header(lambda length, at: content[at : at + length])
    except struct.error:
        header = None
    if header is None or header.width * header.height > MOST_PIXELS:
        return None, ""
    complaint = ""
    try:
        image = simplejpeg.decode_jpeg(content, "CMYK" if header.is_cmyk else "RGB", strict=True)
        if header.is_cmyk:  # whose conversion to RGB is OpenCV's
            return None, ""
    except ValueError as error:
        complaint = str(error)
        if complaint.startswith(LOST):
            return None, complaint
        try:
            image = simplejpeg.decode_jpeg(content, strict=False)
        except (ValueError, KeyError):  # KeyError: it knows no such subsampling
            return None, complaint
    if header.lies_down:
        image = cv2.transpose(image)
    flip = _FLIPS.get(header.orientation)
    return np.asarray(image if flip is None else cv2.flip(image, flip), np.uint8), complaint


def is_damage(complaint: str) -> bool:
    """Says whether a decoder's complaint means that an image is not as it was made."""
    return complaint.startswith(DAMAGE) and "extraneous bytes" not in complaint


def is_doubt(complaint: str) -> bool:
    """Says whether a decoder's complaint may mean so."""
    return DOUBT in complaint


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableImageError(f"{os.fspath(path)}: cannot be read: {reason}") from error


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
