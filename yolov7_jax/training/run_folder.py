"""The folder of a run: what its files are called, and whether it may be written to or continued."""

import contextlib
import fcntl
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.errors import UserError
from yolov7_jax.training.batch import Batch
from yolov7_jax.training.checkpoint import CHECKPOINT_FOLDER, FAULTS_SHOWN
from yolov7_jax.training.distributed import run_on_first
from yolov7_jax.training.fingerprint import COVERED, changed_splits, fingerprints
from yolov7_jax.training.metrics_file import METRICS_FILE
from yolov7_jax.training.train_config import CONFIG_FILE, TrainConfig, fixed_settings

DATA_FILE = "data.sha256"
SHEET_FILE = "detections.png"
REPORT_FILE = "report.html"
LOCK_FILE = ".lock"
RUN_FILES = (CONFIG_FILE, METRICS_FILE, CHECKPOINT_FOLDER)


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder that can be written to.

    Raises:
      UserError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{folder}: cannot be written to: {reason}") from error


def free_folder(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder, or the first of folder-2, folder-3 ... that does not exist."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate = folder.with_name(f"{folder.name}-{number}")
        number += 1
    return candidate


def _is_used(path: pathlib.Path) -> bool:
    """Says whether there is a file, or a folder with something in it."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def holds_run(folder: pathlib.Path) -> bool:
    """Says whether a folder is that of a run with a complete checkpoint."""
    checkpoints = folder / CHECKPOINT_FOLDER
    # Unfinished checkpoints have longer names.
    complete = checkpoints.is_dir() and any(path.name.isdigit() for path in checkpoints.iterdir())
    return complete and (folder / CONFIG_FILE).is_file()


def check_free(folder: pathlib.Path) -> None:
    """Refuses to start a run in a folder that has one.

    Raises:
      UserError: says what is there, and how to continue it.
    """
    if (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{folder} holds a run already; continue it with `yolov7-jax resume {folder}` "
            "or choose another --output"
        )
    remains = [name for name in RUN_FILES if _is_used(folder / name)]
    if remains:
        raise UserError(
            f"{folder} has {', '.join(remains)} of another run, but no complete checkpoint; "
            "remove them or choose another --output"
        )


@contextlib.contextmanager
def claimed(run: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of a folder; they are told so at once.

    It is the first process that does so; a process that is killed has not claimed anything.

    Raises:
      UserError: another run has it, in all processes.
    """
    with contextlib.ExitStack() as stack:

        def claim() -> None:
            try:
                file = stack.enter_context((run / LOCK_FILE).open("w"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{run}: another run is at work in this folder; wait for its end, or choose "
                    "another --output"
                ) from None
            except OSError:
                pass  # some network file systems have no locks

        run_on_first(claim)
        yield


def write_fingerprints(run: pathlib.Path, splits: dict[str, Dataset]) -> None:
    """Keeps what tells whether the data are still the same when the run is continued."""
    (run / DATA_FILE).write_text(fingerprints(splits), encoding="utf-8")


def check_same_data(run: pathlib.Path, splits: dict[str, Dataset]) -> None:
    """Refuses to continue a run on other data than it was started with.

    Raises:
      UserError: names the splits that have changed.
    """
    path = run / DATA_FILE
    if not path.is_file():
        raise UserError(f"{path}: is missing, which tells whether the data are still the same")
    changed = changed_splits(splits, path.read_text(encoding="utf-8"))
    if changed:
        raise UserError(
            f"{run}: the data have changed since the run was started ({COVERED} of "
            f"{' and '.join(changed)}); it cannot be continued exactly, so start a new one with "
            "`train`"
        )


def check_same_settings(
    run: pathlib.Path, config: TrainConfig, described: Mapping[str, Any]
) -> None:
    """Refuses to continue a run with other settings than it was started with.

    Args:
      run: the run's folder.
      config: the settings now.
      described: what was written with the checkpoint.

    Raises:
      UserError: names the settings that have changed.
    """
    now, before = fixed_settings(config), described.get("settings", {})
    changed = [
        f"{name} is {now[name]!r} and was {before.get(name)!r}"
        for name in now
        if now[name] != before.get(name)
    ]
    if changed:
        more = f" and {len(changed) - FAULTS_SHOWN} more" if len(changed) > FAULTS_SHOWN else ""
        raise UserError(
            f"{run / CONFIG_FILE}: was changed since the run was started: "
            f"{', '.join(changed[:FAULTS_SHOWN])}{more}; a run is continued as it was started, so "
            "change it back, or start a new run with `train`"
        )


def save_batch(run: pathlib.Path, step: int, batch: Batch) -> pathlib.Path:
    """Keeps a batch for inspection: the part that this process has.

    Args:
      run: the run's folder.
      step: which step saw it.
      batch: numpy arrays.

    Returns:
      The file, which `np.load` opens.
    """
    process = f"-process-{jax.process_index()}" if jax.process_count() > 1 else ""
    path = run / f"skipped-batch-{step}{process}.npz"
    np.savez_compressed(path, images=batch.images, **batch.targets._asdict())
    return path
