"""Whole runs on a handful of small pictures: what they leave behind, and what interrupting does."""

import dataclasses
import json
import shutil
import signal

import cv2
import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from train import loop
from train.checkpoint import Checkpoints, read_records
from train.config import TrainConfig, read_yaml
from train.data.augment import AugmentConfig
from train.errors import UserError
from train.loop import fit
from train.mesh import make_mesh
from train.optim import OptimConfig
from train.report import Progress
from train.state import create_state
from yolov7_jax import model as networks
from yolov7_jax.model import ARCHITECTURES

STEPS = 9  # 24 pictures, 8 a step, 3 epochs
INTERRUPTED_AT = 4  # in the middle of an epoch and of an accumulation


@pytest.fixture(scope="module")
def data_yaml(tmp_path_factory):
    """24 + 3 pictures of two kinds of rectangles."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 3)):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 80, (48, 64, 3), np.uint8)
            label = number % 2
            x, y = int(rng.integers(0, 30)), int(rng.integers(0, 20))
            image[y : y + 24, x : x + 30, label] = 255
            cv2.imwrite(str(folder / "images" / split / f"{number}.png"), image)
            row = f"{label} {(x + 15) / 64} {(y + 12) / 48} {30 / 64} {24 / 48}\n"
            (folder / "labels" / split / f"{number}.txt").write_text(row)
    path = folder / "data.yaml"
    path.write_text("train: images/train\nval: images/val\nnames: [red, green]\n")
    return path


@pytest.fixture(scope="module")
def config(data_yaml):
    return TrainConfig(
        data=str(data_yaml),
        width=0.125,
        image_size=64,
        epochs=3,
        batch_size=8,
        eval_batch_size=8,
        num_workers=1,
        # Two batches an update once the warm-up is over.
        optim=OptimConfig(nominal_batch=16, warmup_epochs=0.3, warmup_min_steps=0),
        augment=AugmentConfig(mosaic=0.5),
    )


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Programs for one device compile faster; tests of the step compare it with several."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(loop, "make_mesh", lambda size: make_mesh(size, jax.devices()[:1]))
        yield


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
    """Lets later runs of this module find the programs that the first one compiled."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], str(tmp_path_factory.mktemp("programs")))
    jax.config.update(names[1], 0.5)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """A run without interruption."""
    return fit(config, tmp_path_factory.mktemp("runs") / "whole")


def interrupt_after(monkeypatch, images: int):
    """Sends SIGTERM when a run has seen so many pictures."""
    update = Progress.update

    def update_and_interrupt(self, count, epoch, losses):
        update(self, count, epoch, losses)
        if self.seen == images:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Progress, "update", update_and_interrupt)


@pytest.fixture(scope="module")
def interrupted(config, tmp_path_factory):
    """A run that SIGTERM stopped: its summary, its records then, and the summary resumed."""
    run = tmp_path_factory.mktemp("runs") / "interrupted"
    with pytest.MonkeyPatch.context() as monkeypatch:
        interrupt_after(monkeypatch, INTERRUPTED_AT * config.batch_size)
        stopped = fit(config, run)
    records = read_records(run)
    return stopped, records, fit(config, run)


def final_state(config: TrainConfig, run):
    _, params, batch_stats = networks.split(loop.create_model(config, 2))
    state = create_state(params, batch_stats, config.optim)
    sharding = SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(run, {}) as checkpoints:
        assert checkpoints.last_step == STEPS
        return checkpoints.load({"state": state, "sums": loop.no_metrics()}, sharding)["state"]


def test_run_leaves_settings_records_checkpoint_and_sheet(whole, config):
    assert whole.signal is None
    assert whole.step == STEPS
    anchors = ARCHITECTURES[config.model].anchors  # those that the run settled on
    assert read_yaml(whole.run / "config.yaml") == dataclasses.replace(config, anchors=anchors)
    sheet = cv2.imread(str(whole.run / "detections.png"))
    assert sheet is not None
    records = [json.loads(line) for line in (whole.run / "metrics.jsonl").open()]
    assert records == whole.records
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert [record["step"] for record in records] == [3, 6, 9]
    for record in records:
        assert record["total"] == pytest.approx(
            8 * (record["box"] + record["obj"] + record["cls"]), rel=1e-4
        )
        assert 0 <= record["ap"] <= record["ap50"] <= 1
        assert set(record["class_ap"]) == {"red", "green"}
        assert min(record["num_matched"], record["images_per_second"], record["lr"]) > 0


def test_every_epoch_has_finite_losses_and_moves_them(whole):
    # Nine steps of few pictures lower no loss for sure; the measured trajectories show learning.
    totals = [record["total"] for record in whole.records]
    assert np.isfinite(totals).all()
    assert len(set(totals)) == len(totals) == 3


def test_sigterm_saves_the_step_and_names_the_signal(interrupted):
    stopped, records, _ = interrupted
    assert (stopped.step, stopped.signal) == (INTERRUPTED_AT, signal.SIGTERM)
    assert [record["epoch"] for record in records] == [1]


def test_resumed_run_ends_bit_for_bit_as_one_without_interruption(whole, interrupted, config):
    resumed = interrupted[2]
    expected, got = final_state(config, whole.run), final_state(config, resumed.run)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert int(got.step) == STEPS


def test_resumed_run_records_every_epoch_once_with_the_same_numbers(whole, interrupted):
    timings = {"seconds", "images_per_second"}
    records = read_records(interrupted[2].run)
    assert [{k: v for k, v in r.items() if k not in timings} for r in records] == [
        {k: v for k, v in r.items() if k not in timings} for r in whole.records
    ]


def test_resuming_a_finished_run_changes_nothing(whole, config):
    before = (whole.run / "metrics.jsonl").read_text()
    again = fit(config, whole.run)
    assert again == whole
    assert (whole.run / "metrics.jsonl").read_text() == before


def test_checkpoint_of_another_model_is_refused_in_one_line(whole, config):
    with pytest.raises(UserError, match=r"is no checkpoint of this model.*shape.* more") as caught:
        fit(dataclasses.replace(config, width=0.25), whole.run)
    assert "\n" not in str(caught.value)


def test_run_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run: cannot be written to"):
        loop.make_folder(tmp_path / "file" / "run")


def test_run_is_not_continued_on_other_data(whole, config, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole.run, run)
    (run / loop.DATA_FILE).write_text("of other data")
    with pytest.raises(UserError, match="training data have changed since the run was started"):
        fit(config, run)


def test_diverging_run_is_stopped_with_advice(config, tmp_path):
    with pytest.raises(UserError, match=r"not finite in epoch 3; a lower --optim\.lr0"):
        loop.check_finite({"box": 0.1, "obj": float("nan")}, 2, tmp_path)


def test_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(UserError, match=r"--batch-size \(=7\) must be a multiple of 2"):
        make_mesh(7, [jax.devices()[0]] * 2)
