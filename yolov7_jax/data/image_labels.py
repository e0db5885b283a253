"""What layouts with a file of labels for each image have in common."""

import array
import errno
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolov7_jax.data.assemble import Found, Place
from yolov7_jax.data.dataset import Polygons, offsets_of
from yolov7_jax.data.faults import Effect, Fault, FaultKind, shown
from yolov7_jax.errors import UserError

Size = tuple[int, int]


class LabelFile(NamedTuple):
    """A file of labels; empty where there is none.

    Attributes:
      path: of the file.
      content: of it.
      problem: why it cannot be read.
    """

    path: str
    content: bytes
    problem: str


class LabelRow(NamedTuple):
    """An object.

    Attributes:
      label: its class: an index, or a name where indices are not yet known.
      box: centre, width and height, normalised by the image's size.
      line: where it starts, counted from 1.
      outline: x1 y1 x2 y2 ..., normalised likewise; or empty.
      crowd: as in `Dataset`.
    """

    label: Any
    box: tuple[float, float, float, float]
    line: int
    outline: Sequence[float] = ()
    crowd: bool = False


class ImageLabels(NamedTuple):
    """What the label file of one image says.

    Attributes:
      file: its path; empty where the image has none.
      rows: those that are valid.
      faults: what is wrong.
      annotated_size: width and height of the image in pixels; zeros where the file doesn't say.
    """

    file: str
    rows: list[LabelRow]
    faults: list[Fault]
    annotated_size: Size = (0, 0)


def label_file(paths: Iterable[str]) -> LabelFile:
    """Reads the first of these files that there is."""
    for path in paths:
        try:
            with open(path, "rb", buffering=0) as file:
                return LabelFile(path, file.readall(), "")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            return LabelFile(path, b"", getattr(error, "strerror", None) or str(error))
    return LabelFile("", b"", os.strerror(errno.ENOENT))


def lines_of(source: Path) -> list[tuple[int, str]]:
    """Returns the numbers, from 1, and texts of the lines of a list of images, but for empty ones.

    Raises:
      UserError: it cannot be read.
    """
    try:
        lines = source.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read as text") from error
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def unreadable(file: str, line: int | None, reason: str) -> ImageLabels:
    """Returns what comes of labels that cannot be read."""
    reason += "; its image is left out"
    return ImageLabels(file, [], [Fault(FaultKind.UNREADABLE_LABELS, file, line, reason)])


def digest_of(split: tuple[Any, ...], faults: Iterable[Fault], files: Iterable[LabelFile]) -> str:
    """Returns a hash of how a split was found and of the content of its files of labels."""
    digest = hashlib.blake2b(digest_size=32)
    digest.update(repr(split).encode("utf-8", "replace"))
    digest.update(repr([tuple(map(str, fault)) for fault in faults]).encode())
    for path, content, problem in files:
        digest.update(f"{path}\0{problem}\0{len(content)}\0".encode("utf-8", "surrogatepass"))
        digest.update(content)
    return digest.hexdigest()


def joined(size: Size, fault: Fault | None, labels: ImageLabels) -> tuple[Size, ImageLabels]:
    """Joins what `examine_image` says of an image with its labels, faults with faults.

    An image is left out once, so where neither can be read both are one fault.
    """
    faults = labels.faults
    unreadable = [fault for fault in faults if fault.kind is FaultKind.UNREADABLE_LABELS]
    if unreadable and fault is not None and fault.kind.effect is Effect.IMAGE:
        also = "; ".join(map(str, unreadable))
        fault = fault._replace(reason=f"{fault.reason}; nor can its labels be read: {also}")
        faults = [fault for fault in faults if fault not in unreadable]
    if unreadable:
        size = (0, 0)  # an unlabelled image would teach that there is nothing in it
    return size, labels._replace(faults=faults if fault is None else [*faults, fault])


def found_from(
    names: tuple[str, ...],
    paths: tuple[str, ...],
    results: Iterable[tuple[Size, ImageLabels]],
    faults: Iterable[Fault],
    notes: tuple[str, ...],
) -> Found:
    """Gathers objects in flat arrays.

    Args:
      names: the classes.
      paths: the images.
      results: what `joined` has returned for each, with classes as indices.
      faults: of the split as a whole.
      notes: likewise.
    """
    faults = list(faults)
    sizes, files, counts = [], [], []
    image_of: dict[str, str] = {}  # by label file
    labels, lines, crowd = array.array("i"), array.array("i"), array.array("b")
    boxes, points = array.array("d"), array.array("f")
    corners, parts = array.array("i"), array.array("b")
    for path, (size, (file, rows, of_labels, _)) in zip(paths, results, strict=True):
        other = image_of.setdefault(file, path) if file else path
        if other != path:
            reason = f"{shown(file, 300)} holds the labels of {shown(other, 300)} too"
            faults.append(Fault(FaultKind.SHARED_LABELS, path, None, reason))
        sizes.append(size)
        files.append(file)
        counts.append(len(rows))
        faults += of_labels
        for row in rows:
            labels.append(row.label)
            lines.append(row.line)
            crowd.append(row.crowd)
            boxes.extend(row.box)
            points.extend(row.outline)
            if row.outline:
                corners.append(len(row.outline) // 2)
            parts.append(bool(row.outline))
    image = np.repeat(np.arange(len(files)), counts)
    return Found(
        names=names,
        category_ids=np.arange(len(names), dtype=np.int64),
        paths=paths,
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        image_ids=np.arange(len(files), dtype=np.int64),
        image=image,
        labels=np.array(labels, np.int32),
        boxes=np.array(boxes).reshape(-1, 4),
        crowd=np.array(crowd, bool),
        areas=None,
        polygons=Polygons(
            np.array(points, np.float32).reshape(-1, 2), offsets_of(corners), offsets_of(parts)
        ),
        place_of=lambda row: Place(files[image[row]], lines[row]),
        faults=faults,
        notes=notes,
    )
