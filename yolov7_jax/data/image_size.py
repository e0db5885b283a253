"""Reads the size of an image without decoding it, so that large data sets load in seconds."""

import os
import struct
import zlib

from yolov7_jax.data.faults import Fault, Kind
from yolov7_jax.data.images import UnreadableImageError, is_damage, is_doubt, read_strictly

# Start-of-frame markers hold the size; C4, C8 and CC are tables and extensions instead.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_EXIF, _JPEG_SCAN, _JPEG_END = 0xE1, 0xDA, 0xD9
_EXIF_ORIENTATION = 0x0112
_LYING_DOWN = frozenset((5, 6, 7, 8))  # EXIF orientations that swap width and height
_PNG_START = b"\x89PNG\r\n\x1a\n"
_MOST_SEGMENTS = 1000  # in front of a JPEG image; profiles take 255 at most
_HEAD = 4096  # bytes to start with; headers are seldom longer


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
        return file.read(len(_PNG_START)) == _PNG_START


def _from_header(descriptor: int, thorough: bool) -> tuple[tuple[int, int] | None, bool]:
    """Returns the upright size or None where only decoding tells, and whether the end is there."""
    head = os.pread(descriptor, _HEAD, 0)
    if head.startswith(b"\xff\xd8"):
        length = os.fstat(descriptor).st_size
        size = _jpeg_size(descriptor, head)
        tail = head[-2:] if length == len(head) else os.pread(descriptor, 2, length - 2)
        return size, tail == b"\xff\xd9"
    if head.startswith(_PNG_START):
        return _png_size(descriptor, thorough)
    return None, False


def _jpeg_size(descriptor: int, head: bytes) -> tuple[int, int] | None:
    """Returns the upright size, or None where the header is not that of a JPEG image."""
    lies_down = False
    position = 2
    for _ in range(_MOST_SEGMENTS):
        if position + 9 > len(head):
            # Segments of profiles and thumbnails are long: jump over them.
            window, start = os.pread(descriptor, _HEAD, position), position
        else:
            window, start = head, 0
        at = position - start
        first, marker = struct.unpack_from(">BB", window, at)
        if first == 0xFF and marker == 0xFF:  # a fill byte
            position += 1
            continue
        if first != 0xFF or marker in (_JPEG_SCAN, _JPEG_END):
            return None
        (length,) = struct.unpack_from(">H", window, at + 2)
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">xHH", window, at + 4)
            if not height or not width:
                return None
            return (height, width) if lies_down else (width, height)
        if marker == _JPEG_EXIF:
            segment = os.pread(descriptor, max(length - 2, 0), position + 4)
            if segment.startswith(b"Exif\0\0"):
                lies_down = _orientation(segment[6:]) in _LYING_DOWN
        position += 2 + length
    return None


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


def _png_size(descriptor: int, thorough: bool) -> tuple[tuple[int, int] | None, bool]:
    """Walks over the chunks; only decoding tells the size of an image with EXIF."""
    size, position = None, len(_PNG_START)
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
