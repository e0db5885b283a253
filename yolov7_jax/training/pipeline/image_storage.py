"""Where a cache of images keeps its slots and pixels: in memory, or in a file."""

import errno
import hashlib
import json
import mmap
import os
import pathlib
import tempfile
import weakref
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int64

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.errors import UserError
from yolov7_jax.training.pipeline.plan import MAX_HALVINGS

Purpose = Literal["training", "evaluation"]
SLOT = np.dtype([("checksum", "<u8"), ("scale_xy", "<f8", 2)])
HEADER_BYTES = 4096

_LEVELS: dict[Purpose, int] = {"training": MAX_HALVINGS + 1, "evaluation": 1}  # slots of an image
_FORMAT = "yolov7_jax images 2"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_GIB, _MIB = 1 << 30, 1 << 20


class Layout(NamedTuple):
    """Where everything lies.

    Attributes:
      shapes: height and width of the image in each slot.
      offsets: where its pixels start, in bytes.
      pixel_bytes: of all slots.
    """

    shapes: Int64[np.ndarray, "n levels 2"]
    offsets: Int64[np.ndarray, "n levels"]
    pixel_bytes: int

    @property
    def first_pixel(self) -> int:
        """Where the pixels start in a file."""
        return HEADER_BYTES + self.offsets.size * SLOT.itemsize

    @property
    def file_bytes(self) -> int:
        """How long a file is."""
        return self.first_pixel + self.pixel_bytes


class MemoryStorage:
    """Slots and pixels of this process alone."""

    def __init__(self, layout: Layout):
        self.slots = np.zeros(layout.offsets.shape, SLOT)
        self.pixels = np.zeros(layout.pixel_bytes, np.uint8)

    def write(
        self, place: tuple[int, int], slot: np.ndarray, start: int, image: np.ndarray
    ) -> None:
        """Fills the slot at (image, level), whose pixels start at a byte."""
        self.pixels[start : start + image.size] = image.reshape(-1)
        self.slots[place] = slot


class FileStorage:
    """Slots and pixels in a file that is held open, so that it stays the same one.

    Attributes:
      path: what the file was called.
      header: how it starts.
    """

    def __init__(self, path: pathlib.Path, header: bytes, descriptor: int, layout: Layout):
        weakref.finalize(self, os.close, descriptor)
        self.path, self.header = path, header
        self._descriptor, self._first_pixel = descriptor, layout.first_pixel
        self._levels = layout.offsets.shape[1]
        # Not a memmap, whose slices cost more.
        mapped = mmap.mmap(descriptor, layout.file_bytes, access=mmap.ACCESS_READ)
        everything = np.frombuffer(mapped, np.uint8)
        slots = everything[HEADER_BYTES : self._first_pixel].view(SLOT)
        self.slots = slots.reshape(layout.offsets.shape)
        self.pixels = everything[self._first_pixel :]

    def write(
        self, place: tuple[int, int], slot: np.ndarray, start: int, image: np.ndarray
    ) -> None:
        """Fills the slot at (image, level), whose pixels start at a byte.

        Raises:
          UserError: the file cannot be written.
        """
        # Not through the mapping: a full disk is an error here, and the end of us there.
        number = place[0] * self._levels + place[1]
        try:
            _write_all(self._descriptor, image.tobytes(), self._first_pixel + start)
            _write_all(self._descriptor, slot.tobytes(), HEADER_BYTES + number * SLOT.itemsize)
        except OSError as error:
            raise cannot_write(self.path, error) from error


def layout_of(dataset: Dataset, image_size: int, purpose: Purpose) -> Layout:
    """Returns where everything of a data set's images lies."""
    sizes = dataset.sizes[:, ::-1].astype(np.int64)  # height, width
    longer = sizes.max(1, keepdims=True, initial=1)
    # As `Images.pixels` rounds: half to even, at least one pixel.
    fitted = np.maximum(np.rint(sizes * np.minimum(1.0, image_size / longer)), 1).astype(np.int64)
    levels = _LEVELS[purpose]
    shapes = np.stack([-(-fitted // 2**halvings) for halvings in range(levels)], 1)
    lengths = 3 * shapes.prod(2).reshape(-1)
    offsets = (np.cumsum(lengths) - lengths).reshape(len(sizes), levels)
    return Layout(shapes, offsets, int(lengths.sum()))


def header_of(dataset: Dataset, image_size: int, purpose: Purpose) -> bytes:
    """Returns what a file's start must be for its slots to mean these images."""
    paths = [os.path.abspath(path) for path in dataset.paths]
    files = json.dumps([paths, dataset.sizes.tolist()])
    content = {
        "format": _FORMAT,
        "purpose": purpose,
        "image_size": image_size,
        "images": len(dataset),
        "files": hashlib.sha256(files.encode()).hexdigest(),
        "opencv": cv2.__version__,  # another one may decode and resize otherwise
    }
    return json.dumps(content).encode().ljust(HEADER_BYTES, b"\n")


def open_sound(path: pathlib.Path, header: bytes, length: int) -> int | None:
    """Returns a descriptor of a file, or None where there is none or it is for something else."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        found = os.pread(descriptor, HEADER_BYTES, 0)
        # Looked at through the descriptor: by its name, it might be another file by now.
        sound = found == header and os.fstat(descriptor).st_size == length
    except OSError:
        sound = False
    if sound:
        return descriptor
    os.close(descriptor)
    return None


def create_file(path: pathlib.Path, header: bytes, total: int, images: str) -> int:
    """Puts an empty file in place, whole or not at all, and returns a descriptor of it.

    Args:
      path: where.
      header: how it starts.
      total: how long it is, in bytes.
      images: what it is for, for messages.

    Raises:
      UserError: there is not enough room.
      OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    needs = f"--cache disk needs {amount(total)} in {path.parent} for {images}"
    status = os.statvfs(path.parent)
    free = status.f_bavail * status.f_frsize
    if total > free:
        raise UserError(f"{needs}, but only {amount(free)} are free")
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        # Taken at once, so that nobody else takes it before an epoch has filled it.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, total)
        else:
            os.truncate(descriptor, total)
        _write_all(descriptor, header, 0)
        os.chmod(temporary, 0o644)
        others = open_sound(path, header, total)
        if others is not None:  # of another run that has started just now; both fill it
            os.close(descriptor)
            os.unlink(temporary)
            return others
        os.replace(temporary, path)
    except BaseException as error:
        os.close(descriptor)
        os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise UserError(f"{needs}: {error.strerror}") from error
        raise
    return descriptor


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def amount(count: int) -> str:
    """Returns a number of bytes as text."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.1f} MiB"


def cannot_write(path: pathlib.Path, error: OSError) -> UserError:
    """Returns what to tell about a file that cannot be written."""
    return UserError(f"{path}: the cache of images cannot be written: {error.strerror or error}")
