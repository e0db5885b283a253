"""Keeps decoded images at the size that training or evaluation needs, in memory or in one file.

The cache fills as images are asked for: the first epoch costs what it would cost anyway. For
training every reduction of an image (whole, half, quarter, eighth) has its own slot, so that what
comes out is bit for bit what `FileImages` would give; all four take a third more than the first.
Evaluation has one slot an image, in a cache of its own: it decodes large JPEG files whole before
it shrinks them, which gives other pixels.

The bytes are the same in memory and in a file: a header, which says what images these are; the
slots; the pixels. A slot holds a checksum of its pixels and of the image file's size and time of
change. It is compared when a process meets the slot first, so what is stale, was damaged or was
half written when a machine went down is decoded again. Processes may read and fill the same file
at once: whoever fills a slot writes the same bytes. A run whose file another run replaces, because
that has other images, keeps the file that it holds open; processes that it starts afterwards see
from the file's header that it is another, and decode.
"""

import contextlib
import errno
import hashlib
import json
import math
import mmap
import os
import pathlib
import sys
import weakref
import zlib
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.data.images import fitted_image
from yolov7_jax.data.scan_cache import cache_files
from yolov7_jax.errors import UserError
from yolov7_jax.evaluate.batches import Reader
from yolov7_jax.files import replacing
from yolov7_jax.training.pipeline.memory import available_memory
from yolov7_jax.training.pipeline.plan import MAX_HALVINGS, Images, Pixels
from yolov7_jax.training.train_config import CacheKind

Purpose = Literal["training", "evaluation"]

MEMORY_KEPT = 0.1  # share of the available memory that a cache leaves to everything else

_FORMAT = "yolov7_jax images 3"
_HEADER_BYTES = 128
_SLOT = np.dtype([("checksum", "<u8"), ("scale_xy", "<f8", 2)])
_FILLED = 1 << 32  # beside 32 bits of checksum, so that no filled slot looks empty
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Layout(NamedTuple):
    """Where everything of a data set's images lies.

    Attributes:
      header: how the bytes start; that of other images, sizes or purposes differs.
      shapes: height and width of the image in each slot.
      starts: the first byte of its pixels.
      length: of everything, in bytes.
    """

    header: bytes
    shapes: Int64[np.ndarray, "n levels 2"]
    starts: Int64[np.ndarray, "n levels"]
    length: int


class ImageCache:
    """Where decoded images are kept; see `open_cache`.

    Attributes:
      image_size: the longer side of images that are larger.
      purpose: what the pixels are for.
    """

    def __init__(
        self,
        dataset: Dataset,
        image_size: int,
        purpose: Purpose,
        path: pathlib.Path | None = None,
        descriptor: int | None = None,
    ):
        """Maps a file, held open so that it stays the same one; or memory, without a path.

        With a path alone, which another run has put its own file at, nothing is kept.
        """
        self.image_size, self.purpose = image_size, purpose
        self._dataset, self._path, self._descriptor = dataset, path, descriptor
        self._layout = layout = _layout_of(dataset, image_size, purpose)
        shape = layout.starts.shape
        self._checked = np.zeros(shape, bool)
        self._replaced = path is not None and descriptor is None
        if self._replaced:
            return
        if descriptor is None:
            mapped = mmap.mmap(-1, layout.length)
        else:
            weakref.finalize(self, os.close, descriptor)
            mapped = mmap.mmap(descriptor, layout.length, access=mmap.ACCESS_READ)
        self._content = np.frombuffer(mapped, np.uint8)  # not a memmap, whose slices cost more
        slots = self._content[_HEADER_BYTES : _HEADER_BYTES + math.prod(shape) * _SLOT.itemsize]
        self._slots = slots.view(_SLOT).reshape(shape)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.in_memory:
            raise TypeError("a cache in memory cannot be sent to another process")
        return _reopen, (self._dataset, self.image_size, self.purpose, self._path)

    @property
    def in_memory(self) -> bool:
        """Whether it belongs to this process alone."""
        return self._path is None

    def misfits(self, image_size: int, purpose: Purpose) -> list[str]:
        """Returns what to tell about a cache that is used for something else than it is for."""
        faults = []
        if self.purpose != purpose:
            faults.append(f"cache has images for {self.purpose}, wanted {purpose}")
        if self.image_size != image_size:
            has = f"the image_size {self.image_size}"
            faults.append(f"cache has images for {has}, wanted {image_size}")
        return faults

    def get(self, index: int, halvings: int) -> Pixels | None:
        """Returns an image, or None where it is not kept, no longer fits its file or is damaged.

        Args:
          index: the image.
          halvings: how often its sides are halved after it is shrunk to `image_size`; 0 in a cache
            for evaluation.
        """
        if self._replaced:
            return None
        slot = self._slots[index, halvings]
        if not slot["checksum"]:
            return None
        height, width = self._layout.shapes[index, halvings].tolist()
        start = int(self._layout.starts[index, halvings])
        pixels = self._content[start : start + height * width * 3]
        image = pixels.reshape(height, width, 3)
        image.flags.writeable = False
        scale_xy = slot["scale_xy"].copy()
        if not self._checked[index, halvings]:
            if slot["checksum"] != self._checksum(index, image, scale_xy):
                return None
            self._checked[index, halvings] = True
        scale_x, scale_y = scale_xy.tolist()
        return Pixels(image, (scale_x, scale_y))

    def put(self, index: int, halvings: int, pixels: Pixels) -> None:
        """Keeps an image.

        Raises:
          ValueError: the pixels are not of the size that the slot is for.
          UserError: the file cannot be written.
        """
        shape = (*self._layout.shapes[index, halvings].tolist(), 3)
        if pixels.image.shape != shape:
            raise ValueError(f"image {index} has the shape {pixels.image.shape}, wanted {shape}")
        if self._replaced:
            return
        slot = np.zeros((), _SLOT)
        slot["scale_xy"] = pixels.scale_xy
        slot["checksum"] = self._checksum(index, pixels.image, slot["scale_xy"])
        number = index * len(self._checked[index]) + halvings
        self._write(pixels.image.tobytes(), int(self._layout.starts[index, halvings]))
        self._write(slot.tobytes(), _HEADER_BYTES + number * _SLOT.itemsize)
        self._checked[index, halvings] = True

    def _write(self, content: bytes, start: int) -> None:
        if self._path is None or self._descriptor is None:
            self._content[start : start + len(content)] = np.frombuffer(content, np.uint8)
            return
        # Not through the mapping: a full disk is an error here, and the end of us there.
        rest = memoryview(content)
        try:
            while rest:
                written = os.pwrite(self._descriptor, rest, start)
                rest, start = rest[written:], start + written
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def _checksum(self, index: int, image: np.ndarray, scale_xy: np.ndarray) -> int:
        try:
            status = os.stat(self._dataset.paths[index])
        except OSError:
            return 0  # equals none, so that reading the file says what is wrong with it
        stamp = f"{status.st_size} {status.st_mtime_ns} ".encode() + scale_xy.tobytes()
        return _FILLED | zlib.crc32(np.ascontiguousarray(image).data, zlib.crc32(stamp))


class CachedImages:
    """Images from a cache, which is filled with those that it does not have."""

    def __init__(self, images: Images, cache: ImageCache):
        self._images, self._cache = images, cache
        self.size, self.objects = images.size, images.objects

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def pixels(self, index: int, longest: int, halvings: int) -> Pixels:
        """Returns an image's pixels; `Images.pixels` says more."""
        if longest != self._cache.image_size:
            return self._images.pixels(index, longest, halvings)
        kept = self._cache.get(index, halvings)
        if kept is None:
            kept = self._images.pixels(index, longest, halvings)
            self._cache.put(index, halvings, kept)
        return kept


def cached_reader(dataset: Dataset, image_size: int, cache: ImageCache) -> Reader:
    """Returns what reads images for `eval_batches`, and keeps them.

    Raises:
      ValueError: the cache is for something else.
    """
    faults = cache.misfits(image_size, "evaluation")
    if faults:
        raise ValueError("; ".join(faults))

    def read(row: int) -> UInt8[np.ndarray, "h w 3"]:
        kept = cache.get(row, 0)
        if kept is not None:
            return kept.image
        image = fitted_image(dataset, image_size, row)
        width, height = dataset.sizes[row].tolist()
        cache.put(row, 0, Pixels(image, (image.shape[1] / width, image.shape[0] / height)))
        return image

    return read


def open_cache(
    dataset: Dataset,
    image_size: int,
    kind: CacheKind,
    path: pathlib.Path,
    purpose: Purpose = "training",
) -> ImageCache | None:
    """Opens the cache of a data set's images.

    Args:
      dataset: whose images.
      image_size: the longer side of images that are larger; smaller ones are kept as they are.
      kind: `memory` for this process alone; `disk` for a file that later runs and other processes
        use too; `none` for no cache.
      path: where the file of a `disk` cache is, from `cache_file`. One that was made for other
        images, another image size or another purpose, or that is damaged, is replaced.
      purpose: whether `train_batches` or `eval_batches` will use it.

    Returns:
      The cache, empty unless an earlier run has filled its file; None for the kind `none`.

    Raises:
      UserError: there is not enough memory or disk for all images, or the file cannot be
        written.
    """
    if kind == "none":
        return None
    layout = _layout_of(dataset, image_size, purpose)
    wanted = f"needs {_amount(layout.length)}"
    images = f"for {len(dataset)} images of up to {image_size} pixels"
    if kind == "memory":
        free = int(available_memory() * (1 - MEMORY_KEPT))
        if layout.length > free:
            raise UserError(
                f"--cache memory {wanted} {images}, but only {_amount(free)} are to be had; "
                "--cache disk or none would do"
            )
        return ImageCache(dataset, image_size, purpose)
    needs = f"--cache disk {wanted} in {path.parent} {images}"
    try:
        while (descriptor := _open_valid(path, layout)) is None:
            _create_file(path, layout, needs)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise UserError(f"{needs}: {error.strerror}") from error
        raise _cannot_write(path, error) from error
    return ImageCache(dataset, image_size, purpose, path, descriptor)


def cache_file(data: str | pathlib.Path, split: str, image_size: int) -> pathlib.Path:
    """Returns where the cache of a split is kept: beside its scan, where that can be written.

    Args:
      data: what the data set was opened by.
      split: likewise.
      image_size: the longer side of the images; each size has a file of its own.
    """
    files = [path.with_suffix(f".{image_size}.images") for path in cache_files(data, split)]
    for file in files:
        existing = next(folder for folder in file.parents if folder.exists())
        if os.access(existing, os.W_OK):
            return file
    return files[0]


def _layout_of(dataset: Dataset, image_size: int, purpose: Purpose) -> _Layout:
    paths = [os.path.abspath(path) for path in dataset.paths]
    # Another OpenCV may decode and resize otherwise.
    content = [purpose, image_size, cv2.__version__, paths, dataset.sizes.tolist()]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    header = f"{_FORMAT} {digest}".encode().ljust(_HEADER_BYTES, b"\n")
    sizes = dataset.sizes[:, ::-1].astype(np.int64)  # height, width
    longer = sizes.max(1, keepdims=True, initial=1)
    # As `Images.pixels` rounds: half to even, at least one pixel.
    fitted = np.maximum(np.rint(sizes * np.minimum(1.0, image_size / longer)), 1).astype(np.int64)
    levels = MAX_HALVINGS + 1 if purpose == "training" else 1
    shapes = np.stack([-(-fitted // 2**halvings) for halvings in range(levels)], 1)
    first = _HEADER_BYTES + len(sizes) * levels * _SLOT.itemsize
    ends = first + np.cumsum(3 * shapes.prod(2))
    starts = np.concatenate([[first], ends[:-1]])[: len(ends)].reshape(len(sizes), levels)
    return _Layout(header, shapes, starts, int(ends[-1]) if len(ends) else first)


def _open_valid(path: pathlib.Path, layout: _Layout) -> int | None:
    """Opens a file, or returns None where there is none or it is for something else."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        # Looked at through the descriptor: by its name, it might be another file by now.
        found = os.pread(descriptor, _HEADER_BYTES, 0), os.fstat(descriptor).st_size
    except OSError:
        found = None
    if found == (layout.header, layout.length):
        return descriptor
    os.close(descriptor)
    return None


def _create_file(path: pathlib.Path, layout: _Layout, needs: str) -> None:
    """Puts an empty file in place, whole or not at all; leaves one that is valid by then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # which makes room
    status = os.statvfs(path.parent)
    free = status.f_bavail * status.f_frsize
    if layout.length > free:
        raise UserError(f"{needs}, but only {_amount(free)} are free")
    with replacing(path) as temporary:
        with temporary.open("xb") as file:
            # Taken at once, so that nobody else takes it before an epoch has filled it.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, layout.length)
            else:
                file.truncate(layout.length)
            file.write(layout.header)
        if _open_valid(path, layout) is not None:  # of a run that started just now
            os.replace(path, temporary)  # both fill that one


def _reopen(dataset: Dataset, image_size: int, purpose: Purpose, path: pathlib.Path) -> ImageCache:
    descriptor = None
    with contextlib.suppress(OSError):  # as good as replaced
        descriptor = _open_valid(path, _layout_of(dataset, image_size, purpose))
    if descriptor is None:
        print(
            f"warning: {path}: this cache of images has been replaced by another run; "
            "a process of this one goes on without",
            file=sys.stderr,
        )
    return ImageCache(dataset, image_size, purpose, path, descriptor)


def _amount(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _cannot_write(path: pathlib.Path, error: OSError) -> UserError:
    return UserError(f"{path}: the cache of images cannot be written: {error.strerror or error}")
