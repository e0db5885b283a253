"""What a run's folder keeps: the last and the best checkpoint, and a record of every epoch."""

import json
import logging
import pathlib
import types
from collections.abc import Mapping
from typing import Any, Self

import jax
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from train.errors import UserError

CHECKPOINT_FOLDER = "checkpoints"
METRICS_FILE = "metrics.jsonl"
FAULTS_SHOWN = 3  # of the hundreds that another model gives


class Checkpoints:
    """The checkpoints in a run's folder, a context manager.

    Each is written to a temporary folder and renamed, so an interrupted save leaves the one before
    in place. The last one and the one with the highest AP are kept.
    """

    def __init__(self, run: pathlib.Path, description: Mapping[str, Any]):
        """Opens the folder.

        Args:
          run: the run's folder.
          description: what else is written with every checkpoint, as JSON.
        """
        self._description = dict(description)
        # orbax and absl tell of every save; errors come as exceptions anyway.
        logging.getLogger("absl").setLevel(logging.ERROR)
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            str((run / CHECKPOINT_FOLDER).absolute()),
            # orbax's policies and their protocol disagree about a type.
            preservation_policy=policies.AnyPreservationPolicy(  # type: ignore[arg-type]
                [
                    policies.LatestN(1),
                    policies.BestN(
                        get_metric_fn=lambda metrics: metrics["ap"],
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._checkpointer.close()

    def save(self, step: int, tree: Any, *, ap: float | None, epoch: int | None = None) -> None:
        """Writes a checkpoint; returns when it is complete on disk.

        Args:
          step: steps done, the checkpoint's name. One that exists stays: runs are deterministic.
          tree: arrays.
          ap: accuracy on the validation split; None for a checkpoint in the middle of an epoch.
          epoch: the last one finished, counted from 0; None before.
        """
        if step in [checkpoint.step for checkpoint in self._checkpointer.checkpoints]:
            return
        metrics: Any = None if ap is None else {"ap": ap}
        described = self._description | ({} if epoch is None else {"epoch": epoch})
        self._checkpointer.save(step, tree, force=True, metrics=metrics, custom_metadata=described)
        self._checkpointer.wait()

    @property
    def last_step(self) -> int | None:
        """Steps done in the last checkpoint; None without one."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def load(self, tree: Any, sharding: Sharding) -> Any:
        """Reads the last checkpoint.

        Args:
          tree: arrays or abstract arrays with the structure, shapes and types wanted.
          sharding: how the arrays are to lie on the devices.

        Returns:
          A tree like `tree`.

        Raises:
          UserError: the checkpoint does not hold such a tree.
        """
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )
        step = self.last_step
        path = self._checkpointer.directory / str(step)
        try:
            faults = _differences(
                _shapes(self._checkpointer.metadata(step).metadata), _shapes(tree)
            )
            if not faults:
                return self._checkpointer.load(step, abstract)
        except (ValueError, KeyError, TypeError, OSError) as error:
            faults = [" ".join(str(error).split())[:300]]
        more = f" and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        raise UserError(
            f"{path}: is no checkpoint of this model: {'; '.join(faults[:FAULTS_SHOWN])}{more}"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every leaf by its path, whatever kinds of nodes lead to it."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _differences(
    saved: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]
) -> list[str]:
    missing = [f"{name} is missing" for name in wanted if name not in saved]
    surplus = [f"{name} is not wanted" for name in saved if name not in wanted]
    misshapen = [
        f"{name} has the shape {saved[name]}, wanted {shape}"
        for name, shape in wanted.items()
        if saved.get(name, shape) != shape
    ]
    return missing + surplus + misshapen


def read_records(run: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the epochs in a run's metrics.jsonl, first to last; none if there is no such file.

    A last line that an interruption cut short is left out.

    Raises:
      UserError: another line is not the record of an epoch.
    """
    path = run / METRICS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
            if number == len(lines):
                break
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise UserError(f"{path}:{number}: is not the record of an epoch; mend or remove it")
        records.append(record)
    return records


def append_record(run: pathlib.Path, record: dict[str, Any]) -> None:
    """Adds an epoch to a run's metrics.jsonl."""
    with (run / METRICS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def truncate_records(run: pathlib.Path, step: int) -> list[dict[str, Any]]:
    """Drops the epochs that ended after a step, so that a continued run writes none twice.

    Returns:
      The epochs that remain.
    """
    records = [record for record in read_records(run) if record["step"] <= step]
    text = "".join(json.dumps(record) + "\n" for record in records)
    temporary = run / f"{METRICS_FILE}.tmp"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(run / METRICS_FILE)
    return records
