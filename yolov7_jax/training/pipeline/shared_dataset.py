"""A data set that worker processes open instead of receiving a copy each."""

import pathlib
from typing import Any

import numpy as np

from yolov7_jax.data.dataset import Dataset, Polygons

_ARRAYS = ("sizes", "offsets", "labels", "boxes", "crowd", "image_ids", "category_ids", "areas")
_TEXTS = ("names", "paths")


class SharedDataset(Dataset):
    """A data set of which a pickle holds only the folder with its arrays.

    Every process maps the same files, so that they share the memory.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return open_shared, (str(self.folder),)

    @property
    def folder(self) -> pathlib.Path:
        """Where the arrays are."""
        return self.__dict__["_folder"]


def share(dataset: Dataset, folder: pathlib.Path) -> SharedDataset:
    """Writes a data set's arrays into files, to be opened in other processes.

    Args:
      dataset: what to share.
      folder: an empty folder, which must stay as long as the result is in use.
    """
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", getattr(dataset, name))
    for name, array in dataset.polygons._asdict().items():
        np.save(folder / f"polygons.{name}.npy", array)
    for name in _TEXTS:
        np.save(folder / f"{name}.npy", _encode(getattr(dataset, name)))
    return open_shared(str(folder))


def open_shared(folder: str) -> SharedDataset:
    """Opens what `share` has written."""
    path = pathlib.Path(folder)

    def load(name: str) -> np.ndarray:
        # Not a memmap, whose slices cost more; the memory is shared all the same.
        return np.asarray(np.load(path / f"{name}.npy", mmap_mode="r"))

    polygons = Polygons(*(load(f"polygons.{name}") for name in Polygons._fields))
    arrays = {name: load(name) for name in _ARRAYS}
    names, paths = (_decode(load(name)) for name in _TEXTS)
    shared = SharedDataset(names, paths, polygons=polygons, **arrays)
    shared.__dict__["_folder"] = path  # the data class is frozen
    return shared


def _encode(texts: tuple[str, ...]) -> np.ndarray:
    """Returns texts one after the other, each with a zero at its end, which no path holds."""
    joined = "".join(f"{text}\0" for text in texts)
    return np.frombuffer(joined.encode("utf-8", "surrogateescape"), np.uint8)


def _decode(encoded: np.ndarray) -> tuple[str, ...]:
    return tuple(encoded.tobytes().decode("utf-8", "surrogateescape").split("\0")[:-1])
