"""TensorBoard's files and the calls of Weights & Biases."""

import math
import sys
import types

import pytest
from event_files import curves

from yolov7_jax.errors import UserError
from yolov7_jax.training.loggers import (
    TENSORBOARD_FOLDER,
    TensorBoard,
    Wandb,
    import_wandb,
    scalars,
)

RECORD = {
    "epoch": 2,
    "train/ota/box": 0.25,
    "ap": None,
    "class_ap": {"cat": 0.5, "dog": None},
    "note": "text",
    "rate": math.nan,
}


def test_numbers_of_a_record_are_all_that_can_be_drawn():
    assert scalars(RECORD) == {"epoch": 2.0, "train/ota/box": 0.25, "class_ap/cat": 0.5}


def test_tensorboard_has_what_was_written(tmp_path):
    log = TensorBoard(tmp_path, 1)
    log.write(3, {"train/ota/box": 0.25, "ap": 0.5})
    log.write(6, {"train/ota/box": 0.125})
    log.close()
    assert curves(tmp_path / TENSORBOARD_FOLDER) == {
        "train/ota/box": {3: 0.25, 6: 0.125},
        "ap": {3: 0.5},
    }


def test_a_continued_run_replaces_later_steps_and_keeps_earlier_ones(tmp_path):
    for first, values in ((1, {3: 0.5, 6: 0.25, 9: 0.125}), (4, {6: 0.75})):
        log = TensorBoard(tmp_path, first)
        for step, value in values.items():
            log.write(step, {"ap": value})
        log.close()
    assert curves(tmp_path / TENSORBOARD_FOLDER) == {"ap": {3: 0.5, 6: 0.75}}


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package; gives the list of its calls."""
    calls = []

    class Run:
        def log(self, numbers, *, step):
            calls.append(("log", step, numbers))

        def finish(self):
            calls.append(("finish",))

    def init(**options):
        calls.append(("init", options))
        return Run()

    package = types.ModuleType("wandb")
    package.init, package.Error = init, type("Error", (Exception,), {})
    monkeypatch.setitem(sys.modules, "wandb", package)
    return calls


def test_wandb_is_told_the_settings_the_numbers_and_the_end(wandb, tmp_path):
    log = Wandb(tmp_path, {"epochs": 3, "optim": {"lr0": 0.01}})
    log.write(3, {"ap": 0.5})
    log.close()
    (kind, options), *others = wandb
    assert kind == "init"
    assert options["config"] == {"epochs": 3, "optim": {"lr0": 0.01}}
    assert options["dir"] == str(tmp_path)
    assert (options["name"], options["resume"]) == (tmp_path.name, "allow")
    assert others == [("log", 3, {"ap": 0.5}), ("finish",)]


def test_wandb_continues_the_run_of_a_folder_and_no_other_of_its_name(wandb, tmp_path):
    folders = [tmp_path / "one" / "run", tmp_path / "two" / "run"]
    for folder in folders:
        folder.mkdir(parents=True)
    for folder in (*folders, folders[0]):
        Wandb(folder, {})
    first, second, again = (options["id"] for _, options in wandb)
    assert first == again != second


def test_a_run_that_wandb_refuses_is_one_line(wandb, monkeypatch, tmp_path):
    def refuse(**options):
        raise sys.modules["wandb"].Error("api_key not configured\n(no-tty)")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(UserError, match=r"^--wandb: .* api_key not configured \(no-tty\)$"):
        Wandb(tmp_path, {})


def test_missing_wandb_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"--wandb needs .*pip install 'yolov7-jax\[wandb\]'"):
        import_wandb()
