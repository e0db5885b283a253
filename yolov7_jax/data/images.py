"""Images on the host: reading them whole or their sizes alone, and resizing."""

import contextlib
import io
import os
import struct
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.data.faults import Fault, FaultKind
from yolov7_jax.data.image_header import (
    JPEG_END,
    JPEG_START,
    PNG_START,
    jpeg_header,
    png_pixels,
    png_size,
)
from yolov7_jax.errors import UserError

# Where a JPEG decoder loses its place; only OpenCV knows whether there is an image all the same.
LOST = ("Unsupported marker type", "Bogus ", "Invalid JPEG file structure:")
# A JPEG image with these is decoded to the end, but some of it is grey or displaced.
DAMAGE = (
    "Corrupt JPEG data:",
    "Invalid component ID",
    "Invalid progressive/lossless parameters",
    *LOST,
)
TRUNCATED = "Premature end of JPEG file"
# What lies between the image and its end: nothing that matters, or what was left over when the
# decoder lost its place in damaged data.
DOUBT = "extraneous bytes before marker 0xd"
# By EXIF orientation, what OpenCV's flip is to do after the image was transposed from 5 on.
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
_START_BYTES = 4096  # read at once; headers are seldom longer
MOST_PIXELS = 2**28  # of a JPEG image; a small file can claim 2**32

Path = str | os.PathLike[str]


class UnreadableImageError(UserError):
    """A file is missing, or is no image that can be decoded; the message names it."""

    advice = "; `yolov7-jax check` finds all such images of a data set and leaves them out"


class ChangedImageError(UnreadableImageError):
    """An image is not what it was when its data set was scanned."""

    advice = ""


def read_image(path: Path, *, strict: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as 8-bit RGB, turned upright as its EXIF orientation says.

    Grey becomes three equal channels, 16 bits become 8 and transparency is dropped.

    Args:
      path: an image in a format that OpenCV reads: JPEG, PNG, WebP, BMP, TIFF, ...
      strict: refuses a JPEG image that is decoded to its end, but with a part that is grey or
        displaced.

    Raises:
      UnreadableImageError: the file is missing or is no such image; the message names it.
    """
    image, complaint = _decode(path)
    if strict and is_damage(complaint):
        raise _damaged(path, complaint)
    return image


def read_whole(
    path: str, size: tuple[int, int], *, strict: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image that the scan of its data set found undamaged.

    Args:
      path: the file.
      size: its width and height in pixels when it was scanned, upright.
      strict: as `read_image` has it.

    Raises:
      UnreadableImageError: as `read_image` does.
      ChangedImageError: it has another size.
    """
    image = read_image(path, strict=strict)
    height, width = image.shape[:2]
    if (width, height) != size:
        raise ChangedImageError(
            f"{path}: has {width} x {height} pixels, not {size[0]} x {size[1]} as when the data "
            "set was scanned"
        )
    return image


def fitted_image(
    dataset: Dataset, image_size: int, row: int, *, strict: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image of a data set, and shrinks it if its longer side is over `image_size`.

    Raises:
      UnreadableImageError: as `read_whole` does.
    """
    width, height = dataset.sizes[row].tolist()
    # The scale is that of the square whatever the shape of the batch, so the pixels are the same.
    fitted = fitted_size((width, height), (image_size, image_size), enlarge=False)
    image = read_whole(dataset.paths[row], (width, height), strict=strict)
    return resize(image, *fitted)


def read_size(path: Path, *, decode: bool = False) -> tuple[int, int]:
    """Returns an image's (width, height), upright as `read_image` decodes it.

    JPEG and PNG files that start and end as they should are not decoded, others are.

    Args:
      path: the image.
      decode: decodes the image in any case, which finds all that is wrong with it.

    Raises:
      UnreadableImageError: the file is missing, empty, truncated or no image; names it.
    """
    return _examine(os.fspath(path), decode)[0]


def examine_image(path: str, *, decode: bool) -> tuple[tuple[int, int], Fault | None]:
    """Returns an image's upright (width, height), zeros if it is unusable, and what is wrong."""
    try:
        size, complaint = _examine(path, decode)
    except UnreadableImageError as error:
        kind = FaultKind.UNREADABLE_IMAGE if os.path.exists(path) else FaultKind.MISSING_IMAGE
        return (0, 0), Fault(kind, path, None, str(error).removeprefix(f"{path}: "))
    doubtful = Fault(FaultKind.DOUBTFUL_IMAGE, path, None, f"is decoded, but: {complaint}")
    return size, doubtful if is_doubt(complaint) else None


def _examine(path: str, decode: bool) -> tuple[tuple[int, int], str]:
    """Returns what `read_size` does, and what the decoder complains of, if anything."""
    with _opened(path) as file:
        file_size = os.fstat(file.fileno()).st_size
        size, is_whole, is_png = _size_from_header(file, file_size, decode)
    if not file_size:
        raise UnreadableImageError(f"{path}: is empty, 0 bytes")
    if size is not None and is_whole and not decode:
        return size, ""
    if size is not None and is_png and not is_whole:
        raise _damaged(path)  # libpng passes over damage in what is beside the pixels
    try:
        image, complaint = _decode(path)
    except UnreadableImageError:
        if size is None:
            raise
        raise _damaged(path) from None
    if is_damage(complaint):
        raise _damaged(path, complaint)
    return (image.shape[1], image.shape[0]), complaint


def _size_from_header(
    file: io.FileIO, file_size: int, thorough: bool
) -> tuple[tuple[int, int] | None, bool, bool]:
    """Returns the upright size, None where only decoding tells; whether the end is there; PNG."""
    start = os.pread(file.fileno(), _START_BYTES, 0)

    def read(length: int, at: int) -> bytes:
        part = start[at : at + length]
        return part if len(part) == length else os.pread(file.fileno(), length, at)

    with contextlib.suppress(struct.error):  # it ends too early
        if start.startswith(PNG_START):
            return *png_size(read, file_size, thorough=thorough), True
        header = jpeg_header(read) if start.startswith(JPEG_START) else None
        if header is not None:
            return header.upright_size, read(2, file_size - 2) == JPEG_END, False
    return None, False, False


def _decode(path: Path) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """Reads an image, and says what its decoder complains of; `is_damage` tells what it means."""
    with _opened(path) as file:
        content = file.readall()
    image, complaint = None, ""
    if content.startswith(JPEG_START):
        image, complaint = _decode_jpeg(content)
        if complaint == TRUNCATED:
            raise _damaged(path, complaint)
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


def _damaged(path: Path, complaint: str = "") -> UnreadableImageError:
    told = f" ({complaint})" if complaint else ""
    return UnreadableImageError(f"{os.fspath(path)}: is truncated or damaged{told}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.FileIO]:
    """Opens a file; errors of the operating system name it."""
    try:
        with open(path, "rb", buffering=0) as file:
            yield file
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableImageError(f"{os.fspath(path)}: cannot be read: {reason}") from error


def fitted_size(
    size_wh: Sequence[int], limit_wh: tuple[int, int], *, enlarge: bool
) -> tuple[int, int]:
    """Returns width and height of an image scaled to fit, at least a pixel each."""
    scale = min(limit / side for limit, side in zip(limit_wh, size_wh, strict=True))
    if not enlarge:
        scale = min(scale, 1.0)
    width, height = (max(1, round(side * scale)) for side in size_wh)
    return width, height


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
