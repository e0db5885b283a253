"""Folders of training runs: what they tell, and what is refused before an array is read."""

import json

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from yolov7_jax import create, split
from yolov7_jax.training.checkpoint import Checkpoints
from yolov7_jax.weights import read_checkpoint, to_official
from yolov7_jax.weights.checkpoint_contents import CheckpointError
from yolov7_jax.weights.model_metadata import describe_model

MODEL = create("yolov7-tiny", 2, width=0.125)
NAMES = ("cat", "dog")


def nested(tree):
    """A tree as dicts of arrays, which are easy to change."""
    result = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        *folders, name = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        inner = result
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = np.asarray(leaf)
    return result


@pytest.fixture(scope="module")
def sound():
    """What a run of `MODEL` keeps: the trees of its state."""
    params, batch_stats = map(nested, split(MODEL)[1:])
    average = {"ema_params": params, "ema_batch_stats": batch_stats}
    return {"params": params, "batch_stats": batch_stats, **average}


def save(folder, state, **told):
    with Checkpoints(folder, describe_model(MODEL, NAMES) | told) as checkpoints:
        checkpoints.save(1, {"state": state, "sums": np.zeros(3)})
    return folder / "checkpoints" / "1"


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def load(*args):
        raise AssertionError("arrays are read")

    monkeypatch.setattr(ocp, "load", load)


@pytest.mark.parametrize("told", [{}, {"epoch": 7}])
def test_a_run_tells_its_epoch_if_its_trainer_told_it(tmp_path, sound, told):
    save(tmp_path, sound, **told)
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.epoch == told.get("epoch")
    assert checkpoint.names == NAMES
    for key, value in to_official(MODEL).items():
        np.testing.assert_array_equal(checkpoint.tensors[key], value)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        # All that can be wrong with a value: see test_safetensors.
        ({"model": "yolov8"}, "its model is .*yolov8.*; wanted one of yolov7-tiny, "),
        ({"activation": None, "width": None}, "'1' does not say .* it lacks width, activation"),
        ({"anchors": [[[1, 2]]]}, r"its anchors have the shape \(1, 1, 2\); wanted \(3, 3, 2\)"),
        ({"names": []}, "it lacks names"),
        ({"epoch": -1}, "its epoch is '-1'; wanted an integer"),
    ],
)
def test_a_wrong_description_is_named(tmp_path, sound, nothing_is_loaded, told, message):
    folder = save(tmp_path, {"params": np.zeros(1)})
    # As orbax would not write all of them.
    path = folder / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"] |= told
    path.write_text(json.dumps(metadata))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(folder)
    assert "damaged file" not in str(caught.value)


def change(tree, path, value):
    """Returns a tree of dicts with another leaf."""
    first, *rest = path
    return {**tree, first: change(tree[first], rest, value) if rest else value}


def test_arrays_that_do_not_fit_the_model_are_refused_before_any_is_read(
    tmp_path, sound, nothing_is_loaded
):
    stem = ("params", "backbone", "stem", "kernel", "value")
    shape = (3, 3, 3, 8)
    cases = {
        "large": (change(sound, stem, np.zeros(2**20, np.float32)), r"has shape \(1048576,\)"),
        "double": (change(sound, stem, np.zeros(shape)), "has type float64, wanted float32"),
        "text": (change(sound, stem, "text"), "has shape None"),
        "surplus": (change(sound, ("params", "more"), np.zeros(2)), "'params.more' is unknown"),
        "missing": ({**sound, "ema_params": {}}, r"ema_params\..* is missing.* and \d+ more"),
        "none": ({"x": np.zeros(2)}, r"params\..* is missing"),
    }
    for case, (state, message) in cases.items():
        folder = save(tmp_path / case, state)
        with pytest.raises(CheckpointError, match=message) as caught:
            read_checkpoint(folder)
        assert case in ("surplus", "missing", "none") or ".".join(stem) in str(caught.value)
        assert len(str(caught.value)) < 600


def test_pieces_larger_than_their_array_are_refused(
    tmp_path, sound, nothing_is_loaded, monkeypatch
):
    folder = save(tmp_path, sound)
    metadata = ocp.metadata(str(folder))
    leaf = jax.tree.leaves(metadata.metadata["state"]["params"])[0]
    object.__setattr__(leaf.storage_metadata, "chunk_shape", (2**28,))
    monkeypatch.setattr(ocp, "metadata", lambda path: metadata)
    with pytest.raises(CheckpointError, match=r"is stored in pieces of shape \(268435456,\)"):
        read_checkpoint(folder)


def test_of_several_checkpoints_the_best_is_taken_however_damaged_the_others_are(tmp_path, sound):
    with Checkpoints(tmp_path, describe_model(MODEL, NAMES)) as checkpoints:
        for step, ap in ((1, 0.5), (2, 0.25)):
            checkpoints.save(step, {"state": sound})
            checkpoints.rate(step, ap)
    for text in ("{}", '{"ap": NaN}', '{"ap": "text"}', '{"ap": null}'):
        (tmp_path / "checkpoints" / "2" / "metrics" / "metrics").write_text(text)
        assert read_checkpoint(tmp_path).names == NAMES


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    (tmp_path / "not a number").mkdir()
    (tmp_path / "not a number" / "_CHECKPOINT_METADATA").write_text("{}")
    with pytest.raises(CheckpointError, match="holds no checkpoint of a training run"):
        read_checkpoint(tmp_path)
