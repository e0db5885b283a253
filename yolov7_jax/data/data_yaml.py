"""Reads a data.yaml, which names the classes and where each split of a data set is."""

import difflib
import os
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from yolov7_jax.errors import UserError
from yolov7_jax.strict_yaml import RepeatedKeyError, load_strictly

SPLITS = ("train", "val", "test")
KEYS = ("path", *SPLITS, "nc", "names", "images")
# How like a key another one must be to be taken for a slip of the pen and not for another tool's.
LIKENESS, MOST_LETTERS = 0.7, 2


class DataYaml(NamedTuple):
    """One split of what a data.yaml says.

    Attributes:
      file: the data.yaml itself.
      names: the classes; None where the source is to name them.
      entries: the files and folders of the split, absolute.
      images: where images are that a COCO file names; None where it doesn't say.
      notes: what was read otherwise than it stands there.
    """

    file: Path
    names: tuple[str, ...] | None
    entries: tuple[Path, ...]
    images: Path | None
    notes: tuple[str, ...]


def read_data_yaml(file: Path, split: str) -> DataYaml:
    """Reads one split of a data.yaml.

    `path` is relative to the file and is its folder by default; all other paths are relative to
    `path`. In all, `~` is the user's folder. Where `../train/images` does not exist, as in what
    Roboflow exports, `train/images` is taken. `names` is a list, or a map from 0, 1, 2 ... Keys of
    other tools are not used, but `kpt_shape` tells label files with keypoints, which are not read.

    Raises:
      UserError: it cannot be read, or something is missing or malformed.
    """
    config = _read(file)
    entries = config.get(split)
    if entries is None:
        has = [name for name in SPLITS if config.get(name) is not None]
        raise UserError(
            f"{file}: has no split '{split}'; it has {', '.join(has) or 'none'}" + _unused(config)
        )
    if isinstance(entries, str):
        entries = [entries]
    root, images = config.get("path") or ".", config.get("images")
    if not isinstance(root, str):
        raise UserError(f"{file}: 'path' must be a folder; got {root!r}")
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise UserError(
            f"{file}: '{split}' must be a folder, a .txt file that lists images, "
            f"a COCO .json file, or a list of these; got {entries!r}"
        )
    if "kpt_shape" in config and not all(entry.lower().endswith(".json") for entry in entries):
        raise UserError(
            f"{file}: 'kpt_shape' says that label files have keypoints, which would be read as "
            "outlines; wanted labels of boxes or outlines"
        )
    if isinstance(images, dict):
        images = images.get(split)
    if images is not None and not isinstance(images, str):
        raise UserError(f"{file}: 'images' must be a folder, or map splits to one; got {images!r}")
    folder = file.parent / os.path.expanduser(root)
    notes: list[str] = []
    return DataYaml(
        file=file,
        names=_names(config, file),
        entries=tuple(_find(folder, entry, split, notes) for entry in entries),
        images=None if images is None else folder / os.path.expanduser(images),
        notes=tuple(notes),
    )


def splits_of(file: Path) -> list[str]:
    """Returns the splits that a data.yaml has.

    Raises:
      UserError: it cannot be read.
    """
    config = _read(file)
    return [name for name in SPLITS if config.get(name) is not None]


def unused_keys(file: Path) -> list[str]:
    """Returns the keys that other tools have written into a data.yaml.

    Raises:
      UserError: it cannot be read.
    """
    return [str(key) for key in _read(file) if key not in KEYS]


def _find(folder: Path, entry: str, split: str, notes: list[str]) -> Path:
    """Returns the path of an entry, which other tools may count from a folder further down."""
    entry = os.path.expanduser(entry)
    path, (first, *rest) = folder / entry, Path(entry).parts or (".",)
    nearer = folder.joinpath(*rest)
    if first != ".." or not rest or path.exists() or not nearer.exists():
        return path
    notes.append(f"'{split}': there is no {entry}; {'/'.join(rest)} is used")
    return nearer


def _unused(config: dict[str, Any]) -> str:
    """Returns what an error about a missing key says of those that are not known."""
    unused = [str(key) for key in config if key not in KEYS]
    return f" (and, not used: {', '.join(unused)})" if unused else ""


def _meant(key: str) -> str | None:
    """Returns the key that a misspelt one was meant to be."""
    for close in difflib.get_close_matches(key.casefold(), KEYS, n=len(KEYS), cutoff=LIKENESS):
        if abs(len(close) - len(key)) <= MOST_LETTERS:
            return close
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not a text file in UTF-8") from error
    try:
        config = load_strictly(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        what = problem if isinstance(error, RepeatedKeyError) else f"is not YAML: {problem}"
        raise UserError(f"{file}{line}: {what}") from error
    if not isinstance(config, dict):
        raise UserError(f"{file}: wanted a map with the keys {', '.join(KEYS)}")
    meant = {str(key): _meant(str(key)) for key in config if key not in KEYS}
    slips = [
        f"unknown key '{key}'; did you mean '{close}'?" for key, close in meant.items() if close
    ]
    if slips:
        raise UserError(f"{file}: {'; '.join(slips)}")
    return config


def _names(config: dict[str, Any], file: Path) -> tuple[str, ...] | None:
    names = config.get("names")
    if names is None:
        return None
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(
                f"{file}: the keys of 'names' must be 0 to {len(names) - 1}, "
                f"each once; got {list(names)}"
            )
        names = [names[label] for label in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(
            f"{file}: 'names' must list the classes, or map 0, 1, 2 ... to them; got {names!r}"
        )
    if any(isinstance(name, bool) for name in names):
        raise UserError(f"{file}: YAML reads yes, no, on and off in 'names' as truths: quote them")
    if any(isinstance(name, (dict, list)) or name is None for name in names):
        raise UserError(f"{file}: every class in 'names' must be a word; got {names}")
    names = [str(name) for name in names]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(f"{file}: 'names' has {twice[0]!r} more than once")
    count = config.get("nc", len(names))
    if count != len(names):
        raise UserError(f"{file}: 'nc' is {count!r}, but 'names' has {len(names)} classes")
    return tuple(names)
