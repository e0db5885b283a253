"""Reads data sets in the YOLO txt layout: a data.yaml, pictures, and one label file for each."""

import difflib
import logging
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from train.data.dataset import Dataset
from train.data.picture_size import picture_size
from train.errors import UserError

Split = Literal["train", "val", "test"]
SPLITS = ("train", "val", "test")
KEYS = ("path", *SPLITS, "nc", "names")
PICTURE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
ROUNDING = 1e-3  # label files carry few digits, so a side may lie this far outside [0, 1]

_log = logging.getLogger(__name__)


def load_yolo(data_yaml: str | Path, split: Split) -> Dataset:
    """Reads one split of a data set.

    data.yaml has `names` (a list, or a map from 0, 1, 2 ...) and, per split, a folder of
    pictures, a .txt file that lists them, or a list of these, relative to `path`, which is
    relative to data.yaml and is its folder by default. The labels of `a/images/b.jpg` are in
    `a/labels/b.txt` or else beside the picture; a picture without either has no objects. Each
    line of a label file is `class cx cy w h`, normalised by the picture's size. Rows repeated
    within a file are dropped with a warning.

    Args:
      data_yaml: the file that describes the data set.
      split: which part to read.

    Raises:
      UserError: something is missing or malformed. One line names the first fault, with file and
        line, says what was wanted and how many faults there are more.
    """
    data_yaml = Path(data_yaml)
    config = _read_yaml(data_yaml)
    names = _names(config, data_yaml)
    paths = _pictures(config, data_yaml, split)
    faults: list[str] = []
    sizes, rows, repeated = [], [], 0
    for path in paths:
        try:
            sizes.append(picture_size(path))
        except ValueError as error:
            faults.append(str(error))
        label_file = _label_file(path)
        if label_file is None:
            rows.append([])
            continue
        read = _read_labels(label_file, len(names), faults)
        unique = list(dict.fromkeys(read))
        repeated += len(read) - len(unique)
        rows.append(unique)
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise UserError(faults[0] + more)
    if repeated:
        _log.warning("%s: %d repeated label rows of %s were dropped", data_yaml, repeated, split)
    if not any(rows):
        _log.warning("%s: no picture of %s has a labelled object", data_yaml, split)
    table = np.asarray([row for of_picture in rows for row in of_picture], np.float64)
    table = table.reshape(-1, 5)
    return Dataset(
        names=names,
        paths=tuple(str(path) for path in paths),
        sizes=np.asarray(sizes, np.int32),
        offsets=np.cumsum([0, *(len(of_picture) for of_picture in rows)], dtype=np.int64),
        labels=table[:, 0].astype(np.int32),
        boxes=table[:, 1:].astype(np.float32),
    )


def _read_yaml(data_yaml: Path) -> dict[str, Any]:
    try:
        text = data_yaml.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{data_yaml}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{data_yaml}: is not a text file in UTF-8") from error
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise UserError(f"{data_yaml}{line}: is not YAML: {problem}") from error
    if not isinstance(config, dict):
        raise UserError(f"{data_yaml}: wanted a map with the keys {', '.join(KEYS)}")
    unknown = [str(key) for key in config if key not in KEYS]
    if unknown:
        close = difflib.get_close_matches(unknown[0], KEYS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"the keys are {', '.join(KEYS)}"
        more = f" (and {len(unknown) - 1} more unknown keys)" if len(unknown) > 1 else ""
        raise UserError(f"{data_yaml}: unknown key '{unknown[0]}'; {hint}{more}")
    return config


def _names(config: dict[str, Any], data_yaml: Path) -> tuple[str, ...]:
    names = config.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(
                f"{data_yaml}: the keys of 'names' must be 0 to {len(names) - 1}, "
                f"each once; got {list(names)}"
            )
        names = [names[label] for label in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(
            f"{data_yaml}: 'names' must list the classes, or map 0, 1, 2 ... to them; got {names!r}"
        )
    if any(isinstance(name, (dict, list)) or name is None for name in names):
        raise UserError(f"{data_yaml}: every class in 'names' must be a word; got {names}")
    names = [str(name) for name in names]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(f"{data_yaml}: 'names' has {twice[0]!r} more than once")
    count = config.get("nc", len(names))
    if count != len(names):
        raise UserError(f"{data_yaml}: 'nc' is {count!r}, but 'names' has {len(names)} classes")
    return tuple(names)


def _pictures(config: dict[str, Any], data_yaml: Path, split: str) -> list[Path]:
    entries = config.get(split)
    if entries is None:
        has = [name for name in SPLITS if config.get(name) is not None]
        raise UserError(f"{data_yaml}: has no split '{split}'; it has {', '.join(has) or 'none'}")
    if isinstance(entries, str):
        entries = [entries]
    root = config.get("path") or "."
    if not isinstance(root, str):
        raise UserError(f"{data_yaml}: 'path' must be a folder; got {root!r}")
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise UserError(
            f"{data_yaml}: '{split}' must be a folder, a .txt file that lists pictures, "
            f"or a list of these; got {entries!r}"
        )
    folder = data_yaml.parent / Path(root).expanduser()
    paths: list[Path] = []
    for entry in entries:
        source = folder / entry
        if source.is_dir():
            found = (path for path in source.rglob("*") if _is_picture(path))
            paths += sorted(found)
        elif source.suffix == ".txt" and source.is_file():
            paths += _listed(source)
        else:
            raise UserError(
                f"{data_yaml}: '{split}': {source} is neither a folder "
                "nor a .txt file that lists pictures"
            )
    if not paths:
        where = ", ".join(str(folder / entry) for entry in entries)
        suffixes = " ".join(sorted(PICTURE_SUFFIXES))
        raise UserError(f"{data_yaml}: '{split}': no pictures ({suffixes}) in {where}")
    return paths


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")


def _listed(source: Path) -> list[Path]:
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read as text") from error
    paths = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        path = source.parent / line.strip()
        if not path.is_file():
            raise UserError(f"{source}:{number}: there is no picture {path}")
        paths.append(path)
    return paths


def _label_file(picture: Path) -> Path | None:
    """Returns the label file of a picture, or None where it has none."""
    candidates = [picture.with_suffix(".txt")]
    parts = picture.parts
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        labels = Path(*parts[:last], "labels", *parts[last + 1 :])
        candidates.insert(0, labels.with_suffix(".txt"))
    return next((path for path in candidates if path.is_file()), None)


def _read_labels(path: Path, num_classes: int, faults: list[str]) -> list[tuple[float, ...]]:
    """Returns the rows of a label file, and adds what is wrong with it to `faults`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        faults.append(f"{path}: cannot be read as text")
        return []
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            rows.append(_row(words, num_classes))
        except ValueError as error:
            faults.append(f"{path}:{number}: {error}")
    return rows


def _row(words: list[str], num_classes: int) -> tuple[float, ...]:
    """Parses the words of one line; a ValueError says what is wrong with them."""
    if len(words) != 5:
        raise ValueError(f"wanted 5 columns (class cx cy w h), got {len(words)}")
    try:
        label, *box = (float(word) for word in words)
    except ValueError:
        raise ValueError(f"wanted 5 numbers (class cx cy w h), got {' '.join(words)}") from None
    if not all(map(math.isfinite, (label, *box))):
        raise ValueError(f"wanted finite numbers, got {' '.join(words)}")
    if label != int(label) or not 0 <= label < num_classes:
        raise ValueError(f"class {words[0]} is not one of 0 to {num_classes - 1}")
    for name, word, value in zip(("cx", "cy", "w", "h"), words[1:], box, strict=True):
        if not -ROUNDING <= value <= 1 + ROUNDING:
            raise ValueError(f"{name} is {word}, wanted between 0 and 1 (normalised)")
    if min(box[2:]) <= 0:
        raise ValueError(f"w and h are {words[3]} and {words[4]}, wanted more than 0")
    return (label, *(min(max(value, 0.0), 1.0) for value in box))
