"""What a run keeps of its state, and what it does with what has happened to it."""

import contextlib
import dataclasses
import errno
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from full_disk import files_end_at
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from pocket import POCKET, pocket_known

from yolov7_jax import create, split, weights
from yolov7_jax.errors import UserError
from yolov7_jax.training import checkpoint
from yolov7_jax.training.checkpoint import Checkpoints
from yolov7_jax.training.schedule import OptimConfig
from yolov7_jax.training.state import create_state
from yolov7_jax.weights.model_metadata import describe_model


def tree(value: float) -> dict:
    return {"weights": jnp.full((2, 3), value), "step": jnp.array(7, jnp.int32)}


@pytest.fixture
def sharding():
    return SingleDeviceSharding(jax.devices()[0])


def test_saved_arrays_come_back_bit_for_bit(tmp_path, sharding):
    saved = {"a": jnp.arange(5) / 3, "b": (jnp.array(2**31 - 1), jnp.array(0.1, jnp.bfloat16))}
    with Checkpoints(tmp_path, {}) as checkpoints:
        assert checkpoints.last_step is None
        checkpoints.save(3, saved)
    with Checkpoints(tmp_path, {}) as checkpoints:
        loaded = checkpoints.load(jax.eval_shape(lambda: saved), sharding)
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, loaded, saved)
    assert loaded["b"][1].dtype == jnp.bfloat16


def test_the_last_two_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path, {}) as checkpoints:
        for step, ap in ((1, 0.1), (2, 0.7), (3, 0.3), (4, None), (5, 0.4)):
            checkpoints.save(step, tree(step))
            checkpoints.rate(step, ap)
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [2, 4, 5]


def test_the_best_is_kept_though_its_accuracy_is_told_by_a_later_start(tmp_path):
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, tree(1))
        checkpoints.save(2, tree(2))
    with Checkpoints(tmp_path, {}) as checkpoints:
        for step, ap in ((0, 0.9), (1, 0.7), (2, None)):  # the checkpoint 0 is gone
            checkpoints.rate(step, ap)
        checkpoints.save(3, tree(3))
        checkpoints.rate(3, 0.2)
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(4, tree(4))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "3", "4"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"ap"'])
def test_a_damaged_accuracy_is_as_good_as_none(tmp_path, content):
    three_saved(tmp_path)
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.rate(2, 0.5)  # more than the others
    (tmp_path / "checkpoints" / "2" / "metrics" / "metrics").write_text(content)
    with Checkpoints(tmp_path, {}) as checkpoints:
        assert (checkpoints.last_step, checkpoints.rejected) == (3, ())
        checkpoints.rate(2, 0.5)
        for step in (4, 5):
            checkpoints.save(step, tree(step))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "4", "5"]


def test_an_accuracy_that_cannot_be_noted_is_one_message(tmp_path):
    three_saved(tmp_path)
    with Checkpoints(tmp_path, {}) as checkpoints:
        shutil.rmtree(tmp_path / "checkpoints" / "3" / "metrics")
        (tmp_path / "checkpoints" / "3" / "metrics").write_text("in the way")
        told = r"checkpoints/3: its AP could not be noted: .*File exists.*yolov7-jax resume"
        with pytest.raises(UserError, match=told):
            checkpoints.rate(3, 0.5)


def test_a_step_saved_twice_stays_as_it_was(tmp_path, sharding):
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, tree(1))
        checkpoints.save(1, tree(2))
        assert float(checkpoints.load(tree(0), sharding)["weights"][0, 0]) == 1


def test_what_an_interrupted_save_left_is_ignored_and_removed(tmp_path, sharding):
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, tree(1))
    stale = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    stale.mkdir()
    with Checkpoints(tmp_path, {}) as checkpoints:
        assert checkpoints.last_step == 1
        checkpoints.load(tree(0), sharding)
    assert not stale.exists()


def test_every_difference_from_what_is_wanted_is_named(tmp_path, sharding):
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, tree(1))
        other = {"weights": jnp.zeros((4, 3)), "stage": jnp.zeros(())}
        with pytest.raises(UserError) as caught:
            checkpoints.load(other, sharding)
    message = str(caught.value)
    assert "checkpoints/1: is no checkpoint of this model: " in message
    for fault in (
        "stage is missing",
        "step is not wanted",
        "weights is int32 (2, 3), wanted float32 (4, 3)",
    ):
        assert fault in message


@pytest.fixture
def pocket_network():
    with pocket_known():
        yield


@pytest.mark.usefixtures("pocket_network")
def test_the_library_reads_the_best_checkpoint_of_a_run(tmp_path):
    model = create(POCKET, 2, width=0.125)
    model.head = dataclasses.replace(model.head, anchors=np.full((3, 3, 2), 17.0).tolist())
    _, params, batch_stats = split(model)
    state = create_state(params, batch_stats, OptimConfig())
    average = state._replace(ema_params=jax.tree.map(lambda leaf: 2 * leaf, params))
    with Checkpoints(tmp_path, describe_model(model, ("cat", "dog"))) as checkpoints:
        for step, saved, ap in ((1, average, 0.5), (2, state, 0.25)):
            checkpoints.save(step, {"state": saved})
            checkpoints.rate(step, ap)
    for leftover in ("3.partial", "3.partial.orbax-checkpoint-tmp", "3.damaged", "0.removed"):
        shutil.copytree(tmp_path / "checkpoints" / "2", tmp_path / "checkpoints" / leftover)
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
        checkpoints.save(1, {"state": np.zeros(3)})
    with pytest.raises(weights.CheckpointError, match="which model"):
        weights.read_checkpoint(tmp_path)


def three_saved(run):
    with Checkpoints(run, {}) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"numbers": jnp.arange(999.0) + step})
            checkpoints.rate(step, 0.1)


def numbers(run, sharding):
    """What a new start finds: the step, the first number, and what it says of damage."""
    with Checkpoints(run, {}) as checkpoints:
        tree = checkpoints.load({"numbers": jnp.zeros(999)}, sharding)
        return checkpoints.last_step, float(tree["numbers"][0]), checkpoints.rejected


def flip(path):
    """Changes one bit in the middle."""
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)


DAMAGE = {
    "flipped": (flip, "does not have the contents that were written"),
    "zeroed": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "does not have the cont"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "bytes, "),
    "missing": (lambda path: path.unlink(), "is missing"),
}
PARTS = {
    "arrays": "state/ocdbt.process_0/d/*",
    "metadata": "_CHECKPOINT_METADATA",
    "structure": "state/_METADATA",
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize(("damage", "told"), DAMAGE.values(), ids=DAMAGE)
def test_the_one_before_stands_in_for_a_damaged_checkpoint(tmp_path, sharding, part, damage, told):
    three_saved(tmp_path)
    damaged = max((tmp_path / "checkpoints" / "3").glob(part), key=lambda path: path.stat().st_size)
    damage(damaged)
    step, number, rejected = numbers(tmp_path, sharding)
    assert (step, number, len(rejected)) == (2, 2.0, 1)
    assert rejected[0].startswith("checkpoint 3 is damaged: ")
    assert damaged.name in rejected[0]
    assert told in rejected[0]
    with Checkpoints(tmp_path, {}) as checkpoints:  # it is put aside, and can be saved again
        assert checkpoints.rejected == ()
        checkpoints.save(3, {"numbers": jnp.arange(999.0) + 3})
    assert numbers(tmp_path, sharding) == (3, 3.0, ())
    assert (tmp_path / "checkpoints" / "3.damaged").is_dir()


@pytest.mark.parametrize("contents", [None, "", "5", "{}", '{"files": 5}', '{"files": {"a": 5}}'])
def test_a_checkpoint_without_its_list_of_files_is_not_used(tmp_path, sharding, contents):
    three_saved(tmp_path)
    folder = tmp_path / "checkpoints" / "3"
    if contents is None:
        shutil.rmtree(folder)
        folder.mkdir()
    else:
        (folder / "manifest.json").write_text(contents)
    step, number, rejected = numbers(tmp_path, sharding)
    assert (step, number, len(rejected)) == (2, 2.0, 1)
    assert "manifest.json" in rejected[0]


def test_a_checkpoint_damaged_twice_can_be_put_aside_twice(tmp_path, sharding):
    three_saved(tmp_path)
    for _ in range(2):
        (tmp_path / "checkpoints" / "3" / "manifest.json").unlink()
        assert numbers(tmp_path, sharding)[0] == 2
        with Checkpoints(tmp_path, {}) as checkpoints:
            checkpoints.save(3, {"numbers": jnp.arange(999.0) + 3})
    assert numbers(tmp_path, sharding) == (3, 3.0, ())


def test_if_every_checkpoint_is_damaged_that_is_said_and_nothing_touched(tmp_path):
    three_saved(tmp_path)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    for name in kept:
        (tmp_path / "checkpoints" / name / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"no checkpoint is whole: 1: .*; 2: .*; 3: manifest"):
        Checkpoints(tmp_path, {})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == kept


@pytest.mark.parametrize("devices", [1, 4])
def test_arrays_may_be_donated_while_they_are_being_written(tmp_path, devices):
    mesh = Mesh(np.asarray(jax.devices()[:devices]), ("data",))
    whole = NamedSharding(mesh, PartitionSpec())
    rng = np.random.default_rng(0)
    start = {name: rng.random((512, 512), np.float32) for name in "abcdefgh"}
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: 1.5 * leaf + 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path, {}) as checkpoints:
        for number in (1, 2, 3):
            tree = jax.block_until_ready(jax.device_put(start, whole))
            checkpoints.save(number, tree)
            for _ in range(5):
                tree = step(tree)
            jax.block_until_ready(tree)
            jax.tree.map(np.testing.assert_array_equal, checkpoints.load(start, whole), start)


def test_training_goes_on_while_a_checkpoint_is_written_and_the_one_before_stays(
    tmp_path, monkeypatch
):
    go_on = threading.Event()
    three_saved(tmp_path)
    write = checkpoint.write_manifest
    monkeypatch.setattr(
        checkpoint, "write_manifest", lambda folder: (go_on.wait(timeout=60), write(folder))
    )
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(4, {"numbers": jnp.zeros(999)})
        folder = tmp_path / "checkpoints"
        assert {"1", "2", "3"} <= {path.name for path in folder.iterdir()}
        assert not (folder / "4").exists()
        assert checkpoints.last_step == 3
        go_on.set()
        checkpoints.wait()
        assert checkpoints.last_step == 4
    assert sorted(path.name for path in folder.iterdir()) == ["1", "3", "4"]  # 1 was the best


@pytest.mark.parametrize("raised_by", ["save", "wait", "the end"])
def test_a_full_disk_is_one_message_and_harms_nothing(tmp_path, sharding, monkeypatch, raised_by):
    three_saved(tmp_path)

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    def use():
        with monkeypatch.context() as patched, Checkpoints(tmp_path, {}) as checkpoints:
            patched.setattr(checkpoint, "write_manifest", full)
            checkpoints.save(4, {"numbers": jnp.zeros(2_000_000)})
            if raised_by == "save":
                checkpoints.save(5, {"numbers": jnp.zeros(2_000_000)})
            elif raised_by == "wait":
                checkpoints.wait()

    with pytest.raises(UserError) as caught:
        use()
    message = str(caught.value)
    for part in (
        f"{tmp_path}/checkpoints: checkpoint 4 could not be written: the disk is full",
        "it takes up to 8.0 MB",
        "checkpoint 3 is still whole",
        f"continue with `yolov7-jax resume {tmp_path}`",
    ):
        assert part in message
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2", "3"]
    assert numbers(tmp_path, sharding) == (3, 3.0, ())


def test_a_write_that_fails_within_orbax_is_one_message_too(tmp_path, sharding, capfd):
    three_saved(tmp_path)
    tree = {f"{i}": jnp.asarray(np.random.default_rng(i).random(20_000)) for i in range(20)}

    def use():
        with Checkpoints(tmp_path, {}) as checkpoints, files_end_at(50_000):
            checkpoints.save(4, tree)
            checkpoints.wait()

    with pytest.raises(UserError, match="checkpoint 4 could not be written") as caught:
        use()
    assert len(str(caught.value).splitlines()) == 1
    # Orbax may still be writing what nobody will read; it has no checkpoint's name.
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert {name for name in names if name.isdigit()} == {"1", "2", "3"}
    assert numbers(tmp_path, sharding) == (3, 3.0, ())
    assert capfd.readouterr().err == ""


def test_a_checkpoint_under_way_is_completed_when_something_else_fails(tmp_path, sharding):
    with contextlib.suppress(ZeroDivisionError), Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(7, {"numbers": jnp.full(999, 7.0)})
        raise ZeroDivisionError
    assert numbers(tmp_path, sharding) == (7, 7.0, ())


@pytest.mark.parametrize("name", ["4.partial", "4.partial.orbax-checkpoint-tmp", "1.removed"])
def test_half_checkpoints_are_removed_and_what_is_not_ours_is_not(tmp_path, name):
    three_saved(tmp_path)
    (tmp_path / "checkpoints" / name).mkdir()
    (tmp_path / "checkpoints" / "3.backup").mkdir()
    with Checkpoints(tmp_path, {}) as checkpoints:
        assert checkpoints.last_step == 3
    assert not (tmp_path / "checkpoints" / name).exists()
    assert (tmp_path / "checkpoints" / "3.backup").exists()


def test_other_types_of_numbers_are_another_model(tmp_path, sharding):
    three_saved(tmp_path)
    with Checkpoints(tmp_path, {}) as checkpoints:
        wanted = {"numbers": jnp.zeros(999, jnp.bfloat16)}
        with pytest.raises(UserError, match=r"is float32 \(999,\), wanted bfloat16 \(999,\)"):
            checkpoints.load(wanted, sharding)


@pytest.mark.parametrize(("writers", "readers"), [(8, 2), (2, 8), (4, 1)])
def test_a_checkpoint_loads_on_another_number_of_devices(tmp_path, writers, readers):
    def shardings(count):
        mesh = Mesh(np.asarray(jax.devices()[:count]), ("data",))
        one, parts = (
            NamedSharding(mesh, PartitionSpec()),
            NamedSharding(mesh, PartitionSpec("data")),
        )
        return {"whole": one, "parts": parts}  # one for a branch

    numbers = np.arange(64, dtype=np.float32)
    tree = {"whole": numbers, "parts": {"a": numbers + 1, "b": [numbers.reshape(16, 4)]}}
    there = jax.device_put(tree, jax.tree.broadcast(shardings(writers), tree))
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, there)
        here = checkpoints.load(tree, shardings(readers))
    jax.tree.map(np.testing.assert_array_equal, here, tree)
    assert here["parts"]["b"][0].sharding == shardings(readers)["parts"]
    assert here["whole"].sharding == shardings(readers)["whole"]
