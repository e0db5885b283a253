import dataclasses

import numpy as np
import pytest

from yolov7_jax.data.dataset import Dataset, Polygons
from yolov7_jax.training.fingerprint import changed_splits, fingerprints


def make_dataset(folder="data"):
    triangle = np.asarray([(0.1, 0.1), (0.5, 0.1), (0.3, 0.6)])
    return Dataset(
        names=("cat", "dog"),
        paths=(f"{folder}/a.jpg", f"{folder}/b.jpg"),
        sizes=np.asarray([(40, 20), (30, 30)], np.int32),
        offsets=np.asarray([0, 1, 2]),
        labels=np.asarray([0, 1], np.int32),
        boxes=np.asarray([(0.3, 0.35, 0.4, 0.5), (0.5, 0.5, 0.2, 0.2)], np.float32),
        crowd=np.asarray([False, False]),
        polygons=Polygons.pack([[triangle], []]),
    )


CHANGES = {
    "names": ("cat", "cow"),
    "paths": ("data/b.jpg", "data/a.jpg"),
    "sizes": np.asarray([(40, 20), (30, 31)], np.int32),
    "offsets": np.asarray([0, 2, 2]),
    "labels": np.asarray([0, 0], np.int32),
    "boxes": np.asarray([(0.3, 0.35, 0.4, 0.5), (0.5, 0.5, 0.2, 0.21)], np.float32),
    "crowd": np.asarray([False, True]),
    "polygons": Polygons.none(2),
}


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_change_of_either_split_is_noticed_and_the_split_named(split, field):
    splits = {"train": make_dataset(), "val": make_dataset()}
    saved = fingerprints(splits)
    assert changed_splits(splits, saved) == []
    changed = splits | {split: dataclasses.replace(splits[split], **{field: CHANGES[field]})}
    assert changed_splits(changed, saved) == [split]


def test_data_in_another_folder_are_the_same():
    saved = fingerprints({"train": make_dataset(), "val": make_dataset()})
    moved = {"train": make_dataset("copy"), "val": make_dataset("elsewhere")}
    assert changed_splits(moved, saved) == []


def test_splits_are_told_apart_by_name_and_anything_else_has_none():
    splits = {"train": make_dataset(), "val": dataclasses.replace(make_dataset(), names=("a", "b"))}
    saved = fingerprints(splits)
    swapped = {"train": splits["val"], "val": splits["train"]}
    assert changed_splits(swapped, saved) == ["train", "val"]
    for other in ("", "0123\n", make_dataset().fingerprint()):
        assert changed_splits(splits, other) == ["train", "val"]
