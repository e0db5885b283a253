"""A detection data set in memory: where the images are, and every object in them."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64
from numpy.typing import ArrayLike

ONE_CLASS = "object"
_PARTS_AT_ONCE = 50_000


class Polygons(NamedTuple):
    """Outlines of objects, flat; an object has any number of parts, or none.

    Attributes:
      points: x and y of all corners.
      point_offsets: the corners of part j are the rows `point_offsets[j]:point_offsets[j + 1]`.
      part_offsets: the parts of object i are `part_offsets[i]:part_offsets[i + 1]`.
    """

    points: Float32[np.ndarray, "points 2"]
    point_offsets: Int64[np.ndarray, " parts+1"]
    part_offsets: Int64[np.ndarray, " objects+1"]

    @classmethod
    def none(cls, num_objects: int) -> Self:
        """Returns the outlines of objects that have none."""
        return cls(
            np.zeros((0, 2), np.float32),
            np.zeros(1, np.int64),
            np.zeros(num_objects + 1, np.int64),
        )

    @classmethod
    def pack(cls, objects: Sequence[Sequence[np.ndarray]]) -> Self:
        """Returns the outlines of objects, each a list of parts `[corners, 2]`."""
        parts = [part for of_object in objects for part in of_object]
        points = np.concatenate(parts) if parts else np.zeros((0, 2))
        return cls(
            points.astype(np.float32),
            offsets_of([len(part) for part in parts]),
            offsets_of([len(of_object) for of_object in objects]),
        )

    def of_objects(self, start: int, stop: int) -> Self:
        """Returns the outlines of the objects `start:stop`; `points` is a view."""
        parts = self.part_offsets[start : stop + 1]
        corners = self.point_offsets[parts[0] : parts[-1] + 1]
        points = self.points[corners[0] : corners[-1]]
        return type(self)(points, corners - corners[0], parts - parts[0])

    def take(self, objects: Int64[np.ndarray, " k"] | Bool[np.ndarray, " objects"]) -> Self:
        """Returns the outlines of chosen objects.

        Args:
          objects: their rows, in the order wanted; or which of all objects.
        """
        starts, parts_of = self.part_offsets[:-1][objects], np.diff(self.part_offsets)[objects]
        parts = _ranges(starts, parts_of)
        starts, lengths = self.point_offsets[parts], np.diff(self.point_offsets)[parts]
        point_offsets = offsets_of(lengths)
        points = np.empty((point_offsets[-1], 2), np.float32)
        # A part at a time would be slow, and all indices at once as large as several copies.
        for first in range(0, len(parts), _PARTS_AT_ONCE):
            part = slice(first, first + _PARTS_AT_ONCE)
            rows = _ranges(starts[part], lengths[part])
            start = point_offsets[first]
            points[start : start + len(rows)] = self.points[rows]
        return type(self)(points, point_offsets, offsets_of(parts_of))

    def without(self, objects: Sequence[int] | Int64[np.ndarray, " k"]) -> Self:
        """Returns the same with no outlines for some objects, given by their rows."""
        parts = np.diff(self.part_offsets)
        parts[objects] = 0
        return self.take(parts > 0)._replace(part_offsets=offsets_of(parts))

    def object_offsets(self) -> Int64[np.ndarray, " objects+1"]:
        """Returns where the corners of each object start, whatever their parts."""
        return self.point_offsets[self.part_offsets]


class Objects(NamedTuple):
    """The ground truth of one image.

    Attributes:
      labels: class indices.
      boxes_cxcywh: normalised by the image's width and height.
      crowd: regions with many objects of the class: nothing to learn, and no fault to detect in.
      polygons: outlines, normalised likewise.
    """

    labels: Int32[np.ndarray, " m"]
    boxes_cxcywh: Float32[np.ndarray, "m 4"]
    crowd: Bool[np.ndarray, " m"]
    polygons: Polygons


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a detection data set.

    The objects of all images stand in one array, so that a large data set costs no Python
    object per box and is cheap to share with worker processes.

    Attributes:
      names: the classes.
      paths: one file per image.
      sizes: width and height of each image in pixels, upright.
      offsets: the objects of image i are the rows `offsets[i]:offsets[i + 1]`.
      labels: class index of each object.
      boxes: centre, width and height of each object, normalised by its image's size.
      crowd: which objects are crowd regions; none if not given.
      polygons: outlines of the objects, normalised likewise; none if not given.
      image_ids: what the source calls each image; 0, 1, 2 ... if not given.
      category_ids: what the source calls each class; 0, 1, 2 ... if not given.
      areas: pixels that each object covers, by which accuracy tells small from large; those of
        its box if not given.

    Raises:
      ValueError: the arrays do not fit together.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    sizes: Int32[np.ndarray, "n 2"]
    offsets: Int64[np.ndarray, " n+1"]
    labels: Int32[np.ndarray, " objects"]
    boxes: Float32[np.ndarray, "objects 4"]
    crowd: Bool[np.ndarray, " objects"] = None  # type: ignore[assignment] - filled below
    polygons: Polygons = None  # type: ignore[assignment] - filled below
    image_ids: Int64[np.ndarray, " n"] = None  # type: ignore[assignment] - filled below
    category_ids: Int64[np.ndarray, " classes"] = None  # type: ignore[assignment] - filled below
    areas: Float32[np.ndarray, " objects"] = None  # type: ignore[assignment] - filled below

    def __post_init__(self):
        num_images, num_objects = len(self.paths), len(self.labels)
        defaults = {
            "crowd": lambda: np.zeros(num_objects, bool),
            "polygons": lambda: Polygons.none(num_objects),
            "image_ids": lambda: np.arange(num_images, dtype=np.int64),
            "category_ids": lambda: np.arange(len(self.names), dtype=np.int64),
            "areas": self._box_areas,
        }
        wanted = {
            "sizes": (num_images, 2),
            "offsets": (num_images + 1,),
            "labels": (num_objects,),
            "boxes": (num_objects, 4),
            "crowd": (num_objects,),
            "image_ids": (num_images,),
            "category_ids": (len(self.names),),
            "areas": (num_objects,),
        }
        faults = [
            f"{name} has the shape {getattr(self, name).shape}, wanted {shape}"
            for name, shape in wanted.items()
            if getattr(self, name) is not None and getattr(self, name).shape != shape
        ]
        if not faults and (self.offsets[0] != 0 or self.offsets[-1] != num_objects):
            faults.append(f"offsets must run from 0 to the number of objects, {num_objects}")
        if self.polygons is not None and len(self.polygons.part_offsets) != num_objects + 1:
            faults.append(f"polygons must have outlines of {num_objects} objects")
        if faults:
            raise ValueError("; ".join(faults))
        for name, make in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, make())

    def _box_areas(self) -> np.ndarray:
        sizes = np.repeat(self.sizes, np.diff(self.offsets), axis=0)  # [objects, 2]
        return np.prod(self.boxes[:, 2:] * sizes, axis=1, dtype=np.float32)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def fingerprint(self) -> str:
        """Returns a hash of everything here but the images' folders, and their ids and areas.

        So it covers the names of classes and files, in their order, the sizes of the images,
        and class, box, crowd mark and outlines of every object, but no pixels.
        """
        digest = hashlib.sha256()
        files = [pathlib.PurePath(path).name for path in self.paths]
        digest.update(repr((self.names, files)).encode())
        for field in (self.sizes, self.offsets, self.labels, self.boxes, self.crowd):
            digest.update(np.ascontiguousarray(field).tobytes())
        for field in self.polygons:
            digest.update(np.ascontiguousarray(field).tobytes())
        return digest.hexdigest()

    def objects_of(self, index: int) -> Objects:
        """Returns the objects of one image.

        Args:
          index: the image, in `[0, len(self))`.

        Raises:
          IndexError: there is no such image.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} is outside [0, {len(self)})")
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        return Objects(
            self.labels[start:stop],
            self.boxes[start:stop],
            self.crowd[start:stop],
            self.polygons.of_objects(start, stop),
        )


def offsets_of(counts: ArrayLike) -> Int64[np.ndarray, " n+1"]:
    """Returns where groups of these sizes start, one after the other, and where the last ends."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns `[*range(start, start + count), ...]` over all pairs."""
    ends = offsets_of(counts)
    return np.arange(ends[-1]) + np.repeat(starts - ends[:-1], counts)


def as_one_class(dataset: Dataset) -> Dataset:
    """Returns a data set whose objects are all of one class, called "object"."""
    return dataclasses.replace(
        dataset,
        names=(ONE_CLASS,),
        labels=np.zeros_like(dataset.labels),
        category_ids=dataset.category_ids[:1],
    )
