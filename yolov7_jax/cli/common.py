"""What the commands share."""

import contextlib
import itertools
import math
import os
import pathlib
import signal
import sys
import time
import types
import warnings
from collections.abc import Iterator
from typing import Any

import jax

from yolov7_jax.errors import UserError
from yolov7_jax.model import Yolov7
from yolov7_jax.signals import on_stop_signal

FORMS = {
    "training": "training form",
    "released": "plain head, no auxiliary heads",
    "deployed": "deployed",
}

# Seconds in which a signal may come twice and is one: `timeout` sends it to the process and to its
# group. The second would end what the first has begun: completing the files.
SAME_SIGNAL = 1.0

UNREADABLE = 1  # exit code: some images could not be read, all else was done

_signal: int | None = None  # the last that was to end the work
_signal_came = -math.inf  # on the monotonic clock

# How JAX begins its warnings of compiled programs on disk.
UNREADABLE_PROGRAM = "Error reading persistent compilation cache entry"
UNWRITABLE_PROGRAM = "Error writing persistent compilation cache entry"

Commands = Any  # what argparse's add_subparsers returns, a class without a public name


def described(model: Yolov7) -> str:
    """Returns a model in a few words."""
    return f"{model.name}, {FORMS[model.form]}, {model.head.num_classes} classes"


def printable(text: str) -> str:
    """Returns a text from a file with whatever could move a terminal's cursor written out."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


@contextlib.contextmanager
def stopping_for_sure() -> Iterator[None]:
    """Lets SIGTERM end the work as Ctrl-C does, and remembers either for `stop_if_wanted`.

    They have to be remembered, because JAX loses an exception that comes while it compiles.
    """

    def note(number: int, frame: types.FrameType | None) -> None:
        global _signal, _signal_came
        before, _signal_came = _signal_came, time.monotonic()
        repeated, _signal = number == _signal, number
        if not repeated or _signal_came - before > SAME_SIGNAL:
            raise KeyboardInterrupt

    forget_stop()
    with on_stop_signal(note):
        yield


def stopped_by() -> signal.Signals:
    """Returns the signal that ended the work with a KeyboardInterrupt."""
    return signal.Signals(_signal or signal.SIGINT)


def forget_stop() -> None:
    """Forgets a Ctrl-C that ended only a part of the work."""
    global _signal
    _signal = None


def stop_if_wanted() -> None:
    """Raises KeyboardInterrupt where a signal came since `stopping_for_sure`."""
    if _signal is not None:
        raise KeyboardInterrupt


def new_folder(wanted: str | None, usual: pathlib.Path) -> pathlib.Path:
    """Makes the folder that a command writes to, so that no file of another is replaced.

    Args:
      wanted: must not exist, or be empty. None: the usual one, or the first of usual-2, usual-3 ...
        that does not exist.
      usual: see there.

    Raises:
      UserError: the folder that is wanted has something in it, or has no name.
      OSError: it cannot be made.
    """
    if wanted is None:
        for number in itertools.count(1):
            folder = usual if number == 1 else usual.with_name(f"{usual.name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True)  # or another start has it
                return folder
    if not wanted:
        raise UserError("--output must not be empty")
    folder = pathlib.Path(os.path.expanduser(wanted))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output (={wanted}) is a file; it must be a new folder, or an empty one")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"--output (={wanted}) exists; it must be a new folder, or an empty one")
    return folder


@contextlib.contextmanager
def folder_if_filled(wanted: str | None, usual: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a folder as `new_folder` does; at the end it goes again if nothing was written.

    Raises:
      UserError, OSError: as `new_folder` does.
    """
    asked = usual if wanted is None else pathlib.Path(os.path.expanduser(wanted))
    made = [folder for folder in asked.parents if not folder.exists()]
    mine = wanted is None or not asked.exists()
    folder = new_folder(wanted, usual)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # something lies in it
            for empty in [folder, *made] if mine else []:
                empty.rmdir()


def check_not_source(target: pathlib.Path, source: pathlib.Path, flag: str) -> None:
    """Refuses to replace weights by what is made of them.

    Args:
      target: the file that is to be written.
      source: where the weights lie.
      flag: what the user gives another target by.

    Raises:
      UserError: both are the same file.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"{target}: is the file of weights itself; give another {flag}")


def keep_compiled() -> None:
    """Keeps compiled programs on disk for the next start, unless JAX is told where already."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = pathlib.Path.home() / ".cache" / "yolov7_jax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # All of them: there are dozens of small ones.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        _warn_once_of(folder)


def _warn_once_of(folder: pathlib.Path) -> None:
    """Makes one line of JAX's warnings of each program that it cannot read or write."""
    show, told = warnings.showwarning, False

    def show_once(message: Warning | str, *where: Any) -> None:
        nonlocal told
        if not str(message).startswith((UNREADABLE_PROGRAM, UNWRITABLE_PROGRAM)):
            show(message, *where)
            return
        if told:
            return
        told = True
        if str(message).startswith(UNWRITABLE_PROGRAM) or not folder.is_dir():
            fault = "cannot be written, so programs are compiled anew at every start"
        else:
            fault = "is damaged, so programs are compiled anew; the folder may be deleted"
        print(f"warning: {folder} {fault}", file=sys.stderr)

    warnings.showwarning = show_once
