"""What a run's folder keeps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from train.checkpoint import Checkpoints, append_record, read_records, truncate_records
from train.errors import UserError
from train.optim import OptimConfig
from train.state import create_state
from yolov7_jax import create, split, weights
from yolov7_jax.weights.training_run import description


def tree(value: float) -> dict:
    return {"weights": jnp.full((2, 3), value), "step": jnp.array(7, jnp.int32)}


@pytest.fixture
def sharding():
    return SingleDeviceSharding(jax.devices()[0])


def test_saved_arrays_come_back_bit_for_bit(tmp_path, sharding):
    saved = {"a": jnp.arange(5) / 3, "b": (jnp.array(2**31 - 1), jnp.array(0.1, jnp.bfloat16))}
    with Checkpoints(tmp_path, {}) as checkpoints:
        assert checkpoints.last_step is None
        checkpoints.save(3, saved, ap=0.5)
    with Checkpoints(tmp_path, {}) as checkpoints:
        loaded = checkpoints.load(jax.eval_shape(lambda: saved), sharding)
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, loaded, saved)
    assert loaded["b"][1].dtype == jnp.bfloat16


def test_the_last_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path, {}) as checkpoints:
        for step, ap in ((1, 0.1), (2, 0.7), (3, 0.3), (4, None), (5, 0.4)):
            checkpoints.save(step, tree(step), ap=ap)
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [2, 5]


def test_a_step_saved_twice_stays_as_it_was(tmp_path, sharding):
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, tree(1), ap=0.1)
        checkpoints.save(1, tree(2), ap=0.1)
        assert float(checkpoints.load(tree(0), sharding)["weights"][0, 0]) == 1


def test_what_an_interrupted_save_left_is_ignored_and_removed(tmp_path, sharding):
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, tree(1), ap=0.1)
    stale = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    stale.mkdir()
    with Checkpoints(tmp_path, {}) as checkpoints:
        assert checkpoints.last_step == 1
        checkpoints.load(tree(0), sharding)
    assert not stale.exists()


def test_every_difference_from_what_is_wanted_is_named(tmp_path, sharding):
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, tree(1), ap=0.1)
        other = {"weights": jnp.zeros((4, 3)), "stage": jnp.zeros(())}
        with pytest.raises(UserError) as caught:
            checkpoints.load(other, sharding)
    message = str(caught.value)
    assert "checkpoints/1: is no checkpoint of this model: " in message
    for fault in (
        "stage is missing",
        "step is not wanted",
        "weights has the shape (2, 3), wanted (4, 3)",
    ):
        assert fault in message


def test_records_after_the_checkpoint_are_dropped(tmp_path):
    for epoch in (1, 2, 3):
        append_record(tmp_path, {"epoch": epoch, "step": 10 * epoch})
    assert truncate_records(tmp_path, 25) == read_records(tmp_path)
    assert [record["epoch"] for record in read_records(tmp_path)] == [1, 2]


def test_a_line_cut_short_is_left_out(tmp_path):
    append_record(tmp_path, {"epoch": 1, "step": 10})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')
    assert read_records(tmp_path) == [{"epoch": 1, "step": 10}]
    assert truncate_records(tmp_path, 20) == [{"epoch": 1, "step": 10}]
    append_record(tmp_path, {"epoch": 2, "step": 20})
    assert len(read_records(tmp_path)) == 2


@pytest.mark.parametrize("line", ['{"a": 1}', "5", '{"step": 1'])
def test_a_line_that_is_no_record_is_refused_and_nothing_deleted(tmp_path, line):
    text = '{"step": 1}\n' + line + '\n{"step": 3}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: is not the record of an epoch"):
        truncate_records(tmp_path, 3)
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_a_folder_without_records_has_none(tmp_path):
    assert read_records(tmp_path) == []


def test_a_record_that_is_no_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        append_record(tmp_path, {"ap": float("nan")})


def test_the_library_reads_the_best_checkpoint_of_a_run(tmp_path):
    model = create("yolov7-tiny", 2, width=0.125)
    model.head = dataclasses.replace(model.head, anchors=np.full((3, 3, 2), 17.0).tolist())
    _, params, batch_stats = split(model)
    state = create_state(params, batch_stats, OptimConfig())
    average = state._replace(ema_params=jax.tree.map(lambda leaf: 2 * leaf, params))
    with Checkpoints(tmp_path, description(model, ("cat", "dog"))) as checkpoints:
        checkpoints.save(1, {"state": average}, ap=0.5)
        checkpoints.save(2, {"state": state}, ap=0.25)
    for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "1"):
        checkpoint = weights.read_checkpoint(path)
        assert checkpoint.names == ("cat", "dog")
        kernel = weights.to_official(model)["model.0.conv.weight"]
        np.testing.assert_array_equal(checkpoint.tensors["model.0.conv.weight"], kernel)
        np.testing.assert_array_equal(checkpoint.ema["model.0.conv.weight"], 2 * kernel)
    loaded = weights.load_model(tmp_path)
    assert loaded.head == model.head
    np.testing.assert_array_equal(weights.to_official(loaded)["model.0.conv.weight"], 2 * kernel)


def test_a_checkpoint_that_says_not_of_which_model_it_is_is_refused(tmp_path):
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, {"state": np.zeros(3)}, ap=None)
    with pytest.raises(weights.CheckpointError, match="which model"):
        weights.read_checkpoint(tmp_path)
