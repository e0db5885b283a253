"""Checkpoints of a run: written while it goes on, checked when it starts again."""

import errno
import json
import pathlib
import re
import shutil
import types
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import jax
from orbax.checkpoint import v1 as ocp

from yolov7_jax.errors import UserError
from yolov7_jax.files import write_whole
from yolov7_jax.training.distributed import any_process, is_first, run_on_first
from yolov7_jax.training.manifest import find_damage, write_manifest
from yolov7_jax.training.orbax_logging import quieten_orbax

CHECKPOINT_FOLDER = "checkpoints"
NEWEST_KEPT = 2  # should the last be damaged, there is one before
DAMAGED, PARTIAL, REMOVED = ".damaged", ".partial", ".removed"
FAULTS_SHOWN = 3  # of the hundreds that another model gives
REASON_SHOWN = 300  # characters of what another library has to say

_COMPLETE = re.compile(r"0|[1-9][0-9]*")
# Half-written and half-deleted ones, under our names and those that orbax gives.
_LEFTOVER = re.compile(r"\d+(\.partial|\.removed|(\.partial)?\.orbax-checkpoint-tmp)")

Kept = dict[int, float | None]  # AP of each checkpoint, by step


class Checkpoints:
    """The checkpoints in a run's folder, a context manager.

    A folder named by a step is a complete checkpoint. It gets this name when all of it is written,
    a list of its files and their checksums included, and loses it before any of it is deleted, so
    an interruption at any moment leaves whole ones. The last two and the one with the highest AP
    are kept. Several processes call everything here together; the first one writes and decides.

    Attributes:
      rejected: for each checkpoint that was found damaged, a sentence about what is wrong.
    """

    def __init__(self, run: pathlib.Path, description: Mapping[str, Any]):
        """Opens the folder, and puts damaged checkpoints aside.

        Args:
          run: the run's folder.
          description: what else is written with every checkpoint, as JSON.

        Raises:
          UserError: there are checkpoints, but all are damaged; they stay as they are.
        """
        self._run, self._folder = run, run / CHECKPOINT_FOLDER
        self._description = dict(description)
        quieten_orbax()
        kept, rejected = run_on_first(lambda: _open(self._folder))
        self._kept: Kept = dict(kept)
        self.rejected: tuple[str, ...] = tuple(rejected)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        # Step, bytes, and what is kept then, with what has failed.
        self._saving: tuple[int, int, Future[tuple[Kept, OSError | None]]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            # After an error a checkpoint under way is still completed, but not talked about; never
            # if a process is gone, though.
            self._writer.shutdown(wait=not isinstance(error, jax.errors.JaxRuntimeError))

    def save(self, step: int, tree: Any, *, epoch: int | None = None) -> None:
        """Starts to write a checkpoint; returns as soon as the arrays may change.

        Waits for the one before, of which there is never more than one under way.

        Args:
          step: steps done, the checkpoint's name. One that exists stays: runs are deterministic.
          tree: arrays; they may be donated afterwards.
          epoch: the last one finished, counted from 0; None before.

        Raises:
          UserError: this one or the one before could not be written.
        """
        self.wait()
        if step in self._kept:
            return
        described = self._description | ({} if epoch is None else {"epoch": epoch})
        size = sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(tree))
        try:
            partial = self._folder.absolute() / f"{step}{PARTIAL}"
            response = ocp.save_async(str(partial), tree, custom_metadata=described)
        except Exception as error:  # orbax promises no kind
            raise self._failed(step, size, error) from error
        self._saving = step, size, self._writer.submit(self._finish, response, step)

    def _finish(self, response: Any, step: int) -> tuple[Kept, OSError | None]:
        """Completes a checkpoint, in a thread of its own, and removes those it replaces.

        Returns:
          What is kept, and why the first process could not complete what all have written, if so.

        Raises:
          Exception: this process could not write its part.
        """
        response.result()
        found = self._kept | {step: None}
        kept = _worth_keeping(found)
        if is_first():
            partial = self._folder / f"{step}{PARTIAL}"
            try:
                write_manifest(partial)
                partial.rename(self._folder / str(step))
            except OSError as error:
                return self._kept, error
            for old in found.keys() - kept.keys():
                _remove(self._folder / str(old))
        return kept, None

    def rate(self, step: int, ap: float | None) -> None:
        """Notes how accurate a checkpoint is, once that is known: the best one is kept.

        Args:
          step: the checkpoint's name. One that is not kept any more is passed over.
          ap: on the validation split; None changes nothing.

        Raises:
          UserError: this or the checkpoint under way could not be written.
        """
        if ap is None:
            return
        self.wait()
        if step not in self._kept or self._kept[step] == ap:
            return
        fault = None
        if is_first():
            try:
                _write_ap(self._folder / str(step), ap)
            except OSError as error:
                fault = error
        if any_process(fault is not None):
            raise UserError(
                f"{self._folder / str(step)}: its AP could not be noted: "
                f"{'another process failed' if fault is None else _reason(fault)}; the checkpoint "
                f"itself is whole; continue with `yolov7-jax resume {self._run}`"
            ) from fault
        self._kept[step] = ap

    def wait(self) -> None:
        """Returns when the checkpoint under way, if any, is complete on disk.

        Raises:
          UserError: it could not be written.
        """
        if self._saving is None:
            return
        (step, size, future), self._saving = self._saving, None
        try:
            kept, fault = future.result()
        except Exception as error:  # orbax promises no kind
            # The others wait in orbax for this process, and can agree on nothing. That it ends is
            # what ends them.
            raise self._failed(step, size, error) from error
        if any_process(fault is not None):
            raise self._failed(step, size, fault) from fault
        self._kept = kept

    def _failed(self, step: int, size: int, error: Exception | None) -> UserError:
        """Returns what to tell about a checkpoint that could not be written; clears its remains."""
        if is_first():
            _remove_leftovers(self._folder)
        last = self.last_step
        before = "there is none before it" if last is None else f"checkpoint {last} is still whole"
        reason = "another process failed" if error is None else _reason(error)
        free = shutil.disk_usage(self._run).free
        return UserError(
            f"{self._folder}: checkpoint {step} could not be written: {reason}; it takes up to "
            f"{_megabytes(size)}, {_megabytes(free)} are free; {before}; once this is fixed, "
            f"continue with `yolov7-jax resume {self._run}`"
        )

    @property
    def last_step(self) -> int | None:
        """Steps done in the last complete checkpoint; None without one."""
        return max(self._kept, default=None)

    def description(self) -> dict[str, Any]:
        """Returns what was written with the last checkpoint, that of `last_step`.

        Raises:
          UserError: it cannot be read.
        """
        path = self._folder / str(self.last_step)
        try:
            described: Any = ocp.metadata(str(path.absolute())).custom_metadata
            return described if isinstance(described, dict) else {}
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{path}: cannot be read: {_reason(error)}") from error

    def load(self, tree: Any, sharding: Any) -> Any:
        """Reads the last checkpoint, that of `last_step`.

        Args:
          tree: arrays or abstract arrays with the structure, shapes and types wanted.
          sharding: how the arrays are to lie on the devices: one for all, or a tree of them whose
            leaves stand for whole branches of `tree`. The devices need not be those that wrote.

        Returns:
          A tree like `tree`.

        Raises:
          UserError: the checkpoint does not hold such a tree.
        """
        self.wait()
        abstract = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            jax.tree.broadcast(sharding, tree),
        )
        path = self._folder / str(self.last_step)
        try:
            saved = ocp.metadata(str(path.absolute())).metadata
            faults = _differences(_arrays(saved), _arrays(tree))
            if not faults:
                return ocp.load(str(path.absolute()), abstract)
        except (ValueError, KeyError, TypeError, OSError) as error:
            faults = [_reason(error)]
        more = f" and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        raise UserError(
            f"{path}: is no checkpoint of this model: {'; '.join(faults[:FAULTS_SHOWN])}{more}"
        )


def _open(folder: pathlib.Path) -> tuple[list[tuple[int, float | None]], list[str]]:
    """Puts damaged checkpoints aside.

    Returns:
      The others with their AP, and what is wrong with the damaged ones.

    Raises:
      UserError: there are only damaged ones, or the folder cannot be read or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        names = [path.name for path in folder.iterdir() if _COMPLETE.fullmatch(path.name)]
        damage = {step: find_damage(folder / str(step)) for step in sorted(map(int, names))}
        intact = [step for step in damage if damage[step] is None]
        faults = {step: fault for step, fault in damage.items() if fault is not None}
        if faults and not intact:
            listed = "; ".join(f"{step}: {fault}" for step, fault in faults.items())
            raise UserError(f"{folder}: no checkpoint is whole: {listed}")
        for step in faults:
            _put_aside(folder / str(step))
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror}") from error
    rejected = [
        f"checkpoint {step} is damaged: {fault}; it is now called {step}{DAMAGED}"
        for step, fault in faults.items()
    ]
    return [(step, _read_ap(folder / str(step))) for step in intact], rejected


def _worth_keeping(found: Kept) -> Kept:
    """Returns the last checkpoints, and the first of those with the highest AP."""
    steps = sorted(found)
    evaluated = {step: ap for step in steps if (ap := found[step]) is not None}
    best = [max(evaluated, key=lambda step: evaluated[step])] if evaluated else []
    return {step: found[step] for step in steps if step in steps[-NEWEST_KEPT:] + best}


def _ap_file(checkpoint: pathlib.Path) -> pathlib.Path:
    return checkpoint / "metrics" / "metrics"  # where orbax's own Checkpointer has them


def _write_ap(checkpoint: pathlib.Path, ap: float) -> None:
    _ap_file(checkpoint).parent.mkdir(exist_ok=True)
    write_whole(_ap_file(checkpoint), json.dumps({"ap": ap}).encode())


def _read_ap(checkpoint: pathlib.Path) -> float | None:
    try:
        return json.loads(_ap_file(checkpoint).read_text(encoding="utf-8"))["ap"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # metrics.jsonl has it, too


def _put_aside(checkpoint: pathlib.Path) -> None:
    """Renames a damaged checkpoint, so that its step can be saved again."""
    aside = checkpoint.with_name(checkpoint.name + DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def _remove(checkpoint: pathlib.Path) -> None:
    """Deletes a checkpoint; interrupted half-way, it is none any more."""
    removed = checkpoint.with_name(checkpoint.name + REMOVED)
    try:
        checkpoint.rename(removed)
    except OSError:
        return  # an old checkpoint too many is no reason to stop
    shutil.rmtree(removed, ignore_errors=True)


def _remove_leftovers(folder: pathlib.Path) -> None:
    for path in folder.iterdir():
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _reason(error: BaseException) -> str:
    """Returns in a few words what another library's error is about."""
    text = " ".join(str(error).split())
    cause: BaseException | None = error
    while cause is not None:
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(cause):
            return "the disk is full"
        if number == errno.EFBIG or "File too large" in str(cause):
            return "files may not grow so large (ulimit -f)"
        cause = cause.__cause__ or cause.__context__
    return text[:REASON_SHOWN] or type(error).__name__


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _arrays(tree: Any) -> dict[str, str]:
    """Returns type and shape of every array by its path, whatever kinds of nodes lead to it."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype} {tuple(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _differences(saved: dict[str, str], wanted: dict[str, str]) -> list[str]:
    return [
        *(f"{name} is missing" for name in wanted if name not in saved),
        *(f"{name} is not wanted" for name in saved if name not in wanted),
        *(
            f"{name} is {saved[name]}, wanted {array}"
            for name, array in wanted.items()
            if saved.get(name, array) != array
        ),
    ]
