"""Reads data sets in the YOLO txt layout: pictures, and one label file for each."""

import array
import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yolov7_jax.data.assemble import Found, Place
from yolov7_jax.data.dataset import Polygons
from yolov7_jax.data.faults import Fault, Kind, of_picture, plural, shown
from yolov7_jax.data.parallel import map_files
from yolov7_jax.data.picture_size import examine_picture
from yolov7_jax.errors import UserError

PICTURE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
# Pictures that are not read. To pass over them in silence would lose them.
OTHER_SUFFIXES = frozenset(
    (
        *(".arw", ".avif", ".cr2", ".dng", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe"),
        *(".jxl", ".nef", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".raw", ".svg", ".tga"),
    )
)
# What stands in folders of labels without being labels.
OTHER_TEXTS = frozenset(("classes.txt", "notes.txt", "readme.txt", "predefined_classes.txt"))
LABEL_SUFFIXES = (".txt", ".TXT")  # the first choice first
ROUNDING = 1e-3  # label files carry few digits, so a side may lie this far outside [0, 1]
BOX_COLUMNS = 5
LEAST_POLYGON_COLUMNS = 7
WANTED = "5 columns (class cx cy w h) or a class and at least 3 corners (class x1 y1 x2 y2 x3 y3)"


class _Row(NamedTuple):
    label: int
    box: tuple[float, float, float, float]  # cx cy w h
    outline: list[float]  # x1 y1 x2 y2 ..., or empty


class _Labels(NamedTuple):
    """What the label file of one picture says."""

    file: str
    rows: list[_Row]
    lines: list[int]
    faults: list[Fault]


class _RowError(ValueError):
    """A row is wrong."""

    def __init__(self, kind: Kind, reason: str):
        super().__init__(reason)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class YoloTxt:
    """A split in the YOLO txt layout.

    The labels of `a/images/b.jpg` are in `a/labels/b.txt` (or `.TXT`) or else beside the picture;
    a picture without either has no objects. Each line of a label file is `class cx cy w h` or an
    outline `class x1 y1 x2 y2 x3 y3 ...`, whose box is its hull; normalised by the picture's size.

    Attributes:
      names: the classes.
      pictures: files that exist or were listed.
      faults: of lists of pictures.
      orphans: label files that no picture uses, in the folders of labels that belong to the split.
      notes: what there is to tell about how the split was found.
    """

    names: tuple[str, ...]
    pictures: tuple[str, ...]
    faults: tuple[Fault, ...]
    orphans: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def digest(self, workers: int) -> str:
        """Returns a hash of all that the scan depends on, but for the pictures' contents."""
        digest = hashlib.blake2b(digest_size=32)
        digest.update(repr(("yolo_txt", self.names, self.orphans)).encode())
        digest.update(repr([tuple(map(str, fault)) for fault in self.faults]).encode())
        texts = map_files(_label_bytes, self.pictures, workers=workers, title="labels")
        for picture, (file, content, problem) in zip(self.pictures, texts, strict=True):
            head = f"{picture}\0{file}\0{problem}\0{len(content)}\0"
            digest.update(head.encode("utf-8", "surrogatepass"))
            digest.update(content)
        return digest.hexdigest()

    def without_labels(self) -> str:
        """Says where labels were looked for, where there are none."""
        empty = sum(os.path.isfile(path) for name in self.pictures for path in _label_paths(name))
        if empty:
            return f"{empty} label {plural('file', empty)}, without a row"
        first = self.pictures[0]
        text = f"there is no label file; that of {first}, the first, would be "
        text += " or ".join(
            path for path in _label_paths(first) if path.endswith(LABEL_SUFFIXES[0])
        )
        if _labels_path(first) is None:
            text += ", or in a folder 'labels' if its pictures were in one beside it named 'images'"
        return text

    def read(self, *, decode: bool, workers: int) -> Found:
        """Looks at every file; see `Found`."""
        examine = functools.partial(_examine, len(self.names), decode)
        results = map_files(examine, self.pictures, workers=workers, title="pictures")
        faults = list(self.faults)
        for file in self.orphans:
            reason = "there is no picture with these labels"
            if not file.endswith(LABEL_SUFFIXES[0]):
                reason = "no picture takes its labels from here; wanted a name that ends in .txt"
            faults.append(Fault(Kind.NO_PICTURE, file, None, reason))
        sizes, files, counts, picture_of = [], [], [], {}
        labels, lines = array.array("i"), array.array("i")
        boxes, points = array.array("d"), array.array("f")
        corners, parts = array.array("i"), array.array("b")
        for name, (size, read) in zip(self.pictures, results, strict=True):
            other = picture_of.setdefault(read.file, name)
            if other != name and read.file:
                reason = f"{shown(read.file, 300)} holds the labels of {shown(other, 300)} too"
                faults.append(Fault(Kind.SHARED_LABELS, name, None, reason))
            sizes.append(size)
            files.append(read.file)
            counts.append(len(read.rows))
            lines.extend(read.lines)
            faults += read.faults
            for row in read.rows:
                labels.append(row.label)
                boxes.extend(row.box)
                points.extend(row.outline)
                if row.outline:
                    corners.append(len(row.outline) // 2)
                parts.append(bool(row.outline))
        picture = np.repeat(np.arange(len(files)), counts)
        polygons = Polygons(
            np.array(points, np.float32).reshape(-1, 2),
            np.cumsum([0, *corners], dtype=np.int64),
            np.cumsum([0, *parts], dtype=np.int64),
        )
        return Found(
            names=self.names,
            category_ids=np.arange(len(self.names), dtype=np.int64),
            paths=self.pictures,
            sizes=np.array(sizes, np.int32).reshape(-1, 2),
            image_ids=np.arange(len(files), dtype=np.int64),
            picture=picture,
            labels=np.array(labels, np.int32),
            boxes=np.array(boxes).reshape(-1, 4),
            crowd=np.zeros(len(labels), bool),
            areas=None,
            polygons=polygons,
            place_of=lambda row: Place(files[picture[row]], lines[row]),
            faults=faults,
        )


def open_yolo_txt(
    names: tuple[str, ...], entries: Sequence[Path], *, file: Path, split: str
) -> YoloTxt:
    """Finds the pictures of a split.

    Args:
      names: the classes.
      entries: folders of pictures and .txt files that list pictures.
      file: the data.yaml, for messages.
      split: for messages.

    Raises:
      UserError: an entry is neither, or there are no pictures in any.
    """
    pictures: list[str] = []
    faults: list[Fault] = []
    orphans: list[str] = []
    missing: set[str] = set()
    for entry in entries:
        if entry.is_dir():
            found = _files_below(str(entry), PICTURE_SUFFIXES | OTHER_SUFFIXES)
            orphans += _orphans(str(entry), found)
            for path in found:
                suffix = os.path.splitext(path)[1].lower()
                if suffix in PICTURE_SUFFIXES:
                    pictures.append(path)
                else:
                    reason = f"{suffix} is not read; wanted {' '.join(sorted(PICTURE_SUFFIXES))}"
                    faults.append(Fault(Kind.UNSUPPORTED_PICTURE, path, None, reason))
        elif entry.suffix == ".txt" and entry.is_file():
            pictures += _listed(entry, missing, faults)
        elif not entry.exists():
            raise UserError(f"{file}: '{split}': there is no {entry}")
        else:
            raise UserError(
                f"{file}: '{split}': {entry} is neither a folder nor a .txt file that lists "
                "pictures, nor a COCO .json file, nor a Pascal VOC folder"
            )
    once = dict.fromkeys(pictures)
    if len(once) < len(pictures):
        seen: set[str] = set()
        for picture in pictures:
            if picture in seen:
                reason = f"is named more than once by '{split}'"
                faults.append(Fault(Kind.REPEATED_PICTURE, picture, None, reason))
            seen.add(picture)
    if not once:
        where = ", ".join(map(str, entries))
        suffixes = " ".join(sorted(PICTURE_SUFFIXES))
        raise UserError(
            f"{file}: '{split}': no pictures ({suffixes}) in {where}"
            + (f"; {faults[0]}" if faults else "")
        )
    return YoloTxt(names, tuple(once), tuple(faults), tuple(sorted(orphans)))


def _files_below(
    folder: str, suffixes: frozenset[str], above: frozenset[tuple[int, int]] = frozenset()
) -> list[str]:
    """Returns the files of these types in a folder and all below it, sorted by their parts.

    Links to folders are followed, but not to those in `above`, which would never end.
    """
    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return []
        with os.scandir(folder) as entries:
            names = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror or error}") from error
    found = []
    for name, is_folder in names:
        path = os.path.join(folder, name)
        if is_folder:
            found += _files_below(path, suffixes, above | {identity})
        elif os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
            found.append(path)
    return found


def _listed(source: Path, missing: set[str], faults: list[Fault]) -> list[str]:
    try:
        lines = source.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read as text") from error
    paths = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        path = os.path.normpath(os.path.join(source.parent, line.strip()))
        if os.path.isfile(path):
            paths.append(path)
        else:
            kind = Kind.REPEATED_PICTURE if path in missing else Kind.MISSING_PICTURE
            reason = f"there is no picture {shown(path, 300)}"
            faults.append(Fault(kind, str(source), number, reason))
            missing.add(path)
    return paths


def _orphans(folder: str, pictures: list[str]) -> list[str]:
    """Returns the label files below the folder of labels that no picture uses."""
    twin = _labels_path(os.path.join(folder, ""))
    if twin is None or not os.path.isdir(twin):
        return []
    known = {os.path.splitext(path)[0] for path in map(_labels_path, pictures) if path}
    texts = _files_below(twin.rstrip(os.sep), frozenset((".txt",)))
    first, second = LABEL_SUFFIXES
    listed = set(texts)
    orphans = []
    for path in texts:
        stem, suffix = os.path.splitext(path)
        read = suffix == first or (suffix == second and stem + first not in listed)
        is_label = os.path.basename(path).lower() not in OTHER_TEXTS
        if is_label and not (read and stem in known):
            orphans.append(path)
    return orphans


def _labels_path(picture: str) -> str | None:
    """Returns the path with the last folder `images` replaced by `labels`; None without one."""
    folder, name = os.path.split(picture)
    head, images, tail = (os.sep + folder + os.sep).rpartition(f"{os.sep}images{os.sep}")
    if not images:
        return None
    return os.path.join(f"{head}{os.sep}labels{os.sep}"[1:] + tail, name)


def _label_paths(picture: str) -> list[str]:
    """Returns where the labels of a picture may be, the first choice first."""
    beside = os.path.splitext(picture)[0]
    twin = _labels_path(beside)
    stems = [twin, beside] if twin else [beside]
    return [stem + suffix for stem in stems for suffix in LABEL_SUFFIXES]


def _label_bytes(picture: str) -> tuple[str, bytes, str]:
    """Returns the label file of a picture, its content and why it cannot be read.

    All are empty where the picture has none.
    """
    for path in _label_paths(picture):
        try:
            with open(path, "rb", buffering=0) as file:
                return path, file.read(), ""
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return path, b"", error.strerror or str(error)
    return "", b"", ""


def _examine(num_classes: int, decode: bool, picture: str) -> tuple[tuple[int, int], _Labels]:
    size, fault = examine_picture(picture, decode=decode)
    labels = _read_labels(*_label_bytes(picture), num_classes)
    if any(fault.kind is Kind.UNREADABLE_LABELS for fault in labels.faults):
        size = (0, 0)  # an unlabelled picture would teach that there is nothing in it
    return size, labels._replace(faults=of_picture(fault, labels.faults))


def _read_labels(file: str, content: bytes, problem: str, num_classes: int) -> _Labels:
    rows, lines, faults = [], [], []
    reason = f"cannot be read: {problem}" if problem else ""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text, reason = "", "cannot be read as text in UTF-8"
    if reason:
        reason += "; its picture is left out"
        faults.append(Fault(Kind.UNREADABLE_LABELS, file, None, reason))
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        words = line.split()
        if not words:
            continue
        try:
            rows.append(_parse(words, num_classes))
            lines.append(number)
        except _RowError as error:
            faults.append(Fault(error.kind, file, number, str(error)))
    return _Labels(file, rows, lines, faults)


def _parse(words: list[str], num_classes: int) -> _Row:
    """Parses the words of one line; a _RowError says what is wrong with them."""
    is_box = len(words) == BOX_COLUMNS
    if not is_box and (len(words) < LEAST_POLYGON_COLUMNS or len(words) % 2 == 0):
        raise _RowError(Kind.COLUMNS, f"wanted {WANTED}, got {len(words)} columns")
    try:
        label, *values = map(float, words)
    except ValueError:
        reason = f"wanted numbers, got {shown(' '.join(words))}"
        raise _RowError(Kind.NO_NUMBER, reason) from None
    if not all(map(math.isfinite, (label, *values))):
        raise _RowError(Kind.NOT_FINITE, f"wanted finite numbers, got {shown(' '.join(words))}")
    if label != int(label) or not 0 <= label < num_classes:
        reason = f"class {shown(words[0])} is not one of 0 to {num_classes - 1}"
        raise _RowError(Kind.UNKNOWN_CLASS, reason)
    if min(values) < -ROUNDING or max(values) > 1 + ROUNDING:
        at = next(at for at, v in enumerate(values) if not -ROUNDING <= v <= 1 + ROUNDING)
        name = ("cx", "cy", "w", "h")[at] if is_box else f"{'xy'[at % 2]}{at // 2 + 1}"
        reason = f"{name} is {shown(words[at + 1])}, wanted between 0 and 1 (normalised)"
        raise _RowError(Kind.OUT_OF_RANGE, reason)
    if is_box:
        cx, cy, w, h = values
        outline = []
    else:
        outline = [min(max(value, 0.0), 1.0) for value in values]
        left, right = min(outline[::2]), max(outline[::2])
        top, bottom = min(outline[1::2]), max(outline[1::2])
        cx, cy, w, h = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    if w <= 0 or h <= 0:
        what = "w and h are" if is_box else "the outline's width and height are"
        raise _RowError(Kind.ZERO_AREA, f"{what} {w:g} and {h:g}, wanted more than 0")
    return _Row(int(label), (cx, cy, w, h), outline)
