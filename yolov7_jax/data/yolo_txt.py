"""Reads data sets in the YOLO txt layout: images, and one label file for each."""

import collections
import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

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

IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
# Images that are not read. To pass over them in silence would lose them.
OTHER_SUFFIXES = frozenset(
    (
        *(".arw", ".avif", ".cr2", ".dng", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe"),
        *(".jxl", ".nef", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".raw", ".svg", ".tga"),
    )
)
# What stands in folders of labels without being labels.
OTHER_TEXTS = frozenset(
    (
        *("classes.txt", "notes.txt", "readme.txt", "predefined_classes.txt"),
        *("train.txt", "val.txt", "test.txt"),  # lists of images
    )
)
LABEL_SUFFIXES = (".txt", ".TXT")  # the first choice first
ROUNDING = 1e-3  # label files carry few digits, so a side may lie this far outside [0, 1]
BOX_COLUMNS = 5
LEAST_POLYGON_COLUMNS = 7
WANTED = "5 columns (class cx cy w h) or a class and at least 3 corners (class x1 y1 x2 y2 x3 y3)"


@dataclasses.dataclass(frozen=True)
class YoloTxt:
    """A split in the YOLO txt layout.

    The labels of `a/images/b.jpg` are in `a/labels/b.txt` (or `.TXT`) or else beside the image;
    an image without either has no objects. Each line of a label file is `class cx cy w h` or an
    outline `class x1 y1 x2 y2 x3 y3 ...`, whose box is its hull; normalised by the image's size.

    Attributes:
      names: the classes.
      images: files that exist or were listed.
      faults: of lists of images, and label files that no image uses, in the folders of labels that
        belong to the split.
      unused: notes about such files beside images, and in the folders of labels of listed images,
        which other splits may share; and about second label files of images.
      notes: what there is to tell about how the split was found.
    """

    names: tuple[str, ...]
    images: tuple[str, ...]
    faults: tuple[Fault, ...]
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def digest(self, workers: int) -> str:
        """Returns a hash of all that the scan depends on, but for the images' contents."""
        split = ("yolo_txt", self.names, self.images, self.unused)
        files = map_files(
            lambda image: label_file(label_paths(image)),
            self.images,
            workers=workers,
            title="labels",
        )
        return digest_of(split, self.faults, files)

    def without_labels(self) -> str:
        """Says where labels were looked for, where there are none."""
        empty = sum(os.path.isfile(path) for name in self.images for path in label_paths(name))
        if empty:
            return f"{empty} label {plural('file', empty)}, without a row"
        first = self.images[0]
        text = f"there is no label file; that of {first}, the first, would be "
        text += " or ".join(path for path in label_paths(first) if path.endswith(LABEL_SUFFIXES[0]))
        if labels_path(first) is None:
            text += ", or in a folder 'labels' if its images were in one beside it named 'images'"
        return text

    def read(self, *, decode: bool, workers: int) -> Found:
        """Looks at every file; see `Found`."""
        examine = functools.partial(_examine, len(self.names), decode)
        results = map_files(examine, self.images, workers=workers, title="images")
        return found_from(self.names, self.images, results, self.faults, self.unused)


def open_yolo_txt(
    names: tuple[str, ...], entries: Sequence[Path], *, file: Path, split: str
) -> YoloTxt:
    """Finds the images of a split.

    Args:
      names: the classes.
      entries: folders of images and .txt files that list images.
      file: the data.yaml, for messages.
      split: for messages.

    Raises:
      UserError: an entry is neither, or there are no images in any.
    """
    images: list[str] = []
    faults: list[Fault] = []
    missing: set[str] = set()
    for entry in entries:
        if entry.is_dir():
            found = _files_below(str(entry), IMAGE_SUFFIXES | OTHER_SUFFIXES)
            for path in found:
                suffix = os.path.splitext(path)[1].lower()
                if suffix in IMAGE_SUFFIXES:
                    images.append(path)
                else:
                    reason = f"{suffix} is not read; wanted {' '.join(sorted(IMAGE_SUFFIXES))}"
                    faults.append(Fault(FaultKind.UNSUPPORTED_IMAGE, path, None, reason))
            faults += _orphans(str(entry), found)
        elif entry.suffix == ".txt" and entry.is_file():
            images += _listed(entry, missing, faults)
        elif not entry.exists():
            raise UserError(f"{file}: '{split}': there is no {entry}")
        else:
            raise UserError(
                f"{file}: '{split}': {entry} is neither a folder nor a .txt file that lists "
                "images, nor a COCO .json file, nor a Pascal VOC folder"
            )
    once = collections.Counter(images)
    reason = f"is named more than once by '{split}'"
    for image, count in once.items():
        faults += [Fault(FaultKind.REPEATED_IMAGE, image, None, reason)] * (count - 1)
    if not once:
        where = ", ".join(map(str, entries))
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(
            f"{file}: '{split}': no images ({suffixes}) in {where}"
            + next((f"; {fault}" for fault in faults if fault.kind is not FaultKind.NO_IMAGE), "")
        )
    told = {*(fault.file for fault in faults), *map(str, entries)}
    return YoloTxt(names, tuple(once), tuple(faults), _unused_texts(once, told))


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
    paths: list[str] = []
    for number, line in lines_of(source):
        path = os.path.normpath(source.parent / os.path.expanduser(line))
        if os.path.isfile(path):
            paths.append(path)
        else:
            kind = FaultKind.REPEATED_IMAGE if path in missing else FaultKind.MISSING_IMAGE
            reason = f"there is no image {shown(path, 300)}"
            faults.append(Fault(kind, str(source), number, reason))
            missing.add(path)
    return paths


def _orphans(folder: str, images: list[str]) -> Iterator[Fault]:
    """Yields a fault for each label file below the folder of labels that no image uses."""
    twin = labels_path(os.path.join(folder, ""))
    if twin is None or not os.path.isdir(twin):
        return
    known = {os.path.splitext(path)[0] for path in map(labels_path, images) if path}
    texts = _files_below(twin.rstrip(os.sep), frozenset((".txt",)))
    first, second = LABEL_SUFFIXES
    listed = set(texts)
    for path in texts:
        stem, suffix = os.path.splitext(path)
        read = suffix == first or (suffix == second and stem + first not in listed)
        if os.path.basename(path).lower() in OTHER_TEXTS or (read and stem in known):
            continue
        reason = "there is no image with these labels"
        if suffix != first:
            reason = f"no image takes its labels from here; wanted a name that ends in {first}"
        yield Fault(FaultKind.NO_IMAGE, path, None, reason)


def _unused_texts(images: Iterable[str], told: Set[str]) -> tuple[str, ...]:
    """Returns notes about label files that are not read, among images and in their folders.

    Args:
      images: those of the split.
      told: files that are told of elsewhere, or are no labels.
    """
    strays, doubled = [], []
    for folder in dict.fromkeys(map(os.path.dirname, images)):
        names = _names_in(folder)
        twin = labels_path(os.path.join(folder, ""))
        texts = [os.path.join(folder, name) for name in names if _is_text(name)]
        if twin is not None:
            texts += [os.path.join(twin, name) for name in _names_in(twin) if _is_text(name)]
        there = set(texts)
        split = map(os.path.splitext, names)
        stems = {stem for stem, end in split if end.lower() in IMAGE_SUFFIXES | OTHER_SUFFIXES}
        for text in texts:
            stem = os.path.splitext(os.path.basename(text))[0]
            of_image = label_paths(os.path.join(folder, f"{stem}.jpg"))
            used = next((path for path in of_image if path in there), None)
            if text in told:
                continue
            if stem not in stems or used is None:
                strays.append(shown(text, 300))
            elif used != text:
                doubled.append(f"{shown(used, 300)} is used, {shown(text, 300)} is not")
    notes = []
    if strays:
        label_files = f"{len(strays)} label {plural('file', len(strays))}"
        notes.append(f"{label_files} without an image, not used: {first_of(strays)}")
    if doubled:
        have = f"{len(doubled)} {'images have' if len(doubled) > 1 else 'image has'}"
        notes.append(f"{have} a second label file: {first_of(doubled)}")
    return tuple(notes)


def _names_in(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []  # who opens its files tells


def _is_text(name: str) -> bool:
    hidden_or_other = name.startswith(".") or name.lower() in OTHER_TEXTS
    return name.lower().endswith(LABEL_SUFFIXES[0]) and not hidden_or_other


def _examine(num_classes: int, decode: bool, image: str) -> tuple[Size, ImageLabels]:
    return joined(*examine_image(image, decode=decode), read_labels(image, num_classes))


class _RowError(ValueError):
    """A row is wrong."""

    def __init__(self, kind: FaultKind, reason: str):
        super().__init__(reason)
        self.kind = kind


def labels_path(image: str) -> str | None:
    """Returns the path with the last folder `images` replaced by `labels`; None without one."""
    folder, name = os.path.split(image)
    head, images, tail = (os.sep + folder + os.sep).rpartition(f"{os.sep}images{os.sep}")
    if not images:
        return None
    return os.path.join(f"{head}{os.sep}labels{os.sep}"[1:] + tail, name)


def label_paths(image: str) -> list[str]:
    """Returns where the labels of an image may be, the first choice first."""
    beside = os.path.splitext(image)[0]
    twin = labels_path(beside)
    stems = [twin, beside] if twin else [beside]
    return [stem + suffix for stem in stems for suffix in LABEL_SUFFIXES]


def read_labels(image: str, num_classes: int) -> ImageLabels:
    """Reads the label file of an image; classes are 0 to `num_classes - 1`."""
    file, content, problem = label_file(label_paths(image))
    if not file:
        return ImageLabels("", [], [])
    if problem:
        return unreadable(file, None, f"cannot be read: {problem}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return unreadable(file, None, "cannot be read as text in UTF-8")
    rows, faults = [], []
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        words = line.split()
        if not words:
            continue
        try:
            rows.append(_parse(words, number, num_classes))
        except _RowError as error:
            faults.append(Fault(error.kind, file, number, str(error)))
    return ImageLabels(file, rows, faults)


def _parse(words: list[str], line: int, num_classes: int) -> LabelRow:
    """Parses the words of one line; a _RowError says what is wrong with them."""
    is_box = len(words) == BOX_COLUMNS
    if not is_box and (len(words) < LEAST_POLYGON_COLUMNS or len(words) % 2 == 0):
        count = len(words)
        raise _RowError(
            FaultKind.COLUMNS, f"wanted {WANTED}, got {count} {plural('column', count)}"
        )
    try:
        label, *values = map(float, words)
    except ValueError:
        reason = f"wanted numbers, got {shown(' '.join(words))}"
        raise _RowError(FaultKind.NO_NUMBER, reason) from None
    if not all(map(math.isfinite, (label, *values))):
        raise _RowError(
            FaultKind.NOT_FINITE, f"wanted finite numbers, got {shown(' '.join(words))}"
        )
    if label != int(label) or not 0 <= label < num_classes:
        reason = f"class {shown(words[0])} is not one of 0 to {num_classes - 1}"
        raise _RowError(FaultKind.UNKNOWN_CLASS, reason)
    if min(values) < -ROUNDING or max(values) > 1 + ROUNDING:
        at = next(at for at, v in enumerate(values) if not -ROUNDING <= v <= 1 + ROUNDING)
        name = ("cx", "cy", "w", "h")[at] if is_box else f"{'xy'[at % 2]}{at // 2 + 1}"
        reason = f"{name} is {shown(words[at + 1])}, wanted between 0 and 1 (normalised)"
        raise _RowError(FaultKind.OUT_OF_RANGE, reason)
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
        raise _RowError(FaultKind.ZERO_AREA, f"{what} {w:g} and {h:g}, wanted more than 0")
    return LabelRow(int(label), (cx, cy, w, h), line, outline)
