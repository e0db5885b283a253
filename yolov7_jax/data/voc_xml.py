"""Reads data sets in the layout of Pascal VOC: one XML file for each image."""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lxml import etree

from yolov7_jax.data.ahead import map_files
from yolov7_jax.data.assemble import Found
from yolov7_jax.data.faults import Fault, FaultKind, first_of, plural, shown
from yolov7_jax.data.image_labels import (
    ImageLabels,
    LabelRow,
    Size,
    digest_of,
    found_from,
    joined,
    label_file,
    lines_of,
    unreadable,
)
from yolov7_jax.data.images import examine_image
from yolov7_jax.errors import UserError

Element = Any  # of lxml

ANNOTATIONS, IMAGES, SETS = "Annotations", "JPEGImages", "ImageSets/Main"
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".webp")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
OUTERMOST = "annotation"
# What is read, by the element that it stands in.
READ = {
    OUTERMOST: ("size", "object"),
    "size": ("width", "height"),
    "object": ("name", "difficult", "bndbox"),
    "bndbox": CORNERS,
}
# What `difficult` may say, in lower case; VOC's first years have "Unspecified".
DIFFICULT, NOT_DIFFICULT = ("1", "true"), ("", "0", "false", "unspecified")


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
      unused: a note about images that are not used.
      notes: what there is to tell about how the split was found.
    """

    names: tuple[str, ...] | None
    images: tuple[str, ...]
    annotations: tuple[str, ...]
    others: tuple[str, ...]
    faults: tuple[Fault, ...]
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def digest(self, workers: int) -> str:
        """Returns a hash of all that the scan depends on, but for the images' contents."""
        split = ("voc_xml", self.names, self.images, self.unused)
        paths = [[file] for file in (*self.annotations, *self.others)]
        files = map_files(label_file, paths, workers=workers, title="labels")
        return digest_of(split, self.faults, files)

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
        index_of = {name: index for index, name in enumerate(names)}
        indexed = ((size, _with_indices(labels, index_of)) for size, labels in results)
        return found_from(names, self.images, indexed, self.faults, self.unused)

    def _all_names(self, read: list[ImageLabels], workers: int) -> tuple[str, ...]:
        read_other = functools.partial(read_annotation, size=(0, 0))
        others = map_files(read_other, self.others, workers=workers, title="classes")
        names = {row.label for labels in (*read, *others) for row in labels.rows}
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
            twins |= dict.fromkeys(shown(path, 300) for path in unused)
            if image in images:
                reason = f"{shown(identity)} is listed more than once"
                faults.append(Fault(FaultKind.REPEATED_IMAGE, str(source), line, reason))
            images[image] = str(root / ANNOTATIONS / (identity + ".xml"))
    if not images:
        raise UserError(f"{', '.join(map(str, lists))}: lists no images")
    others -= set(images.values())
    told = f"{len(twins)} {plural('image', len(twins))} not used, because one of the same name and"
    return VocXml(
        names,
        tuple(images),
        tuple(images.values()),
        # Only needed where they name classes.
        () if names else tuple(sorted(others)),
        tuple(faults),
        (f"{told} another type is: {first_of(list(twins))}",) if twins else (),
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
    """Returns the images that a list names, and its lines; the sets are names of files."""
    stems = {os.path.splitext(name)[0] for name in (*images, *annotations)}
    named = ((line.replace("\0", " ").strip(), number) for number, line in lines_of(source))
    return [(_identity(line, stems), number) for line, number in named if line]


def _identity(line: str, stems: set[str]) -> str:
    """Returns the image that a line names.

    A number may stand behind the name, as in lists of one class, where it says whether the class
    is in the image. A name may itself have spaces and end in a number, so what exists decides.
    """
    numbered = re.fullmatch(r"(.*\S)\s+[+-]?\d+", line)
    return line if numbered is None or line in stems else numbered[1]


def _names_in(folder: Path) -> frozenset[str]:
    return frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()


def _examine(decode: bool, pair: tuple[str, str]) -> tuple[Size, ImageLabels]:
    image, annotation = pair
    size, fault = examine_image(image, decode=decode)
    labels = read_annotation(annotation, size)
    if 0 not in (*size, *labels.annotated_size) and labels.annotated_size != size:
        annotated = f"{labels.annotated_size[0]} x {labels.annotated_size[1]}"
        reason = f"is {size[0]} x {size[1]} pixels, but its XML file says {annotated}"
        size, fault = (0, 0), Fault(FaultKind.OTHER_SIZE, image, None, reason)
    return joined(size, fault, labels)


def _with_indices(labels: ImageLabels, index_of: Mapping[str, int]) -> ImageLabels:
    """Returns labels with indices of classes for names; objects of other names are faults."""
    rows, faults = [], list(labels.faults)
    for row in labels.rows:
        if row.label in index_of:
            rows.append(row._replace(label=index_of[row.label]))
        else:
            reason = f"class {shown(row.label)!r} is not one of {shown(', '.join(index_of))}"
            faults.append(Fault(FaultKind.UNKNOWN_CLASS, labels.file, row.line, reason))
    return labels._replace(rows=rows, faults=faults)


def read_annotation(file: str, size: Size) -> ImageLabels:
    """Reads the XML file of an image of that width and height; classes are names."""
    _, content, problem = label_file([file])
    if problem:
        return unreadable(file, None, f"cannot be read: {problem}")
    # No entities, which can make a small file grow without end; nothing from elsewhere.
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(content, parser)
    except (etree.XMLSyntaxError, LookupError) as error:
        line = getattr(error, "lineno", None)
        return unreadable(file, line, f"is not XML: {shown(getattr(error, 'msg', error))}")
    dtd = root.getroottree().docinfo.internalDTD
    if dtd is not None and dtd.entities():
        return unreadable(file, None, "declares entities, which are not allowed")
    if root.tag != OUTERMOST:
        reason = f"has <{shown(_tag(root))}> outermost, wanted <{OUTERMOST}>"
        return unreadable(file, None, reason)
    strange = _other_spelling(root)
    if strange is not None:
        reason = f"has <{shown(_tag(strange))}>, wanted <{_plain(strange.tag)}>"
        return unreadable(file, strange.sourceline, reason)
    faults: list[Fault] = []
    objects = []
    for element in root.iterchildren("object"):
        try:
            objects.append(_object(element, size))
        except ValueError as error:
            faults.append(Fault(FaultKind.MALFORMED, file, element.sourceline, str(error)))
            continue
        difficult = _text(element, "difficult")
        if difficult.lower() not in (*DIFFICULT, *NOT_DIFFICULT):
            reason = f"difficult must be 0 or 1, got {shown(difficult)}; it is taken for 0"
            faults.append(Fault(FaultKind.UNKNOWN_DIFFICULT, file, element.sourceline, reason))
    return ImageLabels(file, objects, faults, _size(root))


def _text(element: Element, path: str) -> str:
    """Returns the text of the first element at a path; empty where there is none."""
    found = element.find(path)
    return "" if found is None else "".join(found.itertext(with_tail=False)).strip()


def _other_spelling(element: Element) -> Element | None:
    """Returns an element that would be read if its tag had no prefix, or no capitals.

    To pass over it could take the image for one without objects.
    """
    wanted = READ.get(element.tag, ())
    for child in element.iterchildren(etree.Element):
        if child.tag in wanted:
            deeper = _other_spelling(child)
            if deeper is not None:
                return deeper
        elif _plain(child.tag) in wanted:
            return child
    return None


def _plain(tag: str) -> str:
    return tag.rpartition("}")[2].rpartition(":")[2].lower()


def _tag(element: Element) -> str:
    """Returns the tag as the file has it."""
    name = etree.QName(element).localname
    return f"{element.prefix}:{name}" if element.prefix else name


def _object(element: Element, size: Size) -> LabelRow:
    name = _text(element, "name")
    if not name:
        raise ValueError("the object has no name")
    box = element.find("bndbox")
    if box is None:
        raise ValueError(f"{shown(name)}: the object has no bndbox")
    texts = [_text(box, corner) for corner in CORNERS]
    try:
        left, top, right, bottom = map(float, texts)
    except ValueError:
        reason = f"{shown(name)}: {' '.join(CORNERS)} must be numbers, got {shown(texts)}"
        raise ValueError(reason) from None
    difficult = _text(element, "difficult").lower() in DIFFICULT
    # Corners count pixels from 1, and both belong to the box.
    left, top = left - 1, top - 1
    width, height = (max(side, 1) for side in size)
    cx, cy = (left + right) / 2 / width, (top + bottom) / 2 / height
    box = (cx, cy, (right - left) / width, (bottom - top) / height)
    return LabelRow(name, box, element.sourceline, crowd=difficult)


def _size(root: Element) -> tuple[int, int]:
    """Returns width and height, zeros where the file gives none that could be right."""
    try:
        sides = [float(_text(root, f"size/{side}") or 0) for side in ("width", "height")]
    except ValueError:
        return 0, 0
    if not all(math.isfinite(side) and side > 0 for side in sides):
        return 0, 0
    return int(sides[0]), int(sides[1])
