"""Whole runs on a handful of small images: what they leave behind, and what stops them."""

import contextlib
import dataclasses
import io
import json
import pathlib
import shutil
import signal
import sys
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import yaml
from event_files import curves
from flax import nnx
from stopped_runs import poisoned, signal_after, signal_in_evaluation

from benchmarks.interruptions import differences, saved_steps
from yolov7_jax import split
from yolov7_jax.cli import main
from yolov7_jax.errors import UserError
from yolov7_jax.model import ARCHITECTURES
from yolov7_jax.training import loop
from yolov7_jax.training.checkpoint import Checkpoints
from yolov7_jax.training.loggers import TENSORBOARD_FOLDER, scalars
from yolov7_jax.training.loop import train
from yolov7_jax.training.metrics_file import read_records
from yolov7_jax.training.prepare import prepare
from yolov7_jax.training.schedule import Rates
from yolov7_jax.training.train_config import read_yaml, write_yaml
from yolov7_jax.weights import save_safetensors

STEPS = 9  # 24 images, 8 a step, 3 epochs
LOSSES = ("box", "obj", "cls", "total")

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory, quick_programs):
    """A run without interruption."""
    return train(small, tmp_path_factory.mktemp("runs") / "whole")


class Interrupted(NamedTuple):
    """A run of the command line that SIGTERM stopped, then a time budget, and that was continued.

    Attributes:
      run: its folder.
      codes: of the three commands.
      printed: by each.
      saved: steps of the checkpoints after each.
      epochs: recorded after each.
      asked: step and last epoch of every checkpoint wanted.
    """

    run: pathlib.Path
    codes: list[int]
    printed: list[str]
    saved: list[list[int]]
    epochs: list[list[int]]
    asked: list[tuple[int, int | None]]


@pytest.fixture(scope="module")
def interrupted(small, tmp_path_factory, quick_programs):
    folder = tmp_path_factory.mktemp("runs")
    run, recipe = folder / "interrupted", folder / "recipe.yaml"
    write_yaml(dataclasses.replace(small, checkpoint_minutes=1e-9), recipe)
    found = Interrupted(run, [], [], [], [], [])
    save = Checkpoints.save

    def save_and_note(self, step, tree, *, epoch=None):
        found.asked.append((step, epoch))
        save(self, step, tree, epoch=epoch)

    def command(*arguments):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            found.codes.append(main([str(argument) for argument in arguments]))
        found.printed.append(printed.getvalue())
        found.saved.append(saved_steps(run))
        found.epochs.append([record["epoch"] for record in read_records(run)])

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Checkpoints, "save", save_and_note)
        with signal_after(4 * 8, signal.SIGTERM):
            command("train", "--recipe", recipe, "--output", run)
        command("resume", run, "--max-hours", 1e-9)
        command("resume", run)
    return found


def test_run_leaves_settings_records_checkpoints_and_pages(whole, small):
    assert (whole.step, whole.interrupted, whole.signal, whole.note) == (STEPS, None, None, "")
    anchors = ARCHITECTURES[small.model].anchors  # those that the run settled on
    assert read_yaml(whole.run / "config.yaml") == dataclasses.replace(small, anchors=anchors)
    assert "processes" not in yaml.safe_load((whole.run / "config.yaml").read_text())
    assert {path.name for path in whole.run.iterdir()} == {
        ".lock",
        "checkpoints",
        "config.yaml",
        "data.sha256",
        "detections.png",
        "metrics.jsonl",
        "report.html",
        "tensorboard",
    }
    assert cv2.imread(str(whole.run / "detections.png")) is not None
    assert "</html>" in (whole.run / "report.html").read_text()[-20:]
    assert saved_steps(whole.run)[-1] == STEPS


def test_a_record_names_assigner_split_and_speed(whole):
    records = [json.loads(line) for line in (whole.run / "metrics.jsonl").open()]
    assert records == whole.records
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert [record["step"] for record in records] == [3, 6, 9]
    losses = {f"{split}/anchor/{name}" for split in ("train", "val") for name in LOSSES}
    speed = {"images_per_second", "step_seconds", "data_wait", "seconds", "device_memory_mib"}
    counts = {"matched", "skipped", "compilations", "gradient_norm", "lr", "epoch", "step"}
    accuracy = {"ap", "ap50", "ap75", "class_ap", "class_ap50"}
    for record in records:
        assert set(record) == losses | speed | counts | accuracy
        for part in ("train", "val"):
            box, obj, cls, total = (record[f"{part}/anchor/{name}"] for name in LOSSES)
            assert total == pytest.approx(box + obj + cls, rel=1e-5)
            assert min(box, obj, cls) > 0
        assert 0 <= record["ap"] <= record["ap50"] <= 1
        assert set(record["class_ap"]) == {"red", "green"}
        assert min(record["matched"], record["lr"], record["gradient_norm"]) > 0
        assert record["images_per_second"] == pytest.approx(8 / record["step_seconds"])
        assert 0 <= record["data_wait"] <= 1
        assert record["skipped"] == 0
    assert len({record["train/anchor/total"] for record in records}) == 3


def test_nothing_is_compiled_after_the_first_epoch(whole):
    assert len({record["compilations"] for record in whole.records}) == 1


def test_tensorboard_has_the_numbers_of_the_records_resumed_or_not(whole, interrupted):
    for run in (whole.run, interrupted.run):
        wanted: dict[str, dict[int, float]] = {}
        for record in read_records(run):
            for name, value in scalars(record).items():
                wanted.setdefault(name, {})[record["step"]] = float(np.float32(value))
        assert curves(run / TENSORBOARD_FOLDER) == wanted


@pytest.mark.parametrize(("stop", "reason"), [(0, "SIGTERM"), (1, "--max-hours 1e-09")])
def test_a_stopped_run_saves_and_says_why_and_how_to_continue(interrupted, stop, reason):
    assert interrupted.codes[stop] == 0
    step, epochs = interrupted.saved[stop][-1], interrupted.epochs[stop]
    assert 3 * len(epochs) <= step < 9
    assert f"stopped after step {step} ({reason})" in interrupted.printed[stop]
    assert f"continue: yolov7-jax resume {interrupted.run}" in interrupted.printed[stop]


def test_sigterm_came_within_an_epoch_and_an_accumulation(interrupted):
    assert 3 < interrupted.saved[0][-1] < 6
    assert interrupted.epochs == [[1], *interrupted.epochs[1:2], [1, 2, 3]]


def test_minutes_save_within_epochs_and_every_epoch_keeps_its_own_checkpoint(interrupted):
    assert {2, 3, 6, 8, 9} <= {step for step, _ in interrupted.asked}
    for step, epoch in interrupted.asked:
        assert epoch == (step // 3 - 1 if step >= 3 else None)


def test_resumed_run_ends_bit_for_bit_as_one_without_interruption(whole, interrupted):
    assert differences(whole.run, interrupted.run) == []


@pytest.mark.parametrize("epoch", [2, 3])
def test_sigterm_does_not_wait_for_an_evaluation_which_is_made_up_for(
    whole, small, tmp_path, epoch
):
    run = tmp_path / "run"
    with signal_in_evaluation(epoch, signal.SIGTERM) as seen:
        stopped = train(small, run)
    assert (stopped.step, stopped.interrupted) == (3 * epoch, "SIGTERM")
    assert seen == [2] * (epoch - 1) + [1]
    assert saved_steps(run)[-1] == 3 * epoch
    assert [record["epoch"] for record in read_records(run)] == list(range(1, epoch))
    ended = train(small, run)
    assert (ended.step, ended.interrupted) == (STEPS, None)
    assert differences(whole.run, run) == []
    made_up = ended.records[epoch - 1]
    assert made_up["images_per_second"] is made_up["step_seconds"] is made_up["data_wait"] is None
    assert (run / "report.html").is_file()


def test_a_kill_between_record_and_accuracy_of_a_checkpoint_loses_neither(whole, small, tmp_path):
    run = tmp_path / "run"

    def killed(self, step, ap):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Checkpoints, "rate", killed)
        with pytest.raises(KeyboardInterrupt):
            train(small, run)
    assert [record["step"] for record in read_records(run)] == saved_steps(run) == [3]
    assert not (run / "checkpoints" / "3" / "metrics").exists()
    train(small, run)
    assert differences(whole.run, run) == []
    assert aps(run) == aps(whole.run)


def aps(run):
    """What the checkpoints of a run say of their accuracy, by step."""
    return {
        path.parent.parent.name: path.read_text()
        for path in run.glob("checkpoints/*/metrics/metrics")
    }


def test_resuming_a_finished_run_changes_nothing(whole, small):
    before = (whole.run / "metrics.jsonl").read_text()
    again = train(small, whole.run)
    assert again == whole
    assert (whole.run / "metrics.jsonl").read_text() == before


def test_a_run_is_not_continued_with_other_settings(whole, small):
    before = (whole.run / "metrics.jsonl").read_text()
    told = "was changed since the run was started: epochs is 4 and was 3, assigner is 'ota' and was"
    with pytest.raises(UserError, match=told):
        train(dataclasses.replace(small, epochs=4, assigner="ota"), whole.run)
    assert (whole.run / "metrics.jsonl").read_text() == before


def test_a_run_that_has_lost_its_checkpoints_is_not_begun_again(whole, small, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole.run, run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match=r"has no checkpoint, but metrics.jsonl tells of 3 epochs"):
        train(small, run)
    assert len(read_records(run)) == 3


def test_a_signal_before_the_first_step_leaves_a_run_that_can_be_begun_again(
    whole, small, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    prepared = loop.prepare

    def prepare_and_signal(*args, **options):
        signal.raise_signal(signal.SIGTERM)
        return prepared(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "prepare", prepare_and_signal)
        stopped = train(small, run)
    assert (stopped.step, stopped.interrupted, saved_steps(run)) == (0, "SIGTERM", [])
    train(small, run)
    assert differences(whole.run, run) == []


def test_sigterm_stops_a_run_whose_epochs_are_single_steps(small, tmp_path):
    # 24 images in batches of 8, but most of them are gone.
    data = tmp_path / "data"
    shutil.copytree(pathlib.Path(small.data).parent, data)
    for path in (data / "images" / "train").iterdir():
        if int(path.stem) >= 8:
            path.unlink()
    config = dataclasses.replace(small, data=str(data / "data.yaml"), epochs=50, eval_epochs=50)
    with signal_after(2 * 8, signal.SIGTERM):
        summary = train(config, tmp_path / "run")
    assert (summary.step, summary.interrupted) == (2, "SIGTERM")
    assert saved_steps(tmp_path / "run")[-1] == 2


def test_patience_ends_a_run_for_good(small, tmp_path, capsys):
    config = dataclasses.replace(small, epochs=30, patience=1)
    run, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    write_yaml(config, recipe)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(loop, "evaluation_record", lambda *_: {"ap": 0.5, "ap50": 0.5})
        assert main(["train", "--recipe", str(recipe), "--output", str(run)]) == 0
    assert "no higher AP in 1 epochs, so this is the end" in capsys.readouterr().out
    records = (run / "metrics.jsonl").read_text()
    assert len(read_records(run)) == 2
    assert (run / "report.html").is_file()
    assert main(["resume", str(run)]) == 0
    assert "so this is the end" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_text() == records
    assert saved_steps(run)[-1] == 6


def test_batches_without_finite_losses_are_left_out_counted_and_warned_of(small, tmp_path, capsys):
    with poisoned({1, 3, 4, 5}):
        summary = train(small, tmp_path / "run")
    assert [record["skipped"] for record in summary.records] == [1, 3, 0]
    first, second, third = (record["train/anchor/total"] for record in summary.records)
    assert second is None  # nothing was learnt in this epoch
    assert np.isfinite([first, third]).all()
    assert summary.records[1]["matched"] is None
    told = capsys.readouterr().err
    assert "warning: 3 batches of epoch 2 were left out" in told
    assert "epoch 2/3" in told
    assert "diverges" not in told


def test_many_batches_without_finite_losses_stop_the_run_with_one_kept(
    whole, small, tmp_path, capsys
):
    run, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    write_yaml(dataclasses.replace(small, max_skipped=3), recipe)
    with poisoned(range(4, 100)):
        assert main(["train", "--recipe", str(recipe), "--output", str(run)]) == 2
        (line,) = [
            line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")
        ]
        kept = run / "skipped-batch-6.npz"
        for part in ("not finite for 3 batches in a row", str(kept), "--optim.lr0"):
            assert part in line
        batch = np.load(kept)
        assert (batch["images"].shape, batch["images"].dtype) == ((8, 64, 64, 3), np.uint8)
        assert np.isnan(batch["boxes"][..., 0]).all()
        assert batch["valid"].any()
        # Continued, it counts on from the last checkpoint.
        assert main(["resume", str(run)]) == 2
    # With sound batches it goes on.
    assert main(["resume", str(run)]) == 0
    assert read_records(run)[0]["train/anchor/total"] == whole.records[0]["train/anchor/total"]
    assert np.isfinite(read_records(run)[-1]["train/anchor/total"])


@pytest.fixture(scope="module")
def taught(small, tmp_path_factory, quick_programs):
    """A file of weights that have seen the images sixty times as fast as runs go."""
    setup, state = prepare(small)
    rates = Rates(0.01, 0.01, 0.01, 0.9, 1)
    with setup.batches(0, None) as batches:
        for _ in range(60):
            state, _ = setup.train_step(state, next(batches), rates, size=None)
    graphdef, _, _ = split(setup.model)
    path = tmp_path_factory.mktemp("weights") / "taught.safetensors"
    model = nnx.merge(graphdef, state.params, state.batch_stats)
    save_safetensors(model, path, names=("red", "green"))
    return path


def test_a_run_from_weights_starts_with_what_they_know(whole, small, taught, tmp_path, capsys):
    weights = tmp_path / "here.safetensors"
    shutil.copy(taught, weights)
    config = dataclasses.replace(small, weights=str(weights), epochs=2)
    run = tmp_path / "run"
    with signal_after(2 * 8, signal.SIGTERM):
        train(config, run)
    assert f"weights: {weights}; all of it" in capsys.readouterr().err
    weights.unlink()  # is not needed any more
    tuned = train(config, run).records
    # Not the objectness: boxes that fit better are more to tell from the rest.
    for loss in ("train/anchor/box", "train/anchor/total", "val/anchor/box", "val/anchor/total"):
        assert tuned[0][loss] < 0.95 * whole.records[0][loss], loss


def test_missing_wandb_is_said_before_anything_is_written(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="--wandb needs"):
        train(dataclasses.replace(small, wandb=True), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_run_is_not_continued_on_other_data(whole, small, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole.run, run)
    (run / "data.sha256").write_text("of other data")
    with pytest.raises(UserError, match="data have changed since the run was started"):
        train(small, run)
    (run / "data.sha256").unlink()
    with pytest.raises(UserError, match=r"data.sha256: is missing, which tells whether"):
        train(small, run)
