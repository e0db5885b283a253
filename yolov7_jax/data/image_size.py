"""Reads the size of an image without decoding it, so that large data sets load in seconds."""

import os
import struct
import zlib

from yolov7_jax.data.faults import Fault, Kind
from yolov7_jax.data.image_header import JPEG_START, PNG_START, jpeg_header
from yolov7_jax.data.images import UnreadableImageError, is_damage, is_doubt, read_strictly


def read_size(path: str | os.PathLike[str], *, decode: bool = False) -> tuple[int, int]:
    """Returns an image's (width, height), upright as `read_image` decodes it.

    JPEG and PNG files that start and end as they should are not decoded, others are.

    Args:
      path: the image.
      decode: decodes the image in any case, which finds all that is wrong with it.

    Raises:
      UnreadableImageError: the file is missing, empty, truncated or no image; names it.
    """
    return _look(os.fspath(path), decode)[0]


def _look(name: str, decode: bool) -> tuple[tuple[int, int], str]:
    """Returns what `read_size` does, and what the decoder complains of, if anything."""
    try:
        descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableImageError(f"{name}: cannot be read: {reason}") from error
    try:
        size, sound = _from_header(descriptor, decode)
    except OSError as error:
        raise UnreadableImageError(f"{name}: cannot be read: {error.strerror or error}") from error
    except struct.error:  # it ends too early
        size, sound = None, False
    finally:
        os.close(descriptor)
    if size is not None and sound and not decode:
        return size, ""
    if size is None and os.path.getsize(name) == 0:
        raise UnreadableImageError(f"{name}: is empty, 0 bytes")
    try:
        image, complaint = read_strictly(name)
    except UnreadableImageError:
        if size is None:
            raise
        raise UnreadableImageError(f"{name}: is truncated or damaged") from None
    # libpng passes over damage in what is beside the pixels; the walk over the chunks does not.
    cut = size is not None and not sound and _is_png(name)
    if is_damage(complaint) or cut:
        told = f" ({complaint})" if complaint else ""
        raise UnreadableImageError(f"{name}: is truncated or damaged{told}")
    return (image.shape[1], image.shape[0]), complaint


def _is_png(name: str) -> bool:
    with open(name, "rb") as file:
        return file.read(len(PNG_START)) == PNG_START


def _from_header(descriptor: int, thorough: bool) -> tuple[tuple[int, int] | None, bool]:
    """Returns the upright size or None where only decoding tells, and whether the end is there."""
    head = os.pread(descriptor, len(PNG_START), 0)
    if head.startswith(JPEG_START):
        header = jpeg_header(lambda length, at: os.pread(descriptor, length, at))
        if header is None:
            return None, False
        tail = os.pread(descriptor, 2, os.fstat(descriptor).st_size - 2)
        width, height = header.width, header.height
        return (height, width) if header.lies_down else (width, height), tail == b"\xff\xd9"
    if head.startswith(PNG_START):
        return _png_size(descriptor, thorough)
    return None, False


def _png_size(descriptor: int, thorough: bool) -> tuple[tuple[int, int] | None, bool]:
    """Walks over the chunks; only decoding tells the size of an image with EXIF."""
    size, position = None, len(PNG_START)
    file_size = os.fstat(descriptor).st_size
    while True:
        length, name = struct.unpack(">I4s", os.pread(descriptor, 8, position))
        if size is None:
            if name != b"IHDR":
                return None, False
            size = struct.unpack(">II", os.pread(descriptor, 8, position + 8))
            if 0 in size:
                return None, False
        if name == b"eXIf":
            return None, False
        if thorough:
            content = os.pread(descriptor, length + 8, position + 4)
            (checksum,) = struct.unpack(">I", content[length + 4 :])
            if zlib.crc32(content[: length + 4]) != checksum:
                return size, False
        position += 12 + length
        if position > file_size or name == b"IEND":
            return size, position <= file_size


def examine_image(path: str, *, decode: bool) -> tuple[tuple[int, int], Fault | None]:
    """Returns an image's upright (width, height), zeros if it is unusable, and what is wrong."""
    try:
        size, message = _look(path, decode)
        doubtful = Fault(Kind.DOUBTFUL_IMAGE, path, None, f"is decoded, but: {message}")
        return size, doubtful if is_doubt(message) else None
    except UnreadableImageError as error:
        kind = Kind.UNREADABLE_IMAGE if os.path.exists(path) else Kind.MISSING_IMAGE
        return (0, 0), Fault(kind, path, None, str(error).removeprefix(f"{path}: "))
