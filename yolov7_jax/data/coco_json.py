"""Reads data sets in COCO's JSON format: boxes, polygons and crowd regions."""

import array
import collections
import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolov7_jax.data.assemble import Found, Place
from yolov7_jax.data.dataset import Polygons
from yolov7_jax.data.faults import Fault, Kind, quoted, shown
from yolov7_jax.data.json_stream import iterate_lists
from yolov7_jax.data.parallel import map_files
from yolov7_jax.data.picture_size import examine_picture
from yolov7_jax.errors import UserError

LISTS = ("images", "annotations", "categories")
LEAST_CORNERS = 3
PROBES = 50  # pictures that are looked for to find their folder
_LARGEST_ID = 2**62
_LARGEST_FLOAT_ID = 2**53  # beyond, a floating-point number stands for several whole ones


@dataclasses.dataclass(frozen=True)
class CocoJson:
    """A split in COCO's format.

    Classes are the categories in ascending order of their ids, or, where a data.yaml gives
    `names`, the classes of those names. Objects with `iscrowd` are crowd regions. Outlines come
    from polygons; masks in run lengths, compressed or not, give none, so such an object has its
    box alone. Ids may be written as 3.0, as tables with gaps write them.

    Attributes:
      file: the JSON file.
      names: the classes; None where the file names them.
      folders: where the pictures may be; the first that has some of them counts.
      notes: what there is to tell about how the split was found.
    """

    file: Path
    names: tuple[str, ...] | None
    folders: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def digest(self, workers: int) -> str:
        """Returns a hash of all that the scan depends on, but for the pictures."""
        del workers  # one file is read in one go
        digest = hashlib.blake2b(digest_size=32)
        digest.update(repr(("coco_json", self.names, list(map(str, self.folders)))).encode())
        try:
            with self.file.open("rb") as file:
                while chunk := file.read(1 << 24):
                    digest.update(chunk)
        except OSError as error:
            raise UserError(f"{self.file}: cannot be read: {error.strerror or error}") from error
        return digest.hexdigest()

    def without_labels(self) -> str:
        """Says where labels were looked for, where there are none."""
        return f"no annotation in {self.file} is of a picture that is used"

    def read(self, *, decode: bool, workers: int) -> Found:
        """Looks at every file; see `Found`.

        Raises:
          UserError: the file is not JSON, or not COCO's, or no picture is in any of the folders.
        """
        table, images, categories = self._parse()
        faults = table.faults
        category_ids, names, label_of = self._classes(categories)
        paths, annotated, image_ids = self._images(images, faults)
        examine = functools.partial(examine_picture, decode=decode)
        sizes = np.zeros((len(paths), 2), np.int32)
        looks = map_files(examine, paths, workers=workers, title="pictures")
        for row, (size, fault) in enumerate(looks):
            sizes[row] = size
            if 0 not in (*size, *annotated[row]) and annotated[row] != size:
                fault = _other_size(paths[row], size, annotated[row])
                sizes[row] = 0
            if fault is not None:
                faults.append(fault)
        return table.found(
            str(self.file), names, category_ids, label_of, tuple(paths), sizes, image_ids
        )

    def _parse(self) -> tuple["_Annotations", list[tuple[Any, int]], list[Any]]:
        table = _Annotations(str(self.file))
        images, categories, nulls, counts = [], [], [], collections.Counter()

        def take(key: str, value: Any, line: int) -> None:
            if key == "annotations":
                table.add(value, line)
            elif key == "images":
                images.append((value, line))
            else:
                categories.append(value)

        for key, value, line in iterate_lists(self.file, LISTS):
            counts[key] += 1
            if value is None:
                nulls.append((key, line))
            else:
                take(key, value, line)
        for key, line in nulls:
            if counts[key] > 1:  # an empty list comes as one None
                take(key, None, line)
        missing = [key for key in LISTS if key not in counts]
        if missing:
            raise UserError(
                f"{self.file}: is not COCO JSON with objects: it has no {', '.join(missing)}"
            )
        return table, images, categories

    def _classes(self, categories: list[Any]) -> tuple[np.ndarray, tuple[str, ...], dict[int, int]]:
        """Returns the id of each class, the names, and the class of each category id."""
        names: dict[int, str] = {}
        for category in categories:
            identity = _identity(category.get("id")) if isinstance(category, dict) else None
            if identity is None:
                raise UserError(
                    f"{self.file}: a category must have a whole number as id, "
                    f"got {quoted(category)}"
                )
            if identity in names:
                raise UserError(f"{self.file}: two categories have the id {identity}")
            names[identity] = str(category.get("name", identity))
        own = [names[identity] for identity in sorted(names)]
        twice = [name for name in dict.fromkeys(own) if own.count(name) > 1]
        if twice or not own:
            what = f"two categories have the name {twice[0]!r}" if twice else "has no categories"
            raise UserError(f"{self.file}: {what}")
        wanted = self.names or tuple(own)
        strange = [name for name in own if name not in wanted]
        if strange:
            # Never by position: a file whose ids are in another order would swap classes.
            raise UserError(
                f"{self.file}: category {strange[0]!r} is not among the {len(wanted)} 'names' of "
                "the data.yaml; without 'names' those of the file are used"
            )
        ids = {name: identity for identity, name in names.items()}
        # A class that this file lacks has an id that no category has.
        category_ids = [ids.get(name, -1) for name in wanted]
        label_of = {identity: label for label, identity in enumerate(category_ids)}
        label_of.pop(-1, None)
        return np.array(category_ids, np.int64), wanted, label_of

    def _images(
        self, images: list[tuple[Any, int]], faults: list[Fault]
    ) -> tuple[list[str], list[tuple[int, int]], np.ndarray]:
        """Returns path, annotated size (zeros if unknown) and id of every picture."""
        ids: dict[int, int] = {}
        files: dict[str, int] = {}
        sizes = []
        for image, line in images:
            place = Place(str(self.file), line, "image")
            identity, file = None, None
            if isinstance(image, dict):
                identity, file = _identity(image.get("id")), image.get("file_name")
            if identity is None or not isinstance(file, str) or not file or "\0" in file:
                reason = f"wanted a whole number as id and a file_name, got {quoted(image)}"
                faults.append(place.fault(Kind.MISSING_PICTURE, reason))
                continue
            place = place._replace(subject=f"image {identity}")
            if identity in ids or file in files:
                reason = f"another image has the id {identity}"
                if identity not in ids:
                    reason = f"image {files[file]} has the same file_name {shown(file)}"
                faults.append(place.fault(Kind.REPEATED_PICTURE, reason))
                continue
            ids[identity] = files[file] = identity
            width, height = _identity(image.get("width")), _identity(image.get("height"))
            known = width is not None and height is not None and min(width, height) > 0
            sizes.append((width, height) if known else (0, 0))
        if not ids:
            more = f"; {faults[0]}" if faults else ""
            raise UserError(f"{self.file}: names no pictures{more}")
        folder = self._folder(list(files))
        return [os.path.join(folder, name) for name in files], sizes, np.array(list(ids), np.int64)

    def _folder(self, files: Sequence[str]) -> str:
        """Returns the first folder that has some of the pictures."""
        probes = files[:: max(1, len(files) // PROBES)]
        for folder in self.folders:
            if any(os.path.exists(os.path.join(folder, name)) for name in probes):
                return str(folder)
        places = ", ".join(str(folder) for folder in self.folders)
        raise UserError(
            f"{self.file}: its pictures ({shown(files[0])}, ...) are in none of {places}; "
            "a data.yaml can name their folder as 'images'"
        )


class _Annotations:
    """The annotations as they come, in flat arrays; picture and class still by their ids."""

    def __init__(self, file: str):
        self.file = file
        self.faults: list[Fault] = []
        self.ids, self.images = array.array("q"), array.array("q")
        self.categories, self.lines = array.array("q"), array.array("i")
        self.boxes, self.areas = array.array("d"), array.array("f")
        self.crowd = array.array("b")
        self.points = array.array("f")
        self.corners, self.parts = array.array("i"), array.array("i")
        self.masks = 0  # of objects, in run lengths

    def add(self, annotation: Any, line: int) -> None:
        if not isinstance(annotation, dict):
            reason = f"wanted an object, got {quoted(annotation)}"
            self.faults.append(_place(self.file, line, -1).fault(Kind.MALFORMED, reason))
            return
        identity = _identity(annotation.get("id"))
        if identity is None:
            identity = -1
        place = _place(self.file, line, identity)
        image = _identity(annotation.get("image_id"))
        category = _identity(annotation.get("category_id"))
        if image is None or category is None or not _is_box(annotation.get("bbox")):
            self.faults.append(place.fault(Kind.MALFORMED, _problem(annotation)))
            return
        self.ids.append(identity)
        self.images.append(image)
        self.categories.append(category)
        self.lines.append(line)
        self.boxes.extend(annotation["bbox"])
        area = annotation.get("area")
        if not isinstance(area, (int, float)) or not 0 < area < _LARGEST_ID:
            area = math.nan
        self.areas.append(area)
        crowd = annotation.get("iscrowd") in (1, "1")
        self.crowd.append(crowd)
        self._outline(annotation.get("segmentation"), crowd, place)

    def _outline(self, parts: Any, crowd: bool, place: Place) -> None:
        problem = ""
        if isinstance(parts, dict):
            self.masks += not crowd
            parts = []
        if crowd or parts is None:
            parts = []
        if not isinstance(parts, list):
            problem = f"segmentation must be a list of polygons, got {quoted(parts)}"
            parts = []
        before, count = len(self.points), 0
        for part in parts:
            if not isinstance(part, list) or len(part) < 2 * LEAST_CORNERS or len(part) % 2:
                got = f"{len(part)} numbers" if isinstance(part, list) else quoted(part)
                problem = f"a polygon must be x1 y1 x2 y2 x3 y3 ..., got {got}"
                break
            try:
                self.points.extend(part)
            except (TypeError, OverflowError):
                problem = "a polygon must have numbers alone"
                break
            self.corners.append(len(part) // 2)
            count += 1
        if problem:
            self.faults.append(place.fault(Kind.BAD_OUTLINE, problem))
            del self.points[before:]
            del self.corners[len(self.corners) - count :]
            count = 0
        self.parts.append(count)

    def found(
        self,
        file: str,
        names: tuple[str, ...],
        category_ids: np.ndarray,
        label_of: dict[int, int],
        paths: tuple[str, ...],
        sizes: np.ndarray,
        image_ids: np.ndarray,
    ) -> Found:
        """Joins annotations, pictures and classes."""
        ids, lines = self.ids, self.lines
        row_of = {identity: row for row, identity in enumerate(image_ids.tolist())}
        picture = np.array([row_of.get(image, -1) for image in self.images], np.int64)
        labels = np.array([label_of.get(category, -1) for category in self.categories], np.int32)
        for row in np.flatnonzero(picture < 0):
            reason = f"there is no image with the id {self.images[row]}"
            place = _place(file, lines[row], ids[row])
            self.faults.append(place.fault(Kind.UNKNOWN_IMAGE, reason))
        for row in np.flatnonzero((labels < 0) & (picture >= 0)):
            reason = f"there is no category with the id {self.categories[row]}"
            place = _place(file, lines[row], ids[row])
            self.faults.append(place.fault(Kind.UNKNOWN_CLASS, reason))
        known = np.flatnonzero((picture >= 0) & (labels >= 0))
        polygons = self._polygons(picture, sizes)
        if len(known) < len(ids):
            picture, labels = picture[known], labels[known]
            polygons = polygons.take(known)
        size = np.maximum(sizes[picture], 1).astype(np.float64)  # [objects, 2]
        boxes = np.array(self.boxes).reshape(-1, 4)[known]
        with np.errstate(all="ignore"):
            boxes[:, :2] += boxes[:, 2:] / 2
            boxes /= np.concatenate([size, size], axis=1)
            areas = np.array(self.areas, np.float32)[known]
            box_areas = (boxes[:, 2:] * size).prod(axis=1)
            areas = np.where(np.isfinite(areas), areas, box_areas).astype(np.float32)
        return Found(
            names=names,
            category_ids=category_ids,
            paths=paths,
            sizes=sizes,
            image_ids=image_ids,
            picture=picture,
            labels=labels,
            boxes=boxes,
            crowd=np.array(self.crowd, bool)[known],
            areas=areas,
            polygons=polygons,
            place_of=lambda row: _place(file, lines[known[row]], ids[known[row]]),
            faults=self.faults,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        if not self.masks:
            return ()
        have = "objects have masks" if self.masks > 1 else "object has a mask"
        return (f"{self.masks} {have} in run lengths (RLE), not polygons: boxes without outlines",)

    def _polygons(self, picture: np.ndarray, sizes: np.ndarray) -> Polygons:
        """Returns the outlines, normalised and clipped to their pictures."""
        points = np.asarray(self.points).reshape(-1, 2)  # the same memory
        corners = np.asarray(self.corners)
        polygons = Polygons(
            points,
            np.concatenate([[0], np.cumsum(corners, dtype=np.int64)]),
            np.concatenate([[0], np.cumsum(self.parts, dtype=np.int64)]),
        )
        of_part = np.repeat(np.arange(len(self.parts)), self.parts)
        finite = np.isfinite(points).all(axis=1)
        if not finite.all():
            of_point = np.repeat(of_part, corners)
            broken = np.unique(of_point[~finite])
            for row in broken:
                place = _place(self.file, self.lines[row], self.ids[row])
                reason = "a polygon must have finite numbers"
                self.faults.append(place.fault(Kind.BAD_OUTLINE, reason))
            parts = np.array(self.parts)
            parts[broken] = 0
            kept = ~np.isin(of_part, broken)
            polygons = Polygons(
                points[kept[np.repeat(np.arange(len(corners)), corners)]],
                np.concatenate([[0], np.cumsum(corners[kept], dtype=np.int64)]),
                np.concatenate([[0], np.cumsum(parts, dtype=np.int64)]),
            )
            of_part, corners = of_part[kept], corners[kept]
        side = np.maximum(sizes[picture[of_part]], 1).astype(np.float32)  # [parts, 2]
        for axis in (0, 1):
            column = polygons.points[:, axis]
            column /= np.repeat(side[:, axis], corners)
            np.clip(column, 0, 1, out=column)
        return polygons


def _problem(annotation: dict[str, Any]) -> str:
    """Returns what is wrong with an annotation that cannot be used."""
    for key in ("image_id", "category_id"):
        if _identity(annotation.get(key)) is None:
            return f"{key} must be a whole number, got {quoted(annotation.get(key))}"
    return f"bbox must be 4 numbers, x y width height; got {quoted(annotation.get('bbox'))}"


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(type(side) is float or _identity(side) is not None for side in box)
    )


def _identity(value: Any) -> int | None:
    """Returns a whole number, also where it is written as 3.0; None for everything else."""
    if type(value) is int:
        return value if -_LARGEST_ID < value < _LARGEST_ID else None
    if type(value) is float and value.is_integer() and abs(value) < _LARGEST_FLOAT_ID:
        return int(value)
    return None


def _place(file: str, line: int, identity: int) -> Place:
    return Place(file, line, f"annotation {identity}" if identity >= 0 else "annotation")


def _other_size(path: str, size: tuple[int, int], annotated: tuple[int, int]) -> Fault:
    hint = " (annotated before it was turned upright?)" if size == annotated[::-1] else ""
    reason = (
        f"is {size[0]} x {size[1]} pixels, but annotated as {annotated[0]} x {annotated[1]}{hint}"
    )
    return Fault(Kind.OTHER_SIZE, path, None, reason)
