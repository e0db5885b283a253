"""Keeps decoded images at the size that training or evaluation needs, in memory or in one file.

The cache fills as images are asked for: the first epoch costs what it would cost anyway. For
training every reduction of an image (whole, half, quarter, eighth) has its own slot, so that what
comes out is bit for bit what `FileImages` would give; all four take a third more than the first.
Evaluation has one slot an image, in a cache of its own: it decodes large JPEG files whole before
it shrinks them, which gives other pixels.

A slot holds, beside the pixels, a checksum of them and of the file's size and time of change. It is
compared when a process meets the slot first, so what is stale, was damaged or was half written
when a machine went down is decoded again. Processes may read and fill the same file at once:
whoever fills a slot writes the same bytes. A run whose file another run replaces, because that has
other images, keeps the file that it holds open; processes that it starts afterwards see from the
file's header that it is another, and decode.
"""

import os
import pathlib
import sys
import zlib
from typing import Any

import numpy as np
from jaxtyping import UInt8

from yolov7_jax.data.dataset import Dataset, Objects
from yolov7_jax.data.dataset_images import fitted_image
from yolov7_jax.data.scan_cache import cache_files
from yolov7_jax.errors import UserError
from yolov7_jax.evaluate.batches import Reader
from yolov7_jax.training.pipeline.image_storage import (
    HEADER_BYTES,
    SLOT,
    FileStorage,
    MemoryStorage,
    Purpose,
    amount,
    cannot_write,
    create_file,
    header_of,
    layout_of,
    open_sound,
)
from yolov7_jax.training.pipeline.memory import available_memory
from yolov7_jax.training.pipeline.plan import Images, Pixels
from yolov7_jax.training.train_config import CacheKind

MEMORY_KEPT = 0.1  # share of the available memory that a cache leaves to everything else

_FILLED = 1 << 32  # beside 32 bits of checksum, so that no filled slot looks empty


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
        storage: MemoryStorage | FileStorage | None,
    ):
        self.image_size = image_size
        self.purpose: Purpose = purpose
        self._dataset, self._storage = dataset, storage  # without storage, nothing is kept
        self._layout = layout_of(dataset, image_size, purpose)
        self._checked = np.zeros(self._layout.offsets.shape, bool)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.in_memory:
            raise TypeError("a cache in memory cannot be sent to another process")
        made_of = self._dataset, self.image_size, self.purpose
        if isinstance(self._storage, FileStorage):
            return _reopen, (*made_of, self._storage.path, self._storage.header.rstrip())
        return ImageCache, (*made_of, None)

    @property
    def in_memory(self) -> bool:
        """Whether it belongs to this process alone."""
        return isinstance(self._storage, MemoryStorage)

    def misfits(self, image_size: int, purpose: Purpose) -> list[str]:
        """Returns what to tell about a cache that is used for something else than it is for."""
        faults = []
        if self.purpose != purpose:
            faults.append(f"cache has images for {self.purpose}, wanted {purpose}")
        if self.image_size != image_size:
            faults.append(
                f"cache has images for the image_size {self.image_size}, wanted {image_size}"
            )
        return faults

    def of(self, dataset: Dataset) -> "ImageCache":
        """Returns the same cache for the same data set in another form."""
        return ImageCache(dataset, self.image_size, self.purpose, self._storage)

    def get(self, index: int, halvings: int) -> Pixels | None:
        """Returns an image, or None where it is not kept, no longer fits its file or is damaged.

        Args:
          index: the image.
          halvings: how often its sides are halved after it is shrunk to `image_size`; 0 in a cache
            for evaluation.
        """
        if self._storage is None:
            return None
        slot = self._storage.slots[index, halvings]
        if not slot["checksum"]:
            return None
        image = self._view(self._storage.pixels, index, halvings)
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
        shape = tuple(self._layout.shapes[index, halvings].tolist())
        if pixels.image.shape != (*shape, 3):
            raise ValueError(
                f"image {index} has the shape {pixels.image.shape}, wanted {(*shape, 3)}"
            )
        if self._storage is None:
            return
        slot = np.zeros((), SLOT)
        slot["scale_xy"] = pixels.scale_xy
        slot["checksum"] = self._checksum(index, pixels.image, slot["scale_xy"])
        start = int(self._layout.offsets[index, halvings])
        self._storage.write((index, halvings), slot, start, pixels.image)
        self._checked[index, halvings] = True

    def _view(
        self, pixels: UInt8[np.ndarray, " bytes"], index: int, halvings: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        height, width = self._layout.shapes[index, halvings].tolist()
        start = int(self._layout.offsets[index, halvings])
        image = pixels[start : start + height * width * 3].reshape(height, width, 3)
        image.flags.writeable = False
        return image

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

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def size(self, index: int) -> tuple[int, int]:
        """Returns an image's width and height in pixels."""
        return self._images.size(index)

    def objects(self, index: int) -> Objects:
        """Returns the objects of an image that are to be learnt, so without crowd regions."""
        return self._images.objects(index)

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
    layout = layout_of(dataset, image_size, purpose)
    images = f"{len(dataset)} images of up to {image_size} pixels"
    if kind == "memory":
        free = int(available_memory() * (1 - MEMORY_KEPT))
        if layout.pixel_bytes > free:
            raise UserError(
                f"--cache memory needs {amount(layout.pixel_bytes)} for {images}, "
                f"but only {amount(free)} are to be had; --cache disk or none would do"
            )
        return ImageCache(dataset, image_size, purpose, MemoryStorage(layout))
    header = header_of(dataset, image_size, purpose)
    try:
        descriptor = open_sound(path, header, layout.file_bytes)
        if descriptor is None:
            descriptor = create_file(path, header, layout.file_bytes, images)
        storage = FileStorage(path, header, descriptor, layout)
    except OSError as error:
        raise cannot_write(path, error) from error
    return ImageCache(dataset, image_size, purpose, storage)


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


def _reopen(
    dataset: Dataset, image_size: int, purpose: Purpose, path: pathlib.Path, header: bytes
) -> ImageCache:
    """Opens a file in another process than the one that looked after it."""
    layout = layout_of(dataset, image_size, purpose)
    header = header.ljust(HEADER_BYTES, b"\n")
    storage = None
    try:
        descriptor = open_sound(path, header, layout.file_bytes)
        if descriptor is not None:
            storage = FileStorage(path, header, descriptor, layout)
    except OSError:
        pass  # as good as replaced
    if storage is None:
        print(
            f"warning: {path}: this cache of images has been replaced by another run; "
            "a process of this one goes on without",
            file=sys.stderr,
        )
    return ImageCache(dataset, image_size, purpose, storage)
