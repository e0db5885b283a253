"""Opens whatever `--data` names: a data.yaml, a COCO JSON file or a Pascal VOC folder."""

import dataclasses
import logging
import os
import re
import shlex
from pathlib import Path

from yolov7_jax.data.assemble import Scan
from yolov7_jax.data.coco_json import CocoJson
from yolov7_jax.data.data_yaml import SPLITS, DataYaml, read_data_yaml, splits_of, unused_keys
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.data.faults import Effect, counted
from yolov7_jax.data.scan import Source, scan_source
from yolov7_jax.data.voc_xml import is_voc_folder, is_voc_list, open_voc_xml, voc_splits
from yolov7_jax.data.yolo_txt import open_yolo_txt
from yolov7_jax.errors import UserError

TRAINING_SPLITS = SPLITS[:2]  # which every run needs

_log = logging.getLogger(__name__)


def load_dataset(data: str | Path, split: str) -> Dataset:
    """Reads one split of a data set for training.

    What is faulty is left out, and one warning counts it; `yolov7-jax check` tells the
    details.

    Args:
      data: as for `load_split`, like the next.
      split: which one.

    Raises:
      UserError: something is missing or malformed, or nothing is left.
    """
    check = f"yolov7-jax check --data {shlex.quote(str(data))} --split {split}"
    try:
        scan = load_split(data, split)
    except NothingUsableError as error:
        raise UserError(f"{error}; see `{check}`") from error
    if scan.faults:
        _log.warning("%s: %s: %s; see `%s`", data, split, counted(scan.faults), check)
    return scan.dataset


class NothingUsableError(UserError):
    """A split was read, but has nothing to work with."""


def load_split(data: str | Path, split: str, *, unlabelled: bool = False) -> Scan:
    """Looks at one split of a data set, or reads what came of an earlier look if that still holds.

    Images are judged by their headers and ends, unless `yolov7-jax check` has decoded them.
    What of a data.yaml is not used, or used otherwise than it stands there, is a warning.

    Args:
      data: a data.yaml, whose splits are images with YOLO label files, a COCO .json file or
        Pascal VOC folders; or such a .json file or folder itself.
      split: `train`, `val` or `test`; for VOC any list that it has.
      unlabelled: whether a COCO file without annotations will do, as those are that name the
        images of a competition. In other layouts they are as good as always somewhere else.

    Returns:
      What is sound, and what is not and is left out.

    Raises:
      NothingUsableError: there is no image or object that can be used.
      UserError: something is missing or malformed.
    """
    source = open_source(data, split)
    # Once is enough, and whoever trains loads this split.
    of_all = data_notes(data) if split == TRAINING_SPLITS[0] else []
    for note in (*of_all, *source.notes):
        _log.warning("%s: %s", data, note)
    scan = scan_source(source, data, split)
    dataset, faults = scan.dataset, scan.faults
    if missing_labels(source, scan):
        if unlabelled and isinstance(source, CocoJson):
            return scan
        raise NothingUsableError(f"{data}: '{split}': {missing_labels(source, scan)}")
    for what, usable, effects in (
        ("image", len(dataset), Effect),
        ("object", len(dataset.labels), (Effect.OBJECT,)),
    ):
        if not usable:
            first = next(fault for fault in faults if fault.kind.effect in effects)
            more = f", and {len(faults) - 1} more faults" if len(faults) > 1 else ""
            raise NothingUsableError(f"{data}: no {what} of '{split}' can be used: {first}{more}")
    return scan


def missing_labels(source: Source, scan: Scan) -> str:
    """Returns where labels were looked for, if there is none in a whole split; else nothing.

    That there is nothing to find in any image is nearly always a folder of another name than
    expected.
    """
    faulty = any(fault.kind.effect is Effect.OBJECT for fault in scan.faults)
    if len(scan.dataset.labels) or faulty or not len(scan.dataset):
        return ""
    return f"no image has a label: {source.without_labels()}"


def data_notes(data: str | Path) -> list[str]:
    """Returns what there is to tell about a data set as a whole, whatever the split.

    Raises:
      UserError: it is a data.yaml that cannot be read.
    """
    path = _resolve(data)
    if path.suffix.lower() not in (".yaml", ".yml"):
        return []
    keys = unused_keys(path)
    return [f"keys of other tools, not used: {', '.join(keys)}"] if keys else []


def open_source(data: str | Path, split: str) -> Source:
    """Finds out by content what kind of data set this is, without reading the labels.

    Raises:
      UserError: it is none that is known, or has no such split.
    """
    path = _resolve(data)
    if path.is_dir():
        if is_voc_folder(path):
            return open_voc_xml(None, [path], split=split)
        raise UserError(
            f"{data}: is neither a Pascal VOC folder (Annotations/ and ImageSets/Main/) "
            "nor has it a data.yaml; give that folder, a data.yaml or a COCO .json file"
        )
    if not path.is_file():
        raise UserError(f"{data}: there is no such file or folder")
    if path.suffix.lower() == ".json":
        return _open_coco(_json_of_split(path, split), names=None, images=None)
    if path.suffix.lower() in (".yaml", ".yml"):
        config = read_data_yaml(path, split)
        source = _open_yaml(config, split)
        return dataclasses.replace(source, notes=config.notes + source.notes)
    raise UserError(
        f"{data}: wanted a data.yaml, a COCO .json file or a Pascal VOC folder "
        "(Annotations/ and ImageSets/Main/)"
    )


def expected_splits(data: str | Path) -> list[str]:
    """Returns the splits that a data set has, and those that training needs besides.

    Raises:
      UserError: it is none that is known.
    """
    path = _resolve(data)
    if path.suffix.lower() == ".json":
        has = list(_json_siblings(path))
        if not has:
            return [SPLITS[0]]  # one file serves every split
    elif is_voc_folder(path):
        found = voc_splits(path)
        has = [split for split in SPLITS if split in found] or found
    elif path.is_dir():
        open_source(data, SPLITS[0])  # says what is wrong
        has = []
    else:
        has = splits_of(path)
    return list(dict.fromkeys((*TRAINING_SPLITS, *has)))


def _resolve(data: str | Path) -> Path:
    """Returns the absolute path of what the user names, the data.yaml where a folder has one."""
    path = Path(os.path.abspath(os.path.expanduser(data)))
    inside = path / "data.yaml"
    return inside if not is_voc_folder(path) and inside.is_file() else path


def _open_yaml(config: DataYaml, split: str) -> Source:
    entries = config.entries
    is_json = [entry.suffix.lower() == ".json" for entry in entries]
    is_voc = [is_voc_folder(entry) or is_voc_list(entry) for entry in entries]
    if any(is_json):
        file, *more = entries
        if more:
            raise UserError(f"{config.file}: '{split}' must be one COCO .json file, not several")
        if not file.is_file():
            raise UserError(f"{config.file}: '{split}': there is no file {file}")
        return _open_coco(file, names=config.names, images=config.images)
    if config.images is not None:
        raise UserError(f"{config.file}: 'images' is for splits that are COCO .json files")
    if any(is_voc):
        if not all(is_voc):
            other = entries[is_voc.index(False)]
            raise UserError(
                f"{config.file}: '{split}' has Pascal VOC folders and {other}, which is none"
            )
        return open_voc_xml(config.names, entries, split=split)
    if config.names is None:
        raise UserError(
            f"{config.file}: 'names' must list the classes, or map 0, 1, 2 ... to them; got None"
        )
    return open_yolo_txt(config.names, entries, file=config.file, split=split)


def _open_coco(file: Path, *, names: tuple[str, ...] | None, images: Path | None) -> CocoJson:
    # COCO itself has annotations/instances_train2017.json and beside that folder train2017/.
    tag = file.stem.rpartition("_")[2]
    if images is not None:
        folders = (images, images / tag)
    else:
        here, above = file.parent, file.parent.parent
        folders = (
            *(here / name for name in (".", "images", tag, f"images/{tag}")),
            *(above / name for name in (tag, f"images/{tag}", "images", ".")),
        )
    return CocoJson(file, names, folders)


def _json_siblings(path: Path) -> dict[str, Path]:
    """Returns the file of each split, where the name tells a split; none otherwise."""
    own = re.search(rf"(?<![a-zA-Z])({'|'.join(SPLITS)})(?![a-zA-Z])", path.name)
    if own is None:
        return {}
    found = {
        split: path.with_name(path.name[: own.start()] + split + path.name[own.end() :])
        for split in SPLITS
    }
    return {split: file for split, file in found.items() if file.is_file()}


def _json_of_split(path: Path, split: str) -> Path:
    siblings = _json_siblings(path)
    if split in siblings:
        return siblings[split]
    if siblings:
        raise UserError(
            f"{path}: has no split '{split}' beside it, only {' and '.join(siblings)}; a data.yaml "
            "can name the .json files of train and val"
        )
    if split != SPLITS[0]:
        _log.warning("%s: is not divided; '%s' is the same as 'train'", path, split)
    return path
