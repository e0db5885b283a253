"""Starts whole runs, in one process or in several over the loopback interface."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from compiling import QUICK_FLAGS
from pocket import POCKET

from benchmarks.interruptions import MEASURED
from yolov7_jax.training.metrics_file import read_records

TESTS = pathlib.Path(__file__).parent
PYTHONPATH = os.pathsep.join(map(str, (TESTS.parent, TESTS)))  # of the programs in this folder
STEPS, EPOCH = 20, 10  # of 8 images
AGREED = 16  # the first step at which processes agree to stop
MOST_SECONDS = 300  # for a run


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
    data: pathlib.Path
    programs: pathlib.Path

    def run(
        self,
        arguments,
        devices=(1,),
        *,
        present=None,
        own=None,
        stop=None,
        stale=None,
        patience=120,
    ) -> Ended:
        """Runs a command to its end.

        `devices` of each process; `present`: those that come at all; `own`: more arguments of the
        second; `stop`: (process, step, signal); `stale`: the one that sees no run in the folder;
        `patience`: seconds for all to come.
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
                "XLA_FLAGS": f"{flags} {QUICK_FLAGS}",
                "JAX_COMPILATION_CACHE_DIR": str(self.programs),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "PYTHONPATH": PYTHONPATH,
            }
            files[index] = self.folder / f"steps{index}.json"
            files[index].write_text("[]")
            when = stop[1:] if stop and stop[0] == index else (0, 0)
            told = [files[index], patience, *map(int, when), int(index == stale)]
            started[index] = subprocess.Popen(
                [sys.executable, str(TESTS / "told_program.py"), *map(str, told), *arguments]
                + (of_several if len(devices) > 1 else [])
                + (own if own and index == 1 else []),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        try:
            ended = [process.communicate(timeout=MOST_SECONDS) for process in started.values()]
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
            "data": self.data,
            "output": run,
            "model": POCKET,
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
        return self.run(["train", *flags, *more], devices, **how)

    def resume(self, run, devices, **how) -> Ended:
        return self.run(["resume", str(run)], devices, **how)


def until_first_epoch(run, copy):
    """Copies a finished run as it was after its first epoch."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / str(STEPS))
    return copy


def assert_same_records(run, wanted):
    got, wanted = read_records(run), read_records(wanted)
    assert [list(record) for record in got] == [list(record) for record in wanted]
    for record, other in zip(got, wanted, strict=True):
        for name in record.keys() - set(MEASURED):
            # Detections of nearly the same score change places.
            near = {"rel": 1e-3} if name == "gradient_norm" else {"rel": 1e-5, "abs": 0}
            near = {"abs": 1e-3} if "ap" in name else near
            assert record[name] == pytest.approx(other[name], **near), name
