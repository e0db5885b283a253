"""Opens whatever `--data` names: a data.yaml, a COCO JSON file or a Pascal VOC folder."""

import logging
import os
import re
from pathlib import Path

from train.data.coco_json import CocoJson
from train.data.data_yaml import SPLITS, DataYaml, read_data_yaml, splits_of
from train.data.dataset import Dataset
from train.data.faults import summarize
from train.data.scan import scan_source
from train.data.voc_xml import VocXml, is_voc_folder, is_voc_list, open_voc_xml, voc_splits
from train.data.yolo_txt import YoloTxt, open_yolo_txt
from train.errors import UserError

Source = YoloTxt | CocoJson | VocXml

_log = logging.getLogger(__name__)


def load_dataset(data: str | Path, split: str) -> Dataset:
    """Reads one split of a data set, from the cache of an earlier scan where that still holds.

    What is faulty is left out, and one warning counts it; `python -m train check` tells the
    details. Pictures are judged by their headers and ends, unless `check` has decoded them.

    Args:
      data: a data.yaml, whose splits are pictures with YOLO label files, a COCO .json file or
        Pascal VOC folders; or such a .json file or folder itself.
      split: `train`, `val` or `test`; for VOC any list that it has.

    Raises:
      UserError: something is missing or malformed, or nothing is left.
    """
    scan = scan_source(open_source(data, split), data, split)
    dataset, faults = scan.dataset, scan.faults
    check = f"python -m train check --data {data} --split {split}"
    if not len(dataset):
        raise UserError(
            f"{data}: no picture of '{split}' can be used: {faults[0]}; see `{check}`"
            + (f" for {len(faults) - 1} more faults" if len(faults) > 1 else "")
        )
    lost = [fault for fault in faults if fault.line is not None]
    if not len(dataset.labels) and lost:
        raise UserError(f"{data}: no object of '{split}' can be used: {lost[0]}; see `{check}`")
    if faults:
        counted = f"{len(faults)} fault" + "s" * (len(faults) > 1)
        _log.warning("%s: %s: %s (%s); see `%s`", data, split, counted, summarize(faults), check)
    if not len(dataset.labels):
        _log.warning("%s: no picture of %s has a labelled object", data, split)
    return dataset


def open_source(data: str | Path, split: str) -> Source:
    """Finds out by content what kind of data set this is, without reading the labels.

    Raises:
      UserError: it is none that is known, or has no such split.
    """
    path = Path(os.path.abspath(Path(data).expanduser()))
    if path.is_dir():
        if is_voc_folder(path):
            return open_voc_xml(None, [path], split=split)
        if (path / "data.yaml").is_file():
            return open_source(path / "data.yaml", split)
        raise UserError(
            f"{data}: is neither a Pascal VOC folder (Annotations/ and ImageSets/Main/) "
            "nor has it a data.yaml; give that folder, a data.yaml or a COCO .json file"
        )
    if not path.is_file():
        raise UserError(f"{data}: there is no such file or folder")
    if path.suffix.lower() == ".json":
        return _open_coco(_json_of_split(path, split), names=None, images=None)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _open_yaml(read_data_yaml(path, split), split)
    raise UserError(
        f"{data}: wanted a data.yaml, a COCO .json file or a Pascal VOC folder "
        "(Annotations/ and ImageSets/Main/)"
    )


def splits(data: str | Path) -> list[str]:
    """Returns the splits that a data set has.

    Raises:
      UserError: it is none that is known.
    """
    path = Path(os.path.abspath(Path(data).expanduser()))
    if path.suffix.lower() == ".json":
        found = _json_siblings(path)
        return list(found) if found else ["train"]
    if path.is_dir() and not is_voc_folder(path):
        path = path / "data.yaml"
        if not path.is_file():
            open_source(data, SPLITS[0])  # says what is wrong
    if path.is_dir():
        has = voc_splits(path)
        return [split for split in SPLITS if split in has] or has
    return splits_of(path)


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
            here,
            here / "images",
            here / tag,
            here / "images" / tag,
            above / tag,
            above / "images" / tag,
            above / "images",
            above,
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
            f"{path}: has no split '{split}' beside it; a data.yaml can name the .json files of "
            "train and val"
        )
    if split != SPLITS[0]:
        _log.warning("%s: is not divided; '%s' is the same as 'train'", path, split)
    return path
