"""Reads the size of a picture without decoding it, so that large data sets load in seconds."""

import io
import struct
from pathlib import Path
from typing import BinaryIO

from yolov7_jax.image import read_image

# Start-of-frame markers hold the size; C4, C8 and CC are tables and extensions instead.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_EXIF, _JPEG_SCAN, _JPEG_END = 0xE1, 0xDA, 0xD9
_EXIF_ORIENTATION = 0x0112
_LYING_DOWN = frozenset((5, 6, 7, 8))  # EXIF orientations that swap width and height


def picture_size(path: Path) -> tuple[int, int]:
    """Returns a picture's (width, height), upright as `read_image` decodes it.

    JPEG files are read up to the start of their pixels, others are decoded.

    Args:
      path: the picture.

    Raises:
      ValueError: the file is missing or is no picture; the message names it.
    """
    try:
        with path.open("rb") as file:
            size = _jpeg_size(file)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    except struct.error:  # it ends too early
        size = None
    if size is None:
        height, width = read_image(path).shape[:2]
        return width, height
    return size


def _jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    """Returns the upright size, or None where the header is not that of a JPEG picture."""
    if file.read(2) != b"\xff\xd8":
        return None
    lies_down = False
    while True:
        start, marker = struct.unpack(">BB", file.read(2))
        while marker == 0xFF:  # fill bytes
            (marker,) = struct.unpack(">B", file.read(1))
        if start != 0xFF or marker in (_JPEG_SCAN, _JPEG_END):
            return None
        (length,) = struct.unpack(">H", file.read(2))
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack(">xHH", file.read(5))
            if not height or not width:
                return None
            return (height, width) if lies_down else (width, height)
        if marker == _JPEG_EXIF:
            segment = file.read(length - 2)
            if segment.startswith(b"Exif\0\0"):
                lies_down = _orientation(segment[6:]) in _LYING_DOWN
        else:
            file.seek(length - 2, io.SEEK_CUR)


def _orientation(tiff: bytes) -> int:
    """Returns the orientation in an EXIF block, 1 where it has none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    (first,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, first)
    for entry in range(count):
        tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, first + 2 + 12 * entry)
        if tag == _EXIF_ORIENTATION:
            return value
    return 1
