"""Whose a run's folder is, and what its files must hold to continue it."""

import dataclasses
import re
import types

import pytest

from yolov7_jax.cli import main
from yolov7_jax.errors import UserError
from yolov7_jax.training import loop
from yolov7_jax.training.run_folder import (
    CONFIG_FILE,
    check_free,
    check_same_settings,
    claimed,
)
from yolov7_jax.training.schedule import OptimConfig
from yolov7_jax.training.train_config import TrainConfig, fixed_settings, read_yaml, write_yaml


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_a_folder_is_one_runs_at_a_time(run):
    with (
        claimed(run),
        pytest.raises(UserError, match="another run is at work in this folder"),
        claimed(run),
    ):
        pass
    with claimed(run):
        pass


def test_a_file_system_without_locks_does_not_stop_a_run(run, monkeypatch):
    def refuse(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with claimed(run):
        pass


def test_a_run_that_was_overtaken_by_another_does_not_begin(run):
    setup = types.SimpleNamespace(config=TrainConfig(), splits=dict)
    loop.begin(setup, run)
    loop.begin(setup, run)  # of a run that was killed before its first checkpoint
    assert read_yaml(run / CONFIG_FILE, whole=True) == TrainConfig()
    (run / "checkpoints/7").mkdir(parents=True)
    with pytest.raises(UserError, match="another run has begun in this folder"):
        loop.begin(setup, run)


def test_an_empty_folder_of_checkpoints_is_no_other_run(run):
    (run / "checkpoints").mkdir()
    check_free(run)
    (run / "checkpoints/7").mkdir()
    with pytest.raises(UserError, match="has checkpoints of another run"):
        check_free(run)


@pytest.mark.parametrize("left", [0, 1, 500])
def test_settings_that_were_cut_short_are_not_taken_for_the_defaults(run, left, capsys):
    write_yaml(dataclasses.replace(TrainConfig(), epochs=7), run / CONFIG_FILE)
    text = (run / CONFIG_FILE).read_text()
    (run / CONFIG_FILE).write_text(text[: text.rfind("\n", 0, left) + 1])
    assert main(["resume", str(run)]) == 2
    assert "config.yaml: lacks " in capsys.readouterr().err


def test_settings_are_written_whole_or_not_at_all(run, monkeypatch):
    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_yaml(TrainConfig(), run / CONFIG_FILE)
    assert list(run.iterdir()) == []


def test_a_file_is_no_run(tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    assert main(["resume", str(tmp_path / "file")]) == 2
    assert "file: is a file, and no folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": 4}, "epochs is 4 and was 300;"),
        ({"batch_size": 8}, "batch_size is 8 and was 16;"),
        ({"width": 0.25}, "width is 0.25 and was 1.0;"),
        ({"assigner": "anchor"}, "assigner is 'anchor' and was 'ota';"),
        ({"optim": OptimConfig(lr0=0.5)}, "optim.lr0 is 0.5 and was 0.01;"),
    ],
)
def test_every_setting_that_was_changed_is_named(run, changes, told):
    before = TrainConfig(epochs=300, batch_size=16, assigner="ota")
    described = {"settings": fixed_settings(before)}
    check_same_settings(run, before, described)
    wanted = re.escape(f"was changed since the run was started: {told}")
    with pytest.raises(UserError, match=wanted):
        check_same_settings(run, dataclasses.replace(before, **changes), described)
