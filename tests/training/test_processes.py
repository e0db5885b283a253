"""Whole runs in two processes with two devices each, over the loopback interface.

Losses are compared as in test_devices, and for the reasons given there.
"""

import shutil
import signal

import jax
import numpy as np
import pytest
from training_processes import AGREED, EPOCH, STEPS, assert_same_records, until_first_epoch

from benchmarks.interruptions import saved_steps


@pytest.fixture(scope="module")
def stopped(workshop, tmp_path_factory):
    """A run in two processes, of which the second alone gets SIGTERM."""
    run = tmp_path_factory.mktemp("together") / "run"
    return run, workshop.fit(run, (2, 2), stop=(1, 12, signal.SIGTERM))


def test_losses_in_two_processes_are_those_of_one_on_one_device(alone, stopped):
    _, ended = stopped
    np.testing.assert_array_equal(ended.steps[0], ended.steps[1])
    wanted = alone[1].losses
    assert len(wanted) == STEPS
    assert len(set(wanted.tolist())) == STEPS
    np.testing.assert_allclose(ended.losses, wanted[: len(ended.losses)], rtol=1e-5)


def test_sigterm_to_one_process_stops_all_at_the_same_step_with_a_checkpoint(stopped):
    run, ended = stopped
    assert ended.codes == [0, 0], ended.errors
    assert saved_steps(run)[-1] == AGREED
    assert f"stopped after step {AGREED} (SIGTERM); continue:" in ended.outputs[0]


def test_the_first_process_alone_prints(stopped):
    _, ended = stopped
    assert "2 classes; 80 training and 6 validation images; recipe " in ended.errors[0]
    assert "; 4 cpu device(s)" in ended.errors[0]
    theirs = ended.outputs[1] + ended.errors[1]
    # But for the library of the collectives.
    assert [line for line in theirs.splitlines() if line and "[Gloo]" not in line] == []


@pytest.mark.parametrize("devices", [pytest.param((1,), marks=pytest.mark.slow), (4,), (2, 2)])
def test_what_two_processes_began_continues_though_one_sees_an_old_listing(
    workshop, alone, stopped, tmp_path, devices
):
    run, _ = stopped
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    ended = workshop.resume(copy, devices, stale=1)
    assert set(ended.codes) == {0}, ended.errors
    np.testing.assert_allclose(ended.losses, alone[1].losses[AGREED:], rtol=1e-5)
    assert_same_records(copy, alone[0])


@pytest.mark.slow
def test_two_processes_continue_what_one_began(workshop, alone, tmp_path):
    copy = until_first_epoch(alone[0], tmp_path / "run")
    ended = workshop.resume(copy, (2, 2))
    assert ended.codes == [0, 0], ended.errors
    np.testing.assert_allclose(ended.losses, alone[1].losses[EPOCH:], rtol=1e-5)
    assert_same_records(copy, alone[0])
    assert saved_steps(copy) == [EPOCH, STEPS]
    names = {path.name for path in copy.iterdir()}
    assert names >= {"report.html", "detections.png", "metrics.jsonl", "config.yaml"}


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_a_message(workshop, stopped, tmp_path):
    ended = workshop.fit(tmp_path / "run", (2, 2), stop=(1, 3, signal.SIGKILL))
    assert ended.codes[1] == -signal.SIGKILL
    assert ended.codes[0] not in (0, -signal.SIGKILL)
    # The collectives of a later JAX do not end when a process is gone, until it is missed.
    ours, of_jax = "error: what the processes compute together has failed", "another task died"
    assert (ours if jax.__version_info__ < (0, 11) else of_jax) in ended.errors[0]


def test_a_image_that_one_process_alone_cannot_read_ends_all(workshop, stopped, tmp_path):
    # A good start and end pass the scan; each process has a copy, and only the second's is bad.
    shutil.copytree(workshop.data.parent, tmp_path / "data")
    for path in (tmp_path / "data" / "images" / "train").iterdir():
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 500] = bytes(500)
        path.write_bytes(content)
    data = [f"--data={tmp_path / 'data' / 'data.yaml'}"]
    ended = workshop.fit(tmp_path / "run", (2, 2), own=data)
    assert ended.codes[1] == 2, ended.errors
    assert ".png: is not an image that OpenCV can decode" in ended.errors[1]
    assert "error: what the processes compute together has failed" in ended.errors[0]
