"""Keeps decoded pictures at the size that training needs, in memory or in one file.

The cache fills as pictures are asked for: the first epoch costs what it would cost anyway. Every
reduction of a picture (whole, half, quarter, eighth) has its own slot, so that what comes out is
bit for bit what `FilePictures` would give; all four take a third more than the first.

A slot holds, beside the pixels, a checksum of them and of the file's size and time of change. It is
compared when a process meets the slot first, so what is stale, was damaged or was half written
when a machine went down is decoded again. Processes may read and fill the same file at once:
whoever fills a slot writes the same bytes.
"""

import hashlib
import json
import math
import os
import pathlib
import tempfile
import weakref
import zlib
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from train.data.dataset import Dataset, Objects
from train.data.sample import MAX_HALVINGS, Pictures, Pixels
from train.data.scan_cache import cache_files
from train.errors import UserError

CacheKind = Literal["none", "memory", "disk"]
MEMORY_KEPT = 0.1  # share of the available memory that a cache leaves to everything else

_FORMAT = "yolov7_jax pictures 1"
_HEADER_BYTES = 4096
_LEVELS = MAX_HALVINGS + 1
_SLOT = np.dtype([("checksum", "<u8"), ("scale_xy", "<f8", 2)])
_FILLED = 1 << 32  # beside 32 bits of checksum, so that no filled slot looks empty
_GIB = 1 << 30


class PictureCache:
    """Where decoded pictures are kept; see `open_cache`.

    Attributes:
      image_size: the longer side of pictures that are larger.
    """

    def __init__(
        self,
        dataset: Dataset,
        image_size: int,
        slots: np.ndarray,
        pixels: UInt8[np.ndarray, " bytes"],
        path: pathlib.Path | None,
    ):
        self.image_size = image_size
        self._dataset = dataset
        self._shapes, self._offsets = _layout(dataset, image_size)
        self._slots, self._pixels, self._path = slots, pixels, path
        self._checked = np.zeros(slots.shape, bool)
        if path is not None:
            self._file = os.open(path, os.O_RDWR)
            weakref.finalize(self, os.close, self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._path is None:
            raise TypeError("a cache in memory cannot be sent to another process")
        return _open_file, (self._dataset, self.image_size, self._path)

    @property
    def in_memory(self) -> bool:
        """Whether it belongs to this process alone."""
        return self._path is None

    def reopened(self, dataset: Dataset) -> "PictureCache":
        """Opens the same file once more, for the same data set in another form.

        Raises:
          ValueError: the cache is in memory.
        """
        if self._path is None:
            raise ValueError("a cache in memory has no file to be opened once more")
        return _open_file(dataset, self.image_size, self._path)

    def get(self, index: int, halvings: int) -> Pixels | None:
        """Returns a picture, or None where it is not kept, no longer fits its file or is damaged.

        Args:
          index: the picture.
          halvings: how often its sides are halved after it is shrunk to `image_size`.
        """
        slot = self._slots[index, halvings]
        if not slot["checksum"]:
            return None
        image = self._view(index, halvings)
        scale_xy = slot["scale_xy"].copy()
        if not self._checked[index, halvings]:
            if slot["checksum"] != self._checksum(index, image, scale_xy):
                return None
            self._checked[index, halvings] = True
        scale_x, scale_y = scale_xy.tolist()
        return Pixels(image, (scale_x, scale_y))

    def put(self, index: int, halvings: int, pixels: Pixels) -> None:
        """Keeps a picture.

        Raises:
          ValueError: the pixels are not of the size that the slot is for.
          UserError: the file cannot be written.
        """
        shape = tuple(self._shapes[index, halvings].tolist())
        if pixels.image.shape != (*shape, 3):
            raise ValueError(
                f"picture {index} has the shape {pixels.image.shape}, wanted {(*shape, 3)}"
            )
        slot = np.zeros((), _SLOT)
        slot["scale_xy"] = pixels.scale_xy
        slot["checksum"] = self._checksum(index, pixels.image, slot["scale_xy"])
        start = int(self._offsets[index, halvings])
        if self._path is None:
            self._pixels[start : start + pixels.image.size] = pixels.image.reshape(-1)
            self._slots[index, halvings] = slot
        else:
            # Not through the mapping: a full disk is an error here, and the end of us there.
            number = index * _LEVELS + halvings
            first_pixel = _HEADER_BYTES + self._slots.nbytes
            try:
                _write_all(self._file, pixels.image.tobytes(), first_pixel + start)
                _write_all(self._file, slot.tobytes(), _HEADER_BYTES + number * _SLOT.itemsize)
            except OSError as error:
                raise _cannot(self._path, error) from error
        self._checked[index, halvings] = True

    def _view(self, index: int, halvings: int) -> UInt8[np.ndarray, "h w 3"]:
        height, width = self._shapes[index, halvings].tolist()
        start = int(self._offsets[index, halvings])
        image = self._pixels[start : start + height * width * 3].reshape(height, width, 3)
        image.flags.writeable = False
        return image

    def _checksum(self, index: int, image: np.ndarray, scale_xy: np.ndarray) -> int:
        try:
            status = os.stat(self._dataset.paths[index])
        except OSError:
            return 0  # equals none, so that reading the file says what is wrong with it
        stamp = f"{status.st_size} {status.st_mtime_ns} ".encode() + scale_xy.tobytes()
        return _FILLED | zlib.crc32(np.ascontiguousarray(image).data, zlib.crc32(stamp))


class CachedPictures:
    """Pictures from a cache, which is filled with those that it does not have."""

    def __init__(self, pictures: Pictures, cache: PictureCache):
        self._pictures, self._cache = pictures, cache

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._pictures)

    def size(self, index: int) -> tuple[int, int]:
        """Returns a picture's width and height in pixels."""
        return self._pictures.size(index)

    def objects(self, index: int) -> Objects:
        """Returns the objects of a picture that are to be learnt, so without crowd regions."""
        return self._pictures.objects(index)

    def pixels(self, index: int, longest: int, halvings: int) -> Pixels:
        """Returns a picture's pixels; `Pictures.pixels` says more."""
        if longest != self._cache.image_size:
            return self._pictures.pixels(index, longest, halvings)
        kept = self._cache.get(index, halvings)
        if kept is None:
            kept = self._pictures.pixels(index, longest, halvings)
            self._cache.put(index, halvings, kept)
        return kept


def open_cache(
    dataset: Dataset, image_size: int, kind: CacheKind, path: pathlib.Path
) -> PictureCache | None:
    """Opens the cache of a data set's pictures.

    Args:
      dataset: whose pictures.
      image_size: the longer side of pictures that are larger; smaller ones are kept as they are.
      kind: `memory` for this process alone; `disk` for a file that later runs and other processes
        use too; `none` for no cache.
      path: where the file of a `disk` cache is, from `cache_file`. One that was made for other
        pictures or another image size, or that is damaged, is replaced.

    Returns:
      The cache, empty unless an earlier run has filled its file; None for the kind `none`.

    Raises:
      UserError: there is not enough memory or disk for all pictures, or the file cannot be
        written.
    """
    if kind == "none":
        return None
    if kind == "memory":
        shapes, _ = _layout(dataset, image_size)
        total = 3 * int(shapes.prod(2).sum())
        free = int(available_memory() * (1 - MEMORY_KEPT))
        if total > free:
            raise UserError(
                f"--cache memory needs {total / _GIB:.1f} GiB for {len(dataset)} pictures of up "
                f"to {image_size} pixels, but only {free / _GIB:.1f} GiB are to be had; "
                "--cache disk or none would do"
            )
        slots = np.zeros(shapes.shape[:2], _SLOT)
        return PictureCache(dataset, image_size, slots, np.zeros(total, np.uint8), None)
    try:
        if not _is_sound(path, dataset, image_size):
            _create(path, dataset, image_size)
        return _open_file(dataset, image_size, path)
    except OSError as error:
        raise _cannot(path, error) from error


def cache_file(data: str | pathlib.Path, split: str, image_size: int) -> pathlib.Path:
    """Returns where the cache of a split is kept: beside its scan, where that can be written.

    Args:
      data: what the data set was opened by.
      split: likewise.
      image_size: the longer side of the pictures; each size has a file of its own.
    """
    files = [path.with_suffix(f".{image_size}.pictures") for path in cache_files(data, split)]
    for file in files:
        existing = next(folder for folder in file.parents if folder.exists())
        if os.access(existing, os.W_OK):
            return file
    return files[0]


def available_memory() -> int:
    """Returns how many bytes of memory this process could still take."""
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES")
        free = pages * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1 << 62  # unknown here; too large a request fails by itself
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":") for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024  # with what caches of files hold
    except (OSError, KeyError, ValueError):
        pass
    try:
        group = pathlib.Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no limit
    return max(free, 0)


def _layout(
    dataset: Dataset, image_size: int
) -> tuple[Int64[np.ndarray, "n levels 2"], Int64[np.ndarray, "n levels"]]:
    """Returns height and width of every slot's picture, and where its pixels start."""
    sizes = dataset.sizes[:, ::-1].astype(np.int64)  # height, width
    longer = sizes.max(1, keepdims=True, initial=1)
    # As `Pictures.pixels` rounds: half to even, at least one pixel.
    fitted = np.maximum(np.rint(sizes * np.minimum(1.0, image_size / longer)), 1).astype(np.int64)
    shapes = np.stack([-(-fitted // 2**halvings) for halvings in range(_LEVELS)], 1)
    lengths = 3 * shapes.prod(2).reshape(-1)
    return shapes, (np.cumsum(lengths) - lengths).reshape(len(sizes), _LEVELS)


def _header(dataset: Dataset, image_size: int) -> bytes:
    """Returns what a file's start must be for its slots to mean these pictures."""
    paths = [os.path.abspath(path) for path in dataset.paths]
    files = json.dumps([paths, dataset.sizes.tolist()])
    content = {
        "format": _FORMAT,
        "image_size": image_size,
        "pictures": len(dataset),
        "files": hashlib.sha256(files.encode()).hexdigest(),
        "opencv": cv2.__version__,  # another one may decode and resize otherwise
    }
    return json.dumps(content).encode().ljust(_HEADER_BYTES, b"\n")


def _file_bytes(dataset: Dataset, image_size: int) -> int:
    shapes, _ = _layout(dataset, image_size)
    pixels = 3 * int(shapes.prod(2).sum())
    return _HEADER_BYTES + math.prod(shapes.shape[:2]) * _SLOT.itemsize + pixels


def _is_sound(path: pathlib.Path, dataset: Dataset, image_size: int) -> bool:
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
        length = path.stat().st_size
    except FileNotFoundError:
        return False
    wanted = _file_bytes(dataset, image_size)
    return header == _header(dataset, image_size) and length == wanted


def _create(path: pathlib.Path, dataset: Dataset, image_size: int) -> None:
    """Puts an empty file in place, whole or not at all."""
    total = _file_bytes(dataset, image_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    status = os.statvfs(path.parent)
    free = status.f_bavail * status.f_frsize
    if total > free:
        raise UserError(
            f"--cache disk needs {total / _GIB:.1f} GiB in {path.parent} for {len(dataset)} "
            f"pictures of up to {image_size} pixels, but only {free / _GIB:.1f} GiB are free"
        )
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        # Taken at once, so that nobody else takes it before an epoch has filled it.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, total)
        else:
            os.truncate(descriptor, total)
        _write_all(descriptor, _header(dataset, image_size), 0)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)


def _open_file(dataset: Dataset, image_size: int, path: pathlib.Path) -> PictureCache:
    shapes, _ = _layout(dataset, image_size)
    mapped = np.asarray(np.memmap(path, np.uint8, mode="r"))
    end = _HEADER_BYTES + math.prod(shapes.shape[:2]) * _SLOT.itemsize
    slots = mapped[_HEADER_BYTES:end].view(_SLOT).reshape(shapes.shape[:2])
    return PictureCache(dataset, image_size, slots, mapped[end:], path)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _cannot(path: pathlib.Path, error: OSError) -> UserError:
    return UserError(f"{path}: the cache of pictures cannot be written: {error.strerror or error}")
