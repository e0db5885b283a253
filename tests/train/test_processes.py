"""Whole runs in two processes with two devices each, over the loopback interface.

Losses are compared as in test_devices, and for the reasons given there.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
from typing import NamedTuple

import cv2
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
STEPS, EPOCH = 20, 10  # of 8 pictures
AGREED = 16  # the first step at which processes agree to stop
PATIENCE = 300  # seconds
MEASURED = {
    "images_per_second",
    "step_seconds",
    "data_wait",
    "device_memory_mib",
    "compilations",
    "seconds",
}
# `python -m train`, but it waits less for others, keeps what it tells of every step, and sends
# itself a signal after one.
SCRIPT = """
import json, os, sys
from train import __main__ as cli, distributed
from train.report import Progress

steps, after, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
del sys.argv[1:4]
distributed.ARRIVAL_SECONDS, distributed.PARTING_SECONDS = 3 if steps == "-" else 120, 6
update, done = Progress.update, []

def tell(self, images, epoch, metrics):
    update(self, images, epoch, metrics)
    done.append([float(value) for value in metrics])
    with open(steps, "w") as file:
        json.dump(done, file)
    if len(done) == after:
        os.kill(os.getpid(), number)

Progress.update = tell
cli.show_warnings()
sys.exit(cli.run_program())
"""


class Ended(NamedTuple):
    """How the processes of a run ended: exit codes, what each printed, metrics of each step."""

    codes: list[int]
    errors: list[str]
    outputs: list[str]
    steps: list[np.ndarray]  # [steps, metrics], for each process

    @property
    def losses(self):
        return self.steps[0][:, 3]


class Workshop(NamedTuple):
    """Starts runs that share a data set and what is compiled."""

    folder: pathlib.Path

    def run(self, arguments, devices=(1,), *, present=None, own=None, stop=None) -> Ended:
        """Runs a command to its end.

        `devices` of each process; `present`: those that come at all; `own`: more arguments of the
        second; `stop`: (process, step, signal).
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        started, files = {}, {}
        for index in range(len(devices)) if present is None else present:
            of_several = [
                f"--processes.coordinator={address}",
                f"--processes.count={len(devices)}",
                f"--processes.index={index}",
            ]
            flags = f"--xla_force_host_platform_device_count={devices[index]}"
            environment = os.environ | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"{flags} --xla_backend_optimization_level=0",
                "JAX_COMPILATION_CACHE_DIR": str(self.folder / f"programs{index}"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
            }
            files[index] = self.folder / f"steps{index}.json"
            files[index].write_text("[]")
            when = stop[1:] if stop and stop[0] == index else (0, 0)
            steps = "-" if present is not None else str(files[index])
            command = [sys.executable, "-c", SCRIPT, steps, *map(str, map(int, when)), *arguments]
            started[index] = subprocess.Popen(
                command
                + (of_several if len(devices) > 1 else [])
                + (own if own and index == 1 else []),
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        try:
            ended = [process.communicate(timeout=PATIENCE) for process in started.values()]
        finally:
            for process in started.values():
                process.kill()
        return Ended(
            [process.returncode for process in started.values()],
            [error for _, error in ended],
            [output for output, _ in ended],
            [np.asarray(json.loads(file.read_text())) for file in files.values()],
        )

    def fit(self, run, devices, *more, **how) -> Ended:
        settings = {
            "data": self.folder / "data" / "data.yaml",
            "output": run,
            "width": 0.125,
            "activation": "silu",
            "image-size": 64,
            "epochs": STEPS // EPOCH,
            "batch-size": 8,
            "eval-batch-size": 4,
            "num-workers": 1,
            "assigner": "anchor",
            "optim.lr0": 1e-4,
            "optim.nominal-batch": 16,
            "optim.warmup-epochs": 0,
            "optim.warmup-min-steps": 10,
            "optim.warmup-bias-lr": 0,
        }
        flags = [f"--{name}={value}" for name, value in settings.items()]
        return self.run(["fit", *flags, *more], devices, **how)

    def resume(self, run, devices, **how) -> Ended:
        return self.run(["resume", str(run)], devices, **how)


def make_data(folder):
    rng = np.random.default_rng(0)
    for split, count in (("train", 8 * EPOCH), ("val", 6)):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 80, (48, 64, 3), np.uint8)
            x, y = int(rng.integers(0, 30)), int(rng.integers(0, 20))
            image[y : y + 24, x : x + 30, number % 2] = 255
            cv2.imwrite(str(folder / "images" / split / f"{number}.png"), image)
            row = f"{number % 2} {(x + 15) / 64} {(y + 12) / 48} {30 / 64} {24 / 48}\n"
            (folder / "labels" / split / f"{number}.txt").write_text(row)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [red, green]\n")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workshop")
    make_data(folder / "data")
    return Workshop(folder)


@pytest.fixture(scope="module")
def alone(workshop, tmp_path_factory):
    """A whole run in one process on one device."""
    run = tmp_path_factory.mktemp("alone") / "run"
    ended = workshop.fit(run, (1,))
    assert ended.codes == [0], ended.errors
    return run, ended


@pytest.fixture(scope="module")
def stopped(workshop, tmp_path_factory):
    """A run in two processes, of which the second alone gets SIGTERM."""
    run = tmp_path_factory.mktemp("together") / "run"
    return run, workshop.fit(run, (2, 2), stop=(1, 12, signal.SIGTERM))


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def saved_steps(run):
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def until_first_epoch(run, copy):
    """Copies a finished run as it was after its first epoch."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / str(STEPS))
    return copy


def assert_same_records(run, wanted):
    got, wanted = records(run), records(wanted)
    assert [list(record) for record in got] == [list(record) for record in wanted]
    for record, other in zip(got, wanted, strict=True):
        for name in record.keys() - MEASURED:
            # Detections of nearly the same score change places.
            near = {"rel": 1e-3} if name == "gradient_norm" else {"rel": 1e-5, "abs": 0}
            near = {"abs": 1e-3} if "ap" in name else near
            assert record[name] == pytest.approx(other[name], **near), name


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
    assert "2 classes; 80 training and 6 validation pictures; 4 cpu device(s)" in ended.errors[0]
    theirs = ended.outputs[1] + ended.errors[1]
    # But for the library of the collectives.
    assert [line for line in theirs.splitlines() if line and "[Gloo]" not in line] == []


def test_one_device_continues_what_two_processes_began(workshop, alone, stopped, tmp_path):
    run, _ = stopped
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    ended = workshop.resume(copy, (1,))
    assert ended.codes == [0], ended.errors
    np.testing.assert_allclose(ended.losses, alone[1].losses[AGREED:], rtol=1e-5)
    assert_same_records(copy, alone[0])


@pytest.mark.slow
def test_two_processes_continue_what_one_device_began(workshop, alone, tmp_path):
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
    assert "error: what the processes compute together has failed" in ended.errors[0]


def test_a_picture_that_one_process_alone_cannot_read_ends_all(workshop, stopped, tmp_path):
    # A good start and end pass the scan; each process has a copy, and only the second's is bad.
    shutil.copytree(workshop.folder / "data", tmp_path / "data")
    for path in (tmp_path / "data" / "images" / "train").iterdir():
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 500] = bytes(500)
        path.write_bytes(content)
    data = [f"--data={tmp_path / 'data' / 'data.yaml'}"]
    ended = workshop.fit(tmp_path / "run", (2, 2), own=data)
    assert ended.codes[1] == 2, ended.errors
    assert ".png: is not a picture that OpenCV can decode" in ended.errors[1]
    assert "error: what the processes compute together has failed" in ended.errors[0]


def test_processes_with_other_data_or_settings_are_refused_by_name(workshop, tmp_path):
    shutil.copytree(workshop.folder / "data", tmp_path / "data")
    (tmp_path / "data" / "labels" / "train" / "3.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    own = [f"--data={tmp_path / 'data' / 'data.yaml'}", "--optim.lr0=2e-4"]
    ended = workshop.fit(tmp_path / "run", (1, 1), own=own)
    assert ended.codes == [2, 2], ended.errors
    for error in ended.errors:
        assert "settings and anchors (process 1); training split (process 1)" in error
        assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("present", [0, 1])
def test_a_process_that_never_comes_is_not_waited_for_forever(workshop, tmp_path, present):
    ended = workshop.fit(tmp_path / "run", (1, 1), present=[present])
    assert ended.codes == [2]
    assert "did not come together within 3 s" in ended.errors[0]
    assert "Traceback" not in ended.errors[0]


@pytest.mark.slow
def test_sharded_run_out_of_time_continues_on_any_number_of_devices(workshop, alone, tmp_path):
    run = tmp_path / "run"
    ended = workshop.fit(run, (2, 2), "--shard-parameters", "--max-hours=1e-9")
    assert ended.codes == [0, 0], ended.errors
    assert f"stopped after step {AGREED} (--max-hours 1e-09)" in ended.outputs[0]
    wanted = alone[1].losses[: len(ended.losses)]
    np.testing.assert_allclose(ended.losses, wanted, rtol=1e-5)
    for number, devices in enumerate([(1,), (4,), (2, 2)]):
        copy = tmp_path / f"run{number}"
        shutil.copytree(run, copy)
        ended = workshop.run(["resume", str(copy), "--max-hours=1"], devices)
        assert set(ended.codes) == {0}, ended.errors
        np.testing.assert_allclose(ended.losses, alone[1].losses[AGREED:], rtol=1e-5)
        assert_same_records(copy, alone[0])


@pytest.mark.slow
def test_runs_on_four_devices_and_in_two_processes_continue_each_other(workshop, alone, tmp_path):
    ended = workshop.fit(tmp_path / "four", (4,))
    assert ended.codes == [0], ended.errors
    np.testing.assert_allclose(ended.losses, alone[1].losses, rtol=1e-5)
    assert_same_records(tmp_path / "four", alone[0])
    copy = until_first_epoch(tmp_path / "four", tmp_path / "copy")
    ended = workshop.resume(copy, (2, 2))
    assert ended.codes == [0, 0], ended.errors
    assert_same_records(copy, alone[0])
    copy = until_first_epoch(copy, tmp_path / "again")
    ended = workshop.resume(copy, (4,))
    assert ended.codes == [0], ended.errors
    assert_same_records(copy, alone[0])
