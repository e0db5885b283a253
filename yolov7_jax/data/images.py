"""Images on the host: reading and resizing."""

import contextlib
import os

import numpy as np
from jaxtyping import UInt8

from yolov7_jax.errors import UserError

try:
    import cv2
    import simplejpeg
except ImportError as error:
    raise ImportError(
        f"yolov7_jax.data.images needs {error.name}: pip install 'yolov7-jax[images]'"
    ) from error

# After these a JPEG image is decoded to the end, but some of it is grey or displaced.
DAMAGE = ("Corrupt JPEG data:", "Premature end of JPEG file")
# What lies between the image and its end: nothing that matters, or what was left over when the
# decoder lost its place in damaged data.
DOUBT = "extraneous bytes before marker 0xd"
MOST_PIXELS = 2**28  # of a JPEG image; a small file can claim 2**32
_JPEG = b"\xff\xd8"
_MOST_HEADER = 1 << 18  # bytes of segments in front of the pixels


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
    return _decode(_content(path), path)


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
    if not content.startswith(_JPEG) or _is_too_large(content):
        return _decode(content, path), ""
    try:
        image = simplejpeg.decode_jpeg(content, strict=True)
    except ValueError as error:
        try:
            return _decode(content, path), str(error)
        except UnreadableImageError as unreadable:
            raise UnreadableImageError(f"{unreadable} ({error})") from error
    return (_decode(content, path) if _has_exif(content) else image), ""


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


def _decode(content: bytes, path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
    # A third faster than OpenCV, with the same pixels; but it does not turn images upright.
    if content.startswith(_JPEG) and not _has_exif(content) and not _is_too_large(content):
        with contextlib.suppress(ValueError):  # CMYK, which OpenCV reads
            return simplejpeg.decode_jpeg(content, strict=False)
    image = None
    with contextlib.suppress(cv2.error):
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise UnreadableImageError(f"{os.fspath(path)}: is not an image that OpenCV can decode")
    return np.asarray(image, np.uint8)


def _has_exif(content: bytes) -> bool:
    return b"Exif\0\0" in content[:_MOST_HEADER]


def _is_too_large(content: bytes) -> bool:
    """Says whether a JPEG image has more pixels than are decoded; OpenCV then says so."""
    with contextlib.suppress(ValueError):
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
        return int(height) * int(width) > MOST_PIXELS
    return False


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
