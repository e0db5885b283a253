"""What the headers of JPEG and PNG files say, from a file or from memory."""

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

# Start-of-frame markers hold the size; C4, C8 and CC are tables and extensions instead.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_EXIF, _JPEG_SCAN, _JPEG_END = 0xE1, 0xDA, 0xD9
_EXIF_ORIENTATION = 0x0112
_MOST_SEGMENTS = 1000  # in front of a JPEG image; profiles take 255 at most
_WINDOW = 4096  # bytes read at once; headers are seldom longer
JPEG_START, PNG_START = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
# Chunks beside those without which there is no image that change what is decoded.
_PNG_NEEDED = (b"tRNS", b"bKGD", b"eXIf", b"acTL", b"fcTL", b"fdAT")


class JpegHeader(NamedTuple):
    """Width and height of a JPEG image as it is stored; its EXIF orientation, 1 to 8."""

    width: int
    height: int
    orientation: int
    is_cmyk: bool

    @property
    def lies_down(self) -> bool:
        """Whether turning the image upright swaps its width and height."""
        return self.orientation > 4


def jpeg_header(read: Callable[[int, int], bytes]) -> JpegHeader | None:
    """Returns the header of a JPEG image, or None where there is none.

    Args:
      read: returns as many bytes as its first argument says from the place that its second says.

    Raises:
      struct.error: it ends too early.
    """
    orientation, position, start = 0, 2, 0
    window = read(_WINDOW, 0)
    for _ in range(_MOST_SEGMENTS):
        if position + 10 > start + len(window):
            # Segments of profiles and thumbnails are long: jump over them.
            window, start = read(_WINDOW, position), position
        at = position - start
        first, marker = struct.unpack_from(">BB", window, at)
        if first == 0xFF and marker == 0xFF:  # a fill byte
            position += 1
            continue
        if first != 0xFF or marker in (_JPEG_SCAN, _JPEG_END):
            return None
        (length,) = struct.unpack_from(">H", window, at + 2)
        if marker in _JPEG_FRAMES:
            height, width, channels = struct.unpack_from(">xHHB", window, at + 4)
            if not height or not width:
                return None
            return JpegHeader(width, height, orientation or 1, channels == 4)
        if marker == _JPEG_EXIF and not orientation:  # the first of several counts
            segment = read(max(length - 2, 0), position + 4)
            if segment.startswith(b"Exif\0\0"):
                orientation = _orientation(segment[6:])
        position += 2 + length
    return None


def _orientation(tiff: bytes) -> int:
    """Returns the orientation in an EXIF block, 0 where it has none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 0
    (first,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, first)
    for entry in range(count):
        tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, first + 2 + 12 * entry)
        if tag == _EXIF_ORIENTATION:
            return value if 1 <= value <= 8 else 0
    return 0


def png_pixels(content: bytes) -> bytes:
    """Returns a PNG file without profiles, texts and times; empty where its pixels are damaged.

    They change no pixel, but libpng prints what it thinks of them.
    """
    parts, position = [PNG_START], len(PNG_START)
    while position + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        chunk = content[position : position + 12 + length]
        is_critical = not name[0] & 0x20
        if is_critical and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            return b""
        if is_critical or name in _PNG_NEEDED:
            parts.append(chunk)
        position += 12 + length
    return b"".join(parts) if parts[-1][4:8] == b"IEND" else b""
