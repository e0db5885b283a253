"""Interrupts training runs at random moments, and compares what they come to with one left alone.

    python -m benchmarks.interruptions [--times 20] [--seed 0] [--epochs 8]

Every run is started, interrupted and resumed through the command line, until there have been so
many interruptions and the last run is finished. The final parameters, moving averages and all
else that a checkpoint holds must be those of the undisturbed run, bit for bit, and metrics.jsonl
must be the same but for times. The disk becomes full on a file system of its own in memory where
this may be mounted; elsewhere files are forbidden to grow. About ten minutes on two cores.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from benchmarks.rectangles import write_rectangles
from benchmarks.small_disk import LOOK_AGAIN, fill_until_ended, own_disk
from yolov7_jax.training.run_folder import CONFIG_FILE, REPORT_FILE

ROOT = pathlib.Path(__file__).parent.parent
KINDS = ("kill", "kill while saving", "terminate", "full disk", "damage")
# What a record tells of the machine instead of the training.
MEASURED = (
    "images_per_second",
    "seconds",
    "step_seconds",
    "data_wait",
    "device_memory_mib",
    "compilations",
)
# Bytes, once files may not grow: settings and records fit, but no arrays; or nothing fits.
ARRAYS_TOO_LARGE, ALL_TOO_LARGE = 2**14, 2**8
PATIENCE = 300  # seconds
TRAIN, VAL = 24, 4


class UnexpectedEndError(Exception):
    """A run did not do what it has to do."""


@dataclasses.dataclass(frozen=True)
class Workshop:
    """What all runs of a comparison share.

    Attributes:
      data: the data set's data.yaml.
      programs: folder where JAX keeps what it has compiled.
      epochs: length of a run.
      model: that is trained.
      command: what runs `python -m train`.
    """

    data: pathlib.Path
    programs: pathlib.Path
    epochs: int
    model: str = "yolov7-tiny"
    command: tuple[str, ...] = (sys.executable, "-m", "train")

    def start(self, run: pathlib.Path) -> "Run":
        """Starts or continues a run, whichever its folder asks for."""
        if (run / CONFIG_FILE).is_file():
            arguments = ["resume", str(run)]
        else:
            settings = {
                "data": self.data,
                "output": run,
                "model": self.model,
                "epochs": self.epochs,
                "width": 0.125,
                "image-size": 64,
                "batch-size": 8,
                "eval-batch-size": 8,
                "num-workers": 1,
                "optim.nominal-batch": 16,  # so that interruptions fall between accumulated steps
                "optim.warmup-epochs": 0.3,
                "optim.warmup-min-steps": 0,
            }
            arguments = ["train", *(f"--{name}={value}" for name, value in settings.items())]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",  # half the time to compile
            "JAX_COMPILATION_CACHE_DIR": str(self.programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        before = frozenset(saved_steps(run))
        log = self.data.parent.with_name(f"{run.name}.log")  # not on the run's disk
        printed, end = os.pipe()
        with open(printed) as source, open(end, "w") as sink, log.open("w") as output:
            process = subprocess.Popen(
                [*self.command, *arguments],
                cwd=ROOT,
                env=environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
            # Files of the run itself may be forbidden to grow.
            writer = subprocess.Popen(["cat"], stdin=source, stdout=output)
        return Run(run, process, log, writer, before)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that goes on.

    Attributes:
      folder: where it keeps everything.
      process: of the command line.
      log: what that prints.
      writer: the process that writes the log.
      before: steps of the checkpoints that it started with.
    """

    folder: pathlib.Path
    process: subprocess.Popen
    log: pathlib.Path
    writer: subprocess.Popen
    before: frozenset[int] = frozenset()

    def wait(self) -> int:
        """Returns the exit code, when all is in the log."""
        self.writer.wait(timeout=PATIENCE)
        return self.process.wait(timeout=PATIENCE)

    def saved(self) -> set[int]:
        """Returns the steps of the checkpoints that it has written by itself, and that are left."""
        return set(saved_steps(self.folder)) - self.before

    def expect(self, codes: tuple[int, ...]) -> None:
        """Waits for the end.

        Raises:
          UnexpectedEndError: it ended with another exit code, or with a traceback.
        """
        code, printed = self.wait(), self.log.read_text(errors="replace")
        if code not in codes or "Traceback" in printed:
            raise UnexpectedEndError(f"code {code}, wanted {codes} without a traceback:\n{printed}")

    def is_finished(self) -> bool:
        """Says of an ended process whether its run has come to its end too."""
        continues = "yolov7-jax resume" in self.log.read_text(errors="replace")
        return self.process.returncode == 0 and not continues


def saved_steps(run: pathlib.Path) -> list[int]:
    """Returns the steps of a run's complete checkpoints, ascending."""
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


@dataclasses.dataclass(frozen=True)
class Interruption:
    """What happens to a run, and when.

    Attributes:
      kind: one of `KINDS`.
      begun: whether the run has to write its settings first.
      checkpoints: how many it has to save first.
      seconds: how long it then goes on.
      largest_file: what fits on the full disk, in bytes, where only files are limited.
    """

    kind: str
    begun: bool = False
    checkpoints: int = 0
    seconds: float = 0
    largest_file: int = ARRAYS_TOO_LARGE

    def wait(self, run: Run) -> None:
        """Returns when its moment has come, or the run has ended."""
        saved = set()
        while run.process.poll() is None and (
            len(saved) < self.checkpoints
            or (self.begun and not (run.folder / CONFIG_FILE).is_file())
        ):
            time.sleep(LOOK_AGAIN)
            saved |= run.saved()
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(self.seconds)

    def happen(self, run: Run, rng: random.Random, *, on_own_disk: bool) -> None:
        """Interrupts a run now.

        Args:
          run: what goes on.
          rng: chooses what is damaged.
          on_own_disk: whether the run lies on a disk that may be filled.

        Raises:
          UnexpectedEndError: the run did not end as it has to.
        """
        if self.kind == "terminate":
            trains = bool(run.saved())
            run.process.send_signal(signal.SIGTERM)
            run.wait()
            # While the program starts, and when the report is written, nothing catches it.
            caught = trains and not (run.folder / REPORT_FILE).exists()
            run.expect((0,) if caught else (0, -signal.SIGTERM))
        elif self.kind == "full disk":
            if on_own_disk:
                fill_until_ended(run.folder.parent, run.process)
            else:
                limits = (self.largest_file, resource.RLIM_INFINITY)
                resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, limits)
            run.expect((0, 2))
        else:
            while self.kind == "kill while saving" and run.process.poll() is None:
                if is_saving(run):
                    break
                time.sleep(LOOK_AGAIN / 10)
            run.process.kill()
            run.wait()
            if self.kind == "damage":
                damage_newest(run.folder, rng)


def disturb(
    workshop: Workshop,
    folder: pathlib.Path,
    plan: Iterator[Interruption],
    rng: random.Random,
    *,
    on_own_disk: bool = False,
) -> Iterator[str]:
    """Brings a run to its end, interrupted as planned, as long as it lasts.

    Args:
      workshop: what the runs share.
      folder: of the run.
      plan: what is to happen to it.
      rng: chooses what is damaged.
      on_own_disk: whether the run lies on a disk that may be filled.

    Yields:
      A line about every interruption, when it is over.

    Raises:
      UnexpectedEndError: the run did not end as it has to.
    """
    while True:
        run = workshop.start(folder)
        try:
            planned = next(plan, None)
            if planned is not None:
                planned.wait(run)
            if planned is None or run.process.poll() is not None:
                run.expect((0,))
                return
            planned.happen(run, rng, on_own_disk=on_own_disk)
            if run.is_finished():
                return
        finally:
            run.process.kill()
        yield f"{planned.kind:17} after {planned.seconds:4.1f} s, saved {saved_steps(folder)}"


def is_saving(run: Run) -> bool:
    """Says whether a checkpoint is half written."""
    folder = run.folder / "checkpoints"
    return folder.is_dir() and any(".partial" in path.name for path in folder.iterdir())


def damage_newest(folder: pathlib.Path, rng: random.Random) -> None:
    """Damages one file of the newest checkpoint, if there is another one before it."""
    steps = saved_steps(folder)
    if len(steps) < 2:
        return
    files = sorted((folder / "checkpoints" / str(steps[-1])).rglob("*"))
    path = rng.choice([file for file in files if file.is_file() and file.stat().st_size])
    contents = bytearray(path.read_bytes())
    how = rng.choice(("flip", "cut", "zero", "remove"))
    if how == "flip":
        contents[rng.randrange(len(contents))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del contents[rng.randrange(len(contents)) :]
    elif how == "zero":
        contents[:] = bytes(len(contents))
    path.write_bytes(contents)
    if how == "remove":
        path.unlink()


def differences(expected: pathlib.Path, got: pathlib.Path) -> list[str]:
    """Compares what two runs have come to: checkpoints bit for bit, records but for times."""
    steps = saved_steps(expected), saved_steps(got)
    faults = []
    if steps[0][-1:] != steps[1][-1:]:
        faults.append(f"the last checkpoints are {steps[0]} and {steps[1]}")
    for step in sorted(set(steps[0]) & set(steps[1])):
        pairs = zip(leaves(expected, step).items(), leaves(got, step).items(), strict=True)
        for (name, a), (other, b) in pairs:
            if (name, a.dtype, a.shape) != (other, b.dtype, b.shape) or a.tobytes() != b.tobytes():
                faults.append(f"checkpoint {step} differs in {name}")
    if records(expected) != records(got):
        faults.append(f"the records differ: {records(expected)} and {records(got)}")
    return faults


def leaves(run: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """Returns the arrays of a checkpoint by name."""
    with warnings.catch_warnings(action="ignore"):  # that they go to the devices they came from
        tree = ocp.load(str((run / "checkpoints" / str(step)).absolute()))
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def records(run: pathlib.Path) -> list[dict[str, Any]]:
    """Returns what metrics.jsonl tells of the training."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in MEASURED}
        for line in lines
    ]


def main() -> None:
    """Interrupts and compares."""
    parser = argparse.ArgumentParser(description="Interrupts runs.")
    parser.add_argument("--times", type=int, default=20, help="interruptions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=8, help="of each run")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with (
        tempfile.TemporaryDirectory() as name,
        own_disk(pathlib.Path(name) / "disk") as on_own_disk,
    ):
        folder = pathlib.Path(name)
        data = write_rectangles(folder / "data", train=TRAIN, val=VAL)
        workshop = Workshop(data, folder / "programs", options.epochs)
        for undisturbed in ("first", "whole"):  # the first one compiles
            started = time.monotonic()
            workshop.start(folder / undisturbed).expect((0,))
        duration = time.monotonic() - started
        faults = differences(folder / "first", folder / "whole")
        if faults:
            raise SystemExit(f"undisturbed runs are not repeatable: {'; '.join(faults)}")
        disk = "a disk of its own" if on_own_disk else "limited files"
        print(f"undisturbed: {duration:.0f} s, {len(records(folder / 'whole'))} epochs; {disk}")
        # Every kind as often as the others, in random order.
        kinds = itertools.chain.from_iterable(
            rng.sample(KINDS, len(KINDS)) for _ in itertools.count()
        )
        plan = (
            Interruption(
                kind,
                seconds=rng.uniform(0, duration),
                largest_file=rng.choice((ARRAYS_TOO_LARGE, ALL_TOO_LARGE)),
            )
            for kind in kinds
        )
        happened = 0
        for number in itertools.count(1):
            run = folder / "disk" / f"run{number}"
            left = itertools.islice(plan, options.times - happened)
            for line in disturb(workshop, run, left, rng, on_own_disk=on_own_disk):
                happened += 1
                print(f"{happened:3d} {line}", flush=True)
            faults = differences(folder / "whole", run)
            if faults:
                raise SystemExit(f"{run.name} differs: {'; '.join(faults)}")
            print(f"{run.name}: the same as undisturbed", flush=True)
            if happened == options.times:
                break


if __name__ == "__main__":
    main()
