"""Reads tests/golden/loss, measured cases in this library's terms, and compares with them."""

import functools
import json
import pathlib
from typing import NamedTuple

import cases
import jax.numpy as jnp
import numpy as np
import oracle

from yolov7_jax import (
    HeadConfig,
    LossConfig,
    Outputs,
    assign_anchor,
    assign_ota,
    pad_targets,
)

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


def to_nhwc(array):
    return np.ascontiguousarray(np.moveaxis(array, 1, 3))


def count_levels(file):
    return sum(name.startswith("pred_") for name in file)


@functools.cache
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


def evaluate(case, *, more_objects=0, **how):
    assigner = assign_ota if case.ota else assign_anchor
    targets = pad_targets(case.rows, case.batch, case.fewest_objects + more_objects)
    run = cases.evaluator(case.head, case.config, assigner, **how)
    if "balance_steps" not in case.file:
        return run(case.outputs, targets)
    # These gradients were measured in the last step.
    return run(case.outputs, targets, jnp.array(case.file["balance_steps"][-2], jnp.float32))


def described(case, matches):
    """Matches sorted, with their objects in the form that the file has: whole, or relative."""
    found = []
    for match in matches:
        objects = oracle.objects_of(case.rows, match.image)
        row = objects[match.object]
        if case.ota:
            what = row[1:]
        else:
            what = oracle.relative_box(match, objects, case.outputs.lead[match.level].shape)
            what = (row[1], *what)
        found.append(tuple(float(x) for x in (*match[:5], *what)))
    return sorted(found)


def measured_matches(case, prefix):
    """Sorted (image, level, anchor, row, column, class, box)."""
    found = []
    for level in range(case.head.num_levels):
        where = case.file[f"{prefix}match_{level}"]
        if case.ota:
            what = case.file[f"{prefix}match_target_{level}"][:, 1:]
        else:
            what = np.column_stack([where[:, 4], case.file[f"tbox_{level}"]])
        for (image, *place), row in zip(where[:, :4], what, strict=True):
            found.append(tuple(float(x) for x in (image, level, *place, *row)))
    return sorted(found)


def assert_is_the_measured(case, found):
    for prefix, assignment in zip(("", "aux_"), found.assignments, strict=False):
        ours = described(case, cases.match_list(assignment))
        assert ours == measured_matches(case, prefix)
    expected = case.file["loss"]
    if "loss_steps" in case.file:
        expected = case.file["loss_steps"][-1]
    ours = [found.total, *found.terms[:3]]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-9)
    gradients = (*found.gradients.lead, *found.gradients.auxiliary)
    assert cases.relative_error(gradients, case.gradients()) < 1e-5
