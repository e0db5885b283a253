"""The folder of a run: what its files are called, and whether it may be written to or continued."""

import pathlib
import tempfile

import jax
import numpy as np

from train.batch import Batch
from train.checkpoint import CHECKPOINT_FOLDER
from train.data.fingerprint import COVERED, changed_splits, fingerprints
from train.records import METRICS_FILE
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.errors import UserError

CONFIG_FILE = "config.yaml"
DATA_FILE = "data.sha256"
SHEET_FILE = "detections.png"
REPORT_FILE = "report.html"
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
            f"{folder} holds a run already; continue it with `python -m train resume {folder}` "
            "or choose another --output"
        )
    remains = [name for name in RUN_FILES if (folder / name).exists()]
    if remains:
        raise UserError(
            f"{folder} has {', '.join(remains)} of another run, but no complete checkpoint; "
            "remove them or choose another --output"
        )


def write_fingerprints(run: pathlib.Path, splits: dict[str, Dataset]) -> None:
    """Keeps what tells whether the data are still the same when the run is continued."""
    (run / DATA_FILE).write_text(fingerprints(splits), encoding="utf-8")


def check_same_data(run: pathlib.Path, splits: dict[str, Dataset]) -> None:
    """Refuses to continue a run on other data than it was started with.

    Raises:
      UserError: names the splits that have changed.
    """
    path = run / DATA_FILE
    changed = changed_splits(splits, path.read_text(encoding="utf-8") if path.is_file() else "")
    if changed:
        raise UserError(
            f"{run}: the data have changed since the run was started ({COVERED} of "
            f"{' and '.join(changed)}); it cannot be continued exactly, so start a new one with "
            "`fit`"
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


def as_json(value: float | None) -> float | None:
    """Returns a number as JSON can hold it: what is undefined is null."""
    return None if value is None or not np.isfinite(value) else float(value)
