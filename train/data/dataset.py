"""A detection data set in memory: where the pictures are, and every object in them."""

import dataclasses
import hashlib
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64


class Objects(NamedTuple):
    """The ground truth of one picture.

    Attributes:
      labels: class indices.
      boxes_cxcywh: normalised by the picture's width and height.
    """

    labels: Int32[np.ndarray, " m"]
    boxes_cxcywh: Float32[np.ndarray, "m 4"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a detection data set.

    The objects of all pictures stand in one array, so that a large data set costs no Python
    object per box and is cheap to share with worker processes.

    Attributes:
      names: the classes.
      paths: one file per picture.
      sizes: width and height of each picture in pixels, upright.
      offsets: the objects of picture i are the rows `offsets[i]:offsets[i + 1]`.
      labels: class index of each object.
      boxes: centre, width and height of each object, normalised by its picture's size.

    Raises:
      ValueError: the arrays do not fit together.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    sizes: Int32[np.ndarray, "n 2"]
    offsets: Int64[np.ndarray, " n+1"]
    labels: Int32[np.ndarray, " objects"]
    boxes: Float32[np.ndarray, "objects 4"]

    def __post_init__(self):
        num_images, num_objects = len(self.paths), len(self.labels)
        wanted = {
            "sizes": (num_images, 2),
            "offsets": (num_images + 1,),
            "labels": (num_objects,),
            "boxes": (num_objects, 4),
        }
        faults = [
            f"{name} has the shape {getattr(self, name).shape}, wanted {shape}"
            for name, shape in wanted.items()
            if getattr(self, name).shape != shape
        ]
        if not faults and (self.offsets[0] != 0 or self.offsets[-1] != num_objects):
            faults.append(f"offsets must run from 0 to the number of objects, {num_objects}")
        if faults:
            raise ValueError("; ".join(faults))

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.paths)

    def fingerprint(self) -> str:
        """Returns a hash of all but the folders: names of classes and files, sizes, objects."""
        digest = hashlib.sha256()
        files = [pathlib.PurePath(path).name for path in self.paths]
        digest.update(repr((self.names, files)).encode())
        for field in (self.sizes, self.offsets, self.labels, self.boxes):
            digest.update(np.ascontiguousarray(field).tobytes())
        return digest.hexdigest()

    def objects_of(self, index: int) -> Objects:
        """Returns the objects of one picture.

        Args:
          index: the picture, in `[0, len(self))`.

        Raises:
          IndexError: there is no such picture.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} is outside [0, {len(self)})")
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return Objects(self.labels[rows], self.boxes[rows])
