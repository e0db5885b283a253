"""Reads tests/golden/loss: measured cases, in this library's terms."""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from yolov7_jax import HeadConfig, LossConfig, Outputs

FOLDER = pathlib.Path(__file__).parent / "golden" / "loss"
NAMES = sorted(path.stem for path in FOLDER.glob("*.npz"))


class Case(NamedTuple):
    outputs: Outputs
    rows: np.ndarray  # image, class, cx, cy, w, h
    head: HeadConfig
    config: LossConfig
    batch: int
    ota: bool
    file: dict

    @property
    def fewest_objects(self):
        images = self.rows[:, 0].astype(int)
        return int(np.bincount(images, minlength=1).max()) if len(images) else 0

    def gradients(self):
        """Gradients of the total, in the layout of `outputs`."""
        return tuple(to_nhwc(self.file[f"grad_{i}"]) for i in range(count_levels(self.file)))

    def matches(self, prefix=""):
        """Sorted (image, level, anchor, row, column, object's class and box) of each match."""
        found = []
        for level in range(len(self.head.strides)):
            where = self.file[f"{prefix}match_{level}"]
            if self.ota:
                objects = self.file[f"{prefix}match_target_{level}"][:, 1:]
            else:
                continue
            for (image, anchor, row, column), obj in zip(where, objects, strict=True):
                found.append((image, level, anchor, row, column, *obj))
        return sorted(tuple(float(x) for x in match) for match in found)


def to_nhwc(array):
    return np.ascontiguousarray(np.moveaxis(array, 1, 3))


def count_levels(file):
    return sum(name.startswith("pred_") for name in file)


def load(name) -> Case:
    with np.load(FOLDER / f"{name}.npz") as npz:
        file = {key: npz[key] for key in npz.files}
    meta = json.loads(bytes(file.pop("meta")))
    hyp = meta["hyp"]
    head = HeadConfig(
        meta["num_classes"],
        meta["strides"],
        [list(zip(level[::2], level[1::2], strict=True)) for level in meta["anchors_px"]],
    )
    config = LossConfig(
        box_gain=hyp["box"],
        obj_gain=hyp["obj"],
        cls_gain=hyp["cls"],
        anchor_threshold=hyp["anchor_t"],
        label_smoothing=hyp["label_smoothing"],
        focal_gamma=hyp["fl_gamma"],
        cls_pos_weight=hyp["cls_pw"],
        obj_pos_weight=hyp["obj_pw"],
        iou_ratio=hyp["gr"],
    )
    levels = [to_nhwc(file[f"pred_{i}"]) for i in range(count_levels(file))]
    lead, auxiliary = levels[: head.num_levels], levels[head.num_levels :]
    return Case(
        Outputs(tuple(lead), tuple(auxiliary)),
        file["targets"],
        head,
        config,
        meta["batch"],
        meta["loss"] != "ComputeLoss",
        file,
    )
