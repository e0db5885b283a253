"""Reads data sets in COCO's JSON format: boxes, polygons and crowd regions."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolov7_jax.data.ahead import map_files
from yolov7_jax.data.assemble import Found, Place
from yolov7_jax.data.coco_annotations import Annotations, whole_number
from yolov7_jax.data.faults import Fault, FaultKind, quoted, shown
from yolov7_jax.data.images import examine_image
from yolov7_jax.data.json_stream import iterate_lists
from yolov7_jax.errors import UserError

LISTS = ("images", "annotations", "categories")
NEEDED = ("images", "categories")  # images of a competition have no annotations
PROBES = 50  # images that are looked for to find their folder


@dataclasses.dataclass(frozen=True)
class CocoJson:
    """A split in COCO's format.

    Classes are the categories in ascending order of their ids, or, where a data.yaml gives
    `names`, the classes of those names. Objects with `iscrowd` are crowd regions. Outlines come
    from polygons, and from masks in run lengths, compressed or not. Ids may be written as 3.0, as
    tables with gaps write them.

    Attributes:
      file: the JSON file.
      names: the classes; None where the file names them.
      folders: where the images may be; the first that has some of them counts.
      notes: what there is to tell about how the split was found.
    """

    file: Path
    names: tuple[str, ...] | None
    folders: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def digest(self, workers: int) -> str:
        """Returns a hash of all that the scan depends on, but for the images."""
        del workers  # one file is read in one go
        try:
            with self.file.open("rb") as file:
                content = hashlib.file_digest(file, "blake2b").hexdigest()
        except OSError as error:
            raise UserError(f"{self.file}: cannot be read: {error.strerror or error}") from error
        found = ("coco_json", self.names, list(map(str, self.folders)), content)
        return hashlib.blake2b(repr(found).encode()).hexdigest()

    def without_labels(self) -> str:
        """Says where labels were looked for, where there are none."""
        return f"no annotation in {self.file} is of an image that is used"

    def read(self, *, decode: bool, workers: int) -> Found:
        """Looks at every file; see `Found`.

        Raises:
          UserError: the file is not JSON, or not COCO's, or no image is in any of the folders.
        """
        table, images, categories = self._parse()
        faults = table.faults
        category_ids, names, label_of = self._classes(categories)
        paths, annotated, image_ids = self._images(images, faults)
        examine = functools.partial(examine_image, decode=decode)
        sizes = np.zeros((len(paths), 2), np.int32)
        looks = map_files(examine, paths, workers=workers, title="images")
        for row, (size, fault) in enumerate(looks):
            sizes[row] = size
            if 0 not in (*size, *annotated[row]) and annotated[row] != size:
                fault = _other_size(paths[row], size, annotated[row])
                sizes[row] = 0
            if fault is not None:
                faults.append(fault)
        return table.found(names, category_ids, label_of, tuple(paths), sizes, image_ids)

    def _parse(self) -> tuple[Annotations, list[tuple[Any, int]], list[Any]]:
        table = Annotations(str(self.file))
        images, categories = [], []
        for key, value, line in iterate_lists(self.file, LISTS, NEEDED):
            if key == "annotations":
                table.add(value, line)
            elif key == "images":
                images.append((value, line))
            else:
                categories.append(value)
        return table, images, categories

    def _classes(self, categories: list[Any]) -> tuple[np.ndarray, tuple[str, ...], dict[int, int]]:
        """Returns the id of each class, the names, and the class of each category id."""
        names: dict[int, str] = {}
        for category in categories:
            identity = whole_number(category.get("id")) if isinstance(category, dict) else None
            if identity is None:
                raise UserError(
                    f"{self.file}: a category must have an integer as id, got {quoted(category)}"
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
        """Returns path, annotated size (zeros if unknown) and id of every image."""
        ids: dict[int, int] = {}
        files: dict[str, int] = {}
        sizes = []
        for image, line in images:
            place = Place(str(self.file), line, "image")
            identity, file = None, None
            if isinstance(image, dict):
                identity, file = whole_number(image.get("id")), image.get("file_name")
            if identity is None or not isinstance(file, str) or not file or "\0" in file:
                reason = f"wanted an integer as id and a file_name, got {quoted(image)}"
                faults.append(place.fault(FaultKind.MISSING_IMAGE, reason))
                continue
            place = place._replace(subject=f"image {identity}")
            if identity in ids or file in files:
                reason = f"another image has the id {identity}"
                if identity not in ids:
                    reason = f"image {files[file]} has the same file_name {shown(file)}"
                faults.append(place.fault(FaultKind.REPEATED_IMAGE, reason))
                continue
            ids[identity] = files[file] = identity
            width, height = whole_number(image.get("width")), whole_number(image.get("height"))
            known = width is not None and height is not None and min(width, height) > 0
            sizes.append((width, height) if known else (0, 0))
        if not ids:
            more = f"; {faults[0]}" if faults else ""
            raise UserError(f"{self.file}: names no images{more}")
        folder = self._folder(list(files))
        return [os.path.join(folder, name) for name in files], sizes, np.array(list(ids), np.int64)

    def _folder(self, files: Sequence[str]) -> str:
        """Returns the first folder that has some of the images."""
        probes = files[:: max(1, len(files) // PROBES)]
        for folder in self.folders:
            if any(os.path.exists(os.path.join(folder, name)) for name in probes):
                return str(folder)
        places = ", ".join(str(folder) for folder in self.folders)
        raise UserError(
            f"{self.file}: its images ({shown(files[0])}, ...) are in none of {places}; "
            "a data.yaml can name their folder as 'images'"
        )


def _other_size(path: str, size: tuple[int, int], annotated: tuple[int, int]) -> Fault:
    hint = " (annotated before it was turned upright?)" if size == annotated[::-1] else ""
    reason = (
        f"is {size[0]} x {size[1]} pixels, but annotated as {annotated[0]} x {annotated[1]}{hint}"
    )
    return Fault(FaultKind.OTHER_SIZE, path, None, reason)
