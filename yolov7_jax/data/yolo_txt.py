"""Reads data sets in the YOLO txt layout: images, and one label file for each."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

from yolov7_jax.data.ahead import map_files
from yolov7_jax.data.assemble import Found
from yolov7_jax.data.faults import Fault, FaultKind, plural, shown
from yolov7_jax.data.image_labels import (
    ImageLabels,
    Size,
    digest_of,
    gather,
    joined,
    label_file,
)
from yolov7_jax.data.images import examine_image
from yolov7_jax.data.yolo_labels import LABEL_SUFFIXES, label_paths, labels_path, read_labels
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


@dataclasses.dataclass(frozen=True)
class YoloTxt:
    """A split in the YOLO txt layout.

    The labels of `a/images/b.jpg` are in `a/labels/b.txt` (or `.TXT`) or else beside the image;
    an image without either has no objects. Each line of a label file is `class cx cy w h` or an
    outline `class x1 y1 x2 y2 x3 y3 ...`, whose box is its hull; normalised by the image's size.

    Attributes:
      names: the classes.
      images: files that exist or were listed.
      faults: of lists of images.
      orphans: label files that no image uses, in the folders of labels that belong to the split.
      strays: likewise those beside images, and in the folders of labels of listed images, which
        other splits may share.
      doubled: second label files of images, and those that are used instead.
      notes: what there is to tell about how the split was found.
    """

    names: tuple[str, ...]
    images: tuple[str, ...]
    faults: tuple[Fault, ...]
    orphans: tuple[str, ...]
    strays: tuple[str, ...] = ()
    doubled: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def digest(self, workers: int) -> str:
        """Returns a hash of all that the scan depends on, but for the images' contents."""
        split = ("yolo_txt", self.names, self.images, self.orphans, self.strays, self.doubled)
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
        faults = list(self.faults)
        for file in self.orphans:
            reason = "there is no image with these labels"
            if not file.endswith(LABEL_SUFFIXES[0]):
                reason = "no image takes its labels from here; wanted a name that ends in .txt"
            faults.append(Fault(FaultKind.NO_IMAGE, file, None, reason))
        results = self._with_shared_files(results)
        return gather(self.names, self.images, results, faults, self._notes())

    def _with_shared_files(
        self, results: Iterator[tuple[Size, ImageLabels]]
    ) -> Iterator[tuple[Size, ImageLabels]]:
        """Adds a fault for every image whose label file is that of an earlier one, too."""
        image_of: dict[str, str] = {}
        for name, (size, labels) in zip(self.images, results, strict=True):
            other = image_of.setdefault(labels.file, name)
            if other != name and labels.file:
                reason = f"{shown(labels.file, 300)} holds the labels of {shown(other, 300)} too"
                shared = Fault(FaultKind.SHARED_LABELS, name, None, reason)
                labels = labels._replace(faults=[*labels.faults, shared])
            yield size, labels

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.strays:
            count = len(self.strays)
            notes.append(
                f"{count} label {plural('file', count)} without an image, not used: "
                + shown(self.strays[0], 300)
                + ", the first" * (count > 1)
            )
        if self.doubled:
            count, (unused, used) = len(self.doubled), self.doubled[0]
            have = "images have" if count > 1 else "image has"
            notes.append(
                f"{count} {have} a second label file: {shown(used, 300)} is used, "
                f"{shown(unused, 300)} is not" + ", the first" * (count > 1)
            )
        return tuple(notes)


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
    orphans: list[str] = []
    missing: set[str] = set()
    for entry in entries:
        if entry.is_dir():
            found = _files_below(str(entry), IMAGE_SUFFIXES | OTHER_SUFFIXES)
            orphans += _orphans(str(entry), found)
            for path in found:
                suffix = os.path.splitext(path)[1].lower()
                if suffix in IMAGE_SUFFIXES:
                    images.append(path)
                else:
                    reason = f"{suffix} is not read; wanted {' '.join(sorted(IMAGE_SUFFIXES))}"
                    faults.append(Fault(FaultKind.UNSUPPORTED_IMAGE, path, None, reason))
        elif entry.suffix == ".txt" and entry.is_file():
            images += _listed(entry, missing, faults)
        elif not entry.exists():
            raise UserError(f"{file}: '{split}': there is no {entry}")
        else:
            raise UserError(
                f"{file}: '{split}': {entry} is neither a folder nor a .txt file that lists "
                "images, nor a COCO .json file, nor a Pascal VOC folder"
            )
    once = dict.fromkeys(images)
    if len(once) < len(images):
        seen: set[str] = set()
        for image in images:
            if image in seen:
                reason = f"is named more than once by '{split}'"
                faults.append(Fault(FaultKind.REPEATED_IMAGE, image, None, reason))
            seen.add(image)
    if not once:
        where = ", ".join(map(str, entries))
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(
            f"{file}: '{split}': no images ({suffixes}) in {where}"
            + (f"; {faults[0]}" if faults else "")
        )
    strays, doubled = _unused_texts(once, {*orphans, *map(str, entries)})
    return YoloTxt(names, tuple(once), tuple(faults), tuple(sorted(orphans)), strays, doubled)


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
        path = os.path.normpath(source.parent / os.path.expanduser(line.strip()))
        if os.path.isfile(path):
            paths.append(path)
        else:
            kind = FaultKind.REPEATED_IMAGE if path in missing else FaultKind.MISSING_IMAGE
            reason = f"there is no image {shown(path, 300)}"
            faults.append(Fault(kind, str(source), number, reason))
            missing.add(path)
    return paths


def _orphans(folder: str, images: list[str]) -> list[str]:
    """Returns the label files below the folder of labels that no image uses."""
    twin = labels_path(os.path.join(folder, ""))
    if twin is None or not os.path.isdir(twin):
        return []
    known = {os.path.splitext(path)[0] for path in map(labels_path, images) if path}
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


def _unused_texts(
    images: Iterable[str], known: Set[str]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Finds label files that are not read, among images and in the folders of their labels.

    Args:
      images: those of the split.
      known: files that are told of elsewhere, or are no labels.

    Returns:
      Those of which there is no image; and second ones of an image, each with the one that is
      read.
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
            if text in known:
                continue
            if stem not in stems or used is None:
                strays.append(text)
            elif used != text:
                doubled.append((text, used))
    return tuple(strays), tuple(doubled)


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
