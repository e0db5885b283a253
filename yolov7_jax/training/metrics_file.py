"""metrics.jsonl: a record of every epoch of a run.

A record is written after the checkpoint of its epoch, once the epoch is evaluated. A run that
continues drops the records that are later than its checkpoint, and begins with the evaluation where
the checkpoint's own record is missing. So in the end every epoch has one record.
"""

import json
import os
import pathlib
from typing import Any

from yolov7_jax.errors import UserError
from yolov7_jax.files import write_whole

METRICS_FILE = "metrics.jsonl"


def read_records(run: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the epochs in a run's metrics.jsonl, first to last; none if there is no such file.

    A last line that an interruption cut short is left out.

    Raises:
      UserError: another line is not the record of an epoch, or the file cannot be read.
    """
    path = run / METRICS_FILE
    try:
        # A line that was cut short may end within a character.
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    lines = text.splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
            if number == len(lines):
                break
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise UserError(f"{path}:{number}: is not the record of an epoch; fix or remove it")
        records.append(record)
    return records


def append_record(run: pathlib.Path, record: dict[str, Any]) -> None:
    """Adds an epoch to a run's metrics.jsonl: the whole line, on disk, or nothing.

    Raises:
      UserError: the line cannot be written.
    """
    line = _line(record)
    path = run / METRICS_FILE
    try:
        with path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                written = file.write(line)
                if written < len(line):
                    file.write(line[written:])  # which says why
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise _unwritable(path, error) from error


def truncate_records(run: pathlib.Path, step: int) -> list[dict[str, Any]]:
    """Drops the epochs that ended after a step, so that a continued run writes none twice.

    Returns:
      The epochs that remain.

    Raises:
      UserError: the file cannot be read or written, or a line is not the record of an epoch.
    """
    path = run / METRICS_FILE
    records = [record for record in read_records(run) if record["step"] <= step]
    try:
        write_whole(path, (_line(record) for record in records))
    except OSError as error:
        raise _unwritable(path, error) from error
    return records


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, allow_nan=False) + "\n").encode()


def _unwritable(path: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be written: {error.strerror}; what was in it is still there. "
        "The run can be continued from its last checkpoint once this is fixed"
    )
