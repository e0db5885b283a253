"""A whole run through the command line, and everything that can happen to it."""

import random
import subprocess
import sys

import pytest
from pocket import POCKET
from training_processes import PYTHONPATH, TESTS

from benchmarks import interruptions
from benchmarks.interruptions import (
    ALL_TOO_LARGE,
    TRAIN,
    VAL,
    Interruption,
    Run,
    UnexpectedEndError,
    Workshop,
    differences,
    disturb,
)
from benchmarks.rectangles import write_rectangles

EPOCHS = 10
EARLY = (
    Interruption("full disk", largest_file=ALL_TOO_LARGE),
    Interruption("kill", begun=True),
)
PLAN = (
    *EARLY,
    Interruption("kill while saving", checkpoints=1),
    Interruption("terminate", checkpoints=1),
    Interruption("full disk", checkpoints=1),
    Interruption("damage", checkpoints=1),
)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, programs):
    folder = tmp_path_factory.mktemp("workshop")
    data = write_rectangles(folder / "data", train=TRAIN, val=VAL)
    program = (sys.executable, str(TESTS / "pocket_program.py"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
        yield Workshop(data, programs, EPOCHS, model=POCKET, command=program)


@pytest.fixture(scope="module")
def whole(workshop, tmp_path_factory):
    """A run that nothing happens to."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    workshop.start(folder).expect((0,))
    return folder


def test_whatever_interrupts_a_run_it_ends_bit_for_bit_as_if_nothing_had(workshop, whole, tmp_path):
    run = tmp_path / "run"
    happened = list(disturb(workshop, run, iter(PLAN), random.Random(0)))
    assert len(happened) == len(PLAN), happened
    assert all("saved []" in line for line in happened[: len(EARLY)]), happened
    assert differences(whole, run) == []
    assert [record["epoch"] for record in interruptions.records(run)] == list(range(1, EPOCHS + 1))
    assert list((run / "checkpoints").glob("*.damaged"))


def test_a_training_run_that_sigterm_ends_at_once_is_noticed(tmp_path):
    # It proves nothing that such a run can be continued: SIGTERM is asked to save first.
    (tmp_path / "run" / "checkpoints" / "3").mkdir(parents=True)
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(["sleep", "100"], stdout=log) as process,
        subprocess.Popen(["true"]) as writer,
    ):
        run = Run(tmp_path / "run", process, tmp_path / "log", writer)
        with pytest.raises(UnexpectedEndError, match="code -15"):
            Interruption("terminate").happen(run, random.Random(0), on_own_disk=False)


def test_runs_that_differ_are_told_apart(whole, tmp_path):
    # The comparison above would be worth nothing if it compared nothing.
    names = interruptions.leaves(whole, interruptions.saved_steps(whole)[-1])
    for part in ("params", "ema_params", "batch_stats", "opt_state", "gradients", "step"):
        assert any(f"'{part}'" in name for name in names), part
    assert all("seconds" not in record for record in interruptions.records(whole))
