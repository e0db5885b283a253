"""Reads data sets in the layout of Pascal VOC: one XML file for each picture."""

import dataclasses
import functools
import hashlib
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

import numpy as np

from yolov7_jax.data.assemble import Found, Place
from yolov7_jax.data.dataset import Polygons
from yolov7_jax.data.faults import Fault, Kind, of_picture, shown
from yolov7_jax.data.parallel import map_files
from yolov7_jax.data.picture_size import examine_picture
from yolov7_jax.errors import UserError

ANNOTATIONS, PICTURES, SETS = "Annotations", "JPEGImages", "ImageSets/Main"
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".webp")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
OUTERMOST = "annotation"
# What `difficult` may say, in lower case; VOC's first years have "Unspecified".
DIFFICULT, NOT_DIFFICULT = ("1", "true"), ("", "0", "false", "unspecified")
DEEPEST = 50  # elements within elements; VOC's own have 4


@dataclasses.dataclass
class Element:
    """An element of an XML file: its tag, the line where it starts, its text and children."""

    tag: str
    line: int
    text: str = ""
    children: list["Element"] = dataclasses.field(default_factory=list)

    def child(self, tag: str) -> "Element | None":
        """Returns the first child of this tag."""
        return next((child for child in self.children if child.tag == tag), None)

    def text_of(self, tag: str) -> str | None:
        """Returns the text of the first child of this tag."""
        found = self.child(tag)
        return None if found is None else found.text.strip()


class _Object(NamedTuple):
    name: str
    box: tuple[float, float, float, float]  # corners in pixels, 0 the border of the first
    difficult: bool
    line: int


class _Labels(NamedTuple):
    """What the XML file of a picture says."""

    size: tuple[int, int]  # zeros where it doesn't say
    objects: list[_Object]
    faults: list[Fault]


@dataclasses.dataclass(frozen=True)
class VocXml:
    """A split in the layout of Pascal VOC.

    Corners count pixels from 1 and both belong to the box. Objects marked `difficult`, with 1 or
    true, are crowd regions: as in VOC's own evaluation, they are neither to be found nor wrong to
    find, and training leaves them out. Objects of a picture without an XML file are unknown, so it
    is left out.

    Attributes:
      names: the classes; None for all that occur in the folders, in alphabetical order, whatever
        the split.
      pictures: the pictures.
      annotations: the XML file of each.
      others: XML files of other splits, which only name classes.
      faults: of lists of pictures.
      notes: what there is to tell about how the split was found.
    """

    names: tuple[str, ...] | None
    pictures: tuple[str, ...]
    annotations: tuple[str, ...]
    others: tuple[str, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()

    def digest(self, workers: int) -> str:
        """Returns a hash of all that the scan depends on, but for the pictures' contents."""
        digest = hashlib.blake2b(digest_size=32)
        digest.update(repr(("voc_xml", self.names, self.pictures)).encode("utf-8", "replace"))
        digest.update(repr([tuple(map(str, fault)) for fault in self.faults]).encode())
        files = (*self.annotations, *self.others)
        contents = map_files(_content, files, workers=workers, title="labels")
        for file, content in zip(files, contents, strict=True):
            size = -1 if content is None else len(content)
            digest.update(f"{file}\0{size}\0".encode("utf-8", "surrogatepass"))
            digest.update(content or b"")
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
        pairs = list(zip(self.pictures, self.annotations, strict=True))
        results = list(map_files(examine, pairs, workers=workers, title="pictures"))
        names = self.names or self._all_names([labels for _, labels in results], workers)
        label_of = {name: label for label, name in enumerate(names)}
        faults, sizes = list(self.faults), []
        picture, labels, boxes, crowd, lines = [], [], [], [], []
        for row, (size, read) in enumerate(results):
            sizes.append(size)
            faults += read.faults
            for item in read.objects:
                if item.name not in label_of:
                    place = Place(self.annotations[row], item.line)
                    reason = f"class {shown(item.name)!r} is not one of {shown(', '.join(names))}"
                    faults.append(place.fault(Kind.UNKNOWN_CLASS, reason))
                    continue
                picture.append(row)
                labels.append(label_of[item.name])
                boxes.append(item.box)
                crowd.append(item.difficult)
                lines.append(item.line)
        table = np.array(sizes, np.int32).reshape(-1, 2)
        rows = np.array(picture, np.int64)
        corners = np.array(boxes, np.float64).reshape(-1, 4)
        scale = np.tile(np.maximum(table[rows], 1), 2)  # [objects, 4]
        centre, side = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        return Found(
            names=names,
            category_ids=np.arange(len(names), dtype=np.int64),
            paths=self.pictures,
            sizes=table,
            image_ids=np.arange(len(table), dtype=np.int64),
            picture=rows,
            labels=np.array(labels, np.int32),
            boxes=np.concatenate([centre, side], axis=1) / scale,
            crowd=np.array(crowd, bool),
            areas=None,
            polygons=Polygons.none(len(rows)),
            place_of=lambda row: Place(self.annotations[picture[row]], lines[row]),
            faults=faults,
        )

    def _all_names(self, read: list[_Labels], workers: int) -> tuple[str, ...]:
        others = map_files(read_annotation, self.others, workers=workers, title="classes")
        names = {item.name for labels in (*read, *others) for item in labels.objects}
        if not names:
            raise UserError(
                f"{os.path.dirname(self.annotations[0])}: no XML file has an object with a name; "
                "a data.yaml can name the classes"
            )
        return tuple(sorted(names))


def open_voc_xml(names: tuple[str, ...] | None, entries: Sequence[Path], *, split: str) -> VocXml:
    """Finds the pictures of a split.

    Args:
      names: the classes, or None for those that occur.
      entries: VOC folders, of which ImageSets/Main/<split>.txt counts, or such lists themselves.
      split: which list to take.

    Raises:
      UserError: a list is missing, or all are empty.
    """
    pictures: dict[str, str] = {}
    faults: list[Fault] = []
    others: set[str] = set()
    lists = [entry if entry.is_file() else _image_set(entry, split) for entry in entries]
    for source in lists:
        root = source.parents[2]
        present = _names_in(root / ANNOTATIONS)
        stems = _names_in(root / PICTURES)
        others |= {str(root / ANNOTATIONS / name) for name in present if name.endswith(".xml")}
        for identity, line in _identities(source, stems, present):
            suffix = next((end for end in SUFFIXES if identity + end in stems), SUFFIXES[0])
            picture = str(root / PICTURES / (identity + suffix))
            if picture in pictures:
                reason = f"{shown(identity)} is listed more than once"
                faults.append(Fault(Kind.REPEATED_PICTURE, str(source), line, reason))
            pictures[picture] = str(root / ANNOTATIONS / (identity + ".xml"))
    if not pictures:
        raise UserError(f"{', '.join(map(str, lists))}: lists no pictures")
    others -= set(pictures.values())
    return VocXml(
        names,
        tuple(pictures),
        tuple(pictures.values()),
        # Only needed where they name classes.
        () if names else tuple(sorted(others)),
        tuple(faults),
    )


def is_voc_folder(path: Path) -> bool:
    """Says whether a folder is laid out as Pascal VOC's."""
    return (path / ANNOTATIONS).is_dir() and (path / SETS).is_dir()


def is_voc_list(path: Path) -> bool:
    """Says whether a file is a list of pictures in a folder laid out as Pascal VOC's."""
    return path.suffix == ".txt" and path.parent.parts[-2:] == tuple(SETS.split("/"))


def voc_splits(folder: Path) -> list[str]:
    """Returns the splits that a VOC folder has; lists of one class are none."""
    lists = (path.stem for path in (folder / SETS).glob("*.txt"))
    return sorted(name for name in lists if "_" not in name)


def read_annotation(file: str) -> _Labels:
    """Reads the XML file of one picture."""
    content = _content(file)
    try:
        if content is None:
            raise ValueError("is missing or cannot be read")
        root = _parse(content)
        if root.tag != OUTERMOST:
            raise ValueError(f"has <{shown(root.tag)}> outermost, wanted <{OUTERMOST}>")
    except (expat.ExpatError, ValueError, LookupError) as error:
        line = error.lineno if isinstance(error, expat.ExpatError) else None
        reason = f"{error}; its picture is left out"
        if isinstance(error, expat.ExpatError):
            reason = f"is not XML: {reason}"
        return _Labels((0, 0), [], [Fault(Kind.UNREADABLE_LABELS, file, line, reason)])
    faults: list[Fault] = []
    objects = []
    for element in root.children:
        if element.tag != "object":
            continue
        try:
            objects.append(_object(element))
        except ValueError as error:
            faults.append(Fault(Kind.MALFORMED, file, element.line, str(error)))
            continue
        difficult = element.text_of("difficult") or ""
        if difficult.lower() not in (*DIFFICULT, *NOT_DIFFICULT):
            reason = f"difficult must be 0 or 1, got {shown(difficult)}; it is taken for 0"
            faults.append(Fault(Kind.UNKNOWN_DIFFICULT, file, element.line, reason))
    return _Labels(_size(root), objects, faults)


def _image_set(folder: Path, split: str) -> Path:
    path = folder / SETS / f"{split}.txt"
    if not path.is_file():
        has = ", ".join(voc_splits(folder)) or "none"
        raise UserError(f"{folder}: has no split '{split}': no {path}; it has {has}")
    return path


def _identities(
    source: Path, pictures: frozenset[str], annotations: frozenset[str]
) -> list[tuple[str, int]]:
    """Returns the pictures that a list names, and the lines that do.

    Args:
      source: the list.
      pictures: names of the files in the folder of pictures.
      annotations: likewise of the XML files.
    """
    try:
        lines = source.read_text(encoding="utf-8-sig").replace("\0", " ").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read as text") from error
    stems = {os.path.splitext(name)[0] for name in (*pictures, *annotations)}
    return [
        (_identity(line.strip(), stems), number)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _identity(line: str, stems: set[str]) -> str:
    """Returns the picture that a line names.

    A number may stand behind the name, as in lists of one class, where it says whether the class
    is in the picture. A name may itself have spaces and end in a number, so what exists decides.
    """
    numbered = re.fullmatch(r"(.*\S)\s+[+-]?\d+", line)
    return line if numbered is None or line in stems else numbered[1]


def _names_in(folder: Path) -> frozenset[str]:
    return frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()


def _content(file: str) -> bytes | None:
    try:
        with open(file, "rb", buffering=0) as opened:
            return opened.read()
    except OSError:
        return None


def _examine(decode: bool, pair: tuple[str, str]) -> tuple[tuple[int, int], _Labels]:
    picture, annotation = pair
    size, fault = examine_picture(picture, decode=decode)
    labels = read_annotation(annotation)
    if 0 not in (*size, *labels.size) and labels.size != size:
        annotated = f"{labels.size[0]} x {labels.size[1]}"
        reason = f"is {size[0]} x {size[1]} pixels, but its XML file says {annotated}"
        size, fault = (0, 0), Fault(Kind.OTHER_SIZE, picture, None, reason)
    if any(fault.kind is Kind.UNREADABLE_LABELS for fault in labels.faults):
        size = (0, 0)
    return size, labels._replace(faults=of_picture(fault, labels.faults))


def _parse(content: bytes) -> Element:
    """Parses XML; a ValueError, LookupError (encoding) or ExpatError says what is wrong with it."""
    parser = expat.ParserCreate()
    outermost = Element("", 0)
    path = [outermost]

    def start(tag: str, _attributes: dict[str, str]) -> None:
        if len(path) > DEEPEST:
            raise ValueError(f"has elements more than {DEEPEST} deep")
        element = Element(tag, parser.CurrentLineNumber)
        path[-1].children.append(element)
        path.append(element)

    def end(_tag: str) -> None:
        path.pop()

    def text(data: str) -> None:
        path[-1].text += data

    def entity(*_declaration: object) -> None:
        # Entities can make a small file grow without end, and labels have no use for them.
        raise ValueError("declares entities, which are not allowed")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = text, entity
    parser.buffer_text = True
    parser.Parse(content, True)
    return outermost.children[0]


def _object(element: Element) -> _Object:
    name = element.text_of("name")
    if not name:
        raise ValueError("the object has no name")
    box = element.child("bndbox")
    if box is None:
        raise ValueError(f"{shown(name)}: the object has no bndbox")
    texts = [box.text_of(corner) or "" for corner in CORNERS]
    try:
        left, top, right, bottom = map(float, texts)
    except ValueError:
        reason = f"{shown(name)}: {' '.join(CORNERS)} must be numbers, got {shown(texts)}"
        raise ValueError(reason) from None
    difficult = (element.text_of("difficult") or "").lower() in DIFFICULT
    return _Object(name, (left - 1, top - 1, right, bottom), difficult, element.line)


def _size(root: Element) -> tuple[int, int]:
    """Returns width and height, zeros where the file gives none that could be right."""
    size = root.child("size")
    try:
        sides = [float((size and size.text_of(side)) or 0) for side in ("width", "height")]
    except ValueError:
        return 0, 0
    if not all(math.isfinite(side) and side > 0 for side in sides):
        return 0, 0
    return int(sides[0]), int(sides[1])
