"""Reads data sets in the layout of Pascal VOC: one XML file for each image."""

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yolov7_jax.data.ahead import map_files
from yolov7_jax.data.assemble import Found, Place
from yolov7_jax.data.dataset import Polygons
from yolov7_jax.data.faults import Fault, FaultKind, of_image, plural, shown
from yolov7_jax.data.images import examine_image
from yolov7_jax.data.voc_annotation import VocLabels, annotation_bytes, read_annotation
from yolov7_jax.errors import UserError

ANNOTATIONS, IMAGES, SETS = "Annotations", "JPEGImages", "ImageSets/Main"
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".webp")


@dataclasses.dataclass(frozen=True)
class VocXml:
    """A split in the layout of Pascal VOC.

    Corners count pixels from 1 and both belong to the box. Objects marked `difficult`, with 1 or
    true, are crowd regions: as in VOC's own evaluation, they are neither to be found nor wrong to
    find, and training leaves them out. Objects of an image without an XML file are unknown, so it
    is left out.

    Attributes:
      names: the classes; None for all that occur in the folders, in alphabetical order, whatever
        the split.
      images: the images.
      annotations: the XML file of each.
      others: XML files of other splits, which only name classes.
      faults: of lists of images.
      twins: images that are not used, because one of the same name and another type is.
      notes: what there is to tell about how the split was found.
    """

    names: tuple[str, ...] | None
    images: tuple[str, ...]
    annotations: tuple[str, ...]
    others: tuple[str, ...]
    faults: tuple[Fault, ...]
    twins: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def digest(self, workers: int) -> str:
        """Returns a hash of all that the scan depends on, but for the images' contents."""
        digest = hashlib.blake2b(digest_size=32)
        fields = ("voc_xml", self.names, self.images, self.twins)
        digest.update(repr(fields).encode("utf-8", "replace"))
        digest.update(repr([tuple(map(str, fault)) for fault in self.faults]).encode())
        files = (*self.annotations, *self.others)
        contents = map_files(annotation_bytes, files, workers=workers, title="labels")
        for file, (content, problem) in zip(files, contents, strict=True):
            head = f"{file}\0{problem}\0{len(content)}\0"
            digest.update(head.encode("utf-8", "surrogatepass"))
            digest.update(content)
        return digest.hexdigest()

    def without_labels(self) -> str:
        """Says where labels were looked for, where there are none."""
        return f"no file like {self.annotations[0]}, the first, has an object"

    def read(self, *, decode: bool, workers: int) -> Found:
        """Looks at every file; see `Found`.

        Raises:
          UserError: there is no object at all that would name a class.
        """
        examine = functools.partial(_examine, decode)
        pairs = list(zip(self.images, self.annotations, strict=True))
        results = list(map_files(examine, pairs, workers=workers, title="images"))
        names = self.names or self._all_names([labels for _, labels in results], workers)
        label_of = {name: label for label, name in enumerate(names)}
        faults, sizes = list(self.faults), []
        image, labels, boxes, crowd, lines = [], [], [], [], []
        for row, (size, read) in enumerate(results):
            sizes.append(size)
            faults += read.faults
            for item in read.objects:
                if item.name not in label_of:
                    place = Place(self.annotations[row], item.line)
                    reason = f"class {shown(item.name)!r} is not one of {shown(', '.join(names))}"
                    faults.append(place.fault(FaultKind.UNKNOWN_CLASS, reason))
                    continue
                image.append(row)
                labels.append(label_of[item.name])
                boxes.append(item.box)
                crowd.append(item.difficult)
                lines.append(item.line)
        table = np.array(sizes, np.int32).reshape(-1, 2)
        rows = np.array(image, np.int64)
        corners = np.array(boxes, np.float64).reshape(-1, 4)
        scale = np.tile(np.maximum(table[rows], 1), 2)  # [objects, 4]
        centre, side = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        return Found(
            names=names,
            category_ids=np.arange(len(names), dtype=np.int64),
            paths=self.images,
            sizes=table,
            image_ids=np.arange(len(table), dtype=np.int64),
            image=rows,
            labels=np.array(labels, np.int32),
            boxes=np.concatenate([centre, side], axis=1) / scale,
            crowd=np.array(crowd, bool),
            areas=None,
            polygons=Polygons.none(len(rows)),
            place_of=lambda row: Place(self.annotations[image[row]], lines[row]),
            faults=faults,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        if not self.twins:
            return ()
        count = len(self.twins)
        return (
            f"{count} {plural('image', count)} not used, because one of the same name and "
            f"another type is: {shown(self.twins[0], 300)}" + ", the first" * (count > 1),
        )

    def _all_names(self, read: list[VocLabels], workers: int) -> tuple[str, ...]:
        others = map_files(read_annotation, self.others, workers=workers, title="classes")
        names = {item.name for labels in (*read, *others) for item in labels.objects}
        if not names:
            raise UserError(
                f"{os.path.dirname(self.annotations[0])}: no XML file has an object with a name; "
                "a data.yaml can name the classes"
            )
        return tuple(sorted(names))


def open_voc_xml(names: tuple[str, ...] | None, entries: Sequence[Path], *, split: str) -> VocXml:
    """Finds the images of a split.

    Args:
      names: the classes, or None for those that occur.
      entries: VOC folders, of which ImageSets/Main/<split>.txt counts, or such lists themselves.
      split: which list to take.

    Raises:
      UserError: a list is missing, or all are empty.
    """
    images: dict[str, str] = {}
    faults: list[Fault] = []
    others: set[str] = set()
    twins: dict[str, None] = {}
    lists = [entry if entry.is_file() else _image_set(entry, split) for entry in entries]
    for source in lists:
        root = source.parents[2]
        present = _names_in(root / ANNOTATIONS)
        stems = _names_in(root / IMAGES)
        others |= {str(root / ANNOTATIONS / name) for name in present if name.endswith(".xml")}
        for identity, line in _identities(source, stems, present):
            there = [identity + end for end in SUFFIXES if identity + end in stems]
            image, *unused = (
                str(root / IMAGES / name) for name in there or [identity + SUFFIXES[0]]
            )
            twins |= dict.fromkeys(unused)
            if image in images:
                reason = f"{shown(identity)} is listed more than once"
                faults.append(Fault(FaultKind.REPEATED_IMAGE, str(source), line, reason))
            images[image] = str(root / ANNOTATIONS / (identity + ".xml"))
    if not images:
        raise UserError(f"{', '.join(map(str, lists))}: lists no images")
    others -= set(images.values())
    return VocXml(
        names,
        tuple(images),
        tuple(images.values()),
        # Only needed where they name classes.
        () if names else tuple(sorted(others)),
        tuple(faults),
        tuple(twins),
    )


def is_voc_folder(path: Path) -> bool:
    """Says whether a folder is laid out as Pascal VOC's."""
    return (path / ANNOTATIONS).is_dir() and (path / SETS).is_dir()


def is_voc_list(path: Path) -> bool:
    """Says whether a file is a list of images in a folder laid out as Pascal VOC's."""
    return path.suffix == ".txt" and path.parent.parts[-2:] == tuple(SETS.split("/"))


def voc_splits(folder: Path) -> list[str]:
    """Returns the splits that a VOC folder has; lists of one class are none."""
    lists = (path.stem for path in (folder / SETS).glob("*.txt"))
    return sorted(name for name in lists if "_" not in name)


def _image_set(folder: Path, split: str) -> Path:
    path = folder / SETS / f"{split}.txt"
    if not path.is_file():
        has = ", ".join(voc_splits(folder)) or "none"
        raise UserError(f"{folder}: has no split '{split}': no {path}; it has {has}")
    return path


def _identities(
    source: Path, images: frozenset[str], annotations: frozenset[str]
) -> list[tuple[str, int]]:
    """Returns the images that a list names, and the lines that do.

    Args:
      source: the list.
      images: names of the files in the folder of images.
      annotations: likewise of the XML files.
    """
    try:
        lines = source.read_text(encoding="utf-8-sig").replace("\0", " ").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read as text") from error
    stems = {os.path.splitext(name)[0] for name in (*images, *annotations)}
    return [
        (_identity(line.strip(), stems), number)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _identity(line: str, stems: set[str]) -> str:
    """Returns the image that a line names.

    A number may stand behind the name, as in lists of one class, where it says whether the class
    is in the image. A name may itself have spaces and end in a number, so what exists decides.
    """
    numbered = re.fullmatch(r"(.*\S)\s+[+-]?\d+", line)
    return line if numbered is None or line in stems else numbered[1]


def _names_in(folder: Path) -> frozenset[str]:
    return frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()


def _examine(decode: bool, pair: tuple[str, str]) -> tuple[tuple[int, int], VocLabels]:
    image, annotation = pair
    size, fault = examine_image(image, decode=decode)
    labels = read_annotation(annotation)
    if 0 not in (*size, *labels.size) and labels.size != size:
        annotated = f"{labels.size[0]} x {labels.size[1]}"
        reason = f"is {size[0]} x {size[1]} pixels, but its XML file says {annotated}"
        size, fault = (0, 0), Fault(FaultKind.OTHER_SIZE, image, None, reason)
    if any(fault.kind is FaultKind.UNREADABLE_LABELS for fault in labels.faults):
        size = (0, 0)
    return size, labels._replace(faults=of_image(fault, labels.faults))
