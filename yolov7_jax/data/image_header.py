"""What the headers of JPEG and PNG files say, from a file or from memory."""

import contextlib
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

# Returns as many bytes as its first argument says from the place that its second says.
Read = Callable[[int, int], bytes]

# Start-of-frame markers hold the size; C4, C8 and CC are tables and extensions instead.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_EXIF, _JPEG_SCAN = 0xE1, 0xDA
_EXIF_ORIENTATION = 0x0112
_MOST_SEGMENTS = 1000  # in front of a JPEG image; profiles take 255 at most
JPEG_START, JPEG_END, PNG_START = b"\xff\xd8", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"
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

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the image when it is turned upright."""
        return (self.height, self.width) if self.lies_down else (self.width, self.height)


def jpeg_header(read: Read) -> JpegHeader | None:
    """Returns the header of a JPEG image, or None where there is none.

    Raises:
      struct.error: it ends too early.
    """
    orientation, position = 0, 2
    for _ in range(_MOST_SEGMENTS):
        segment = read(10, position)
        first, marker, length = struct.unpack_from(">BBH", segment)
        if first == 0xFF and marker == 0xFF:  # a fill byte
            position += 1
            continue
        if first != 0xFF or marker in (_JPEG_SCAN, JPEG_END[1]):
            return None
        if marker in _JPEG_FRAMES:
            height, width, channels = struct.unpack_from(">HHB", segment, 5)
            if not height or not width:
                return None
            return JpegHeader(width, height, orientation or 1, channels == 4)
        if marker == _JPEG_EXIF and not orientation:  # the first of several counts
            exif = read(max(length - 2, 0), position + 4)
            if exif.startswith(b"Exif\0\0"):
                orientation = _orientation(exif[6:])
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


def png_size(read: Read, file_size: int, *, thorough: bool) -> tuple[tuple[int, int] | None, bool]:
    """Walks over the chunks of a PNG image.

    Args:
      read: reads the file.
      file_size: in bytes.
      thorough: whether to compare checksums, also of what is beside the pixels.

    Returns:
      Width and height, None where only decoding tells; and whether the file is whole.

    Raises:
      struct.error: it ends too early.
    """
    size = None
    for name, position, length in _png_chunks(read):
        if size is None:
            size = struct.unpack(">II", read(8, position + 8))
            if name != b"IHDR" or 0 in size:
                return None, False
        if name == b"eXIf":  # the image may have to be turned
            return None, False
        if position + length > file_size:
            return size, False
        if thorough and _is_damaged(read(length, position)):
            return size, False
    return size, True


def png_pixels(content: bytes) -> bytes:
    """Returns a PNG file without profiles, texts and times; empty where its pixels are damaged.

    They change no pixel, but libpng prints what it thinks of them.
    """
    parts = [PNG_START]
    with contextlib.suppress(struct.error):
        for name, position, length in _png_chunks(lambda length, at: content[at : at + length]):
            chunk = content[position : position + length]
            is_critical = not name[0] & 0x20
            if is_critical and _is_damaged(chunk):
                return b""
            if is_critical or name in _PNG_NEEDED:
                parts.append(chunk)
        return b"".join(parts)
    return b""


def _png_chunks(read: Read) -> Iterator[tuple[bytes, int, int]]:
    """Yields name, position and bytes of every chunk; a struct.error says that there is no end."""
    name, position = b"", len(PNG_START)
    while name != b"IEND":
        length, name = struct.unpack(">I4s", read(8, position))
        yield name, position, length + 12
        position += length + 12


def _is_damaged(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big")
