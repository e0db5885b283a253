"""The label file of one image in the YOLO txt layout: where it is, and what its rows say."""

import math
import os

from yolov7_jax.data.faults import Fault, FaultKind, plural, shown
from yolov7_jax.data.image_labels import (
    ImageLabels,
    LabelRow,
    label_file,
    unreadable,
)

LABEL_SUFFIXES = (".txt", ".TXT")  # the first choice first
ROUNDING = 1e-3  # label files carry few digits, so a side may lie this far outside [0, 1]
BOX_COLUMNS = 5
LEAST_POLYGON_COLUMNS = 7
WANTED = "5 columns (class cx cy w h) or a class and at least 3 corners (class x1 y1 x2 y2 x3 y3)"


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
