"""What the commands share."""

import contextlib
import itertools
import os
import pathlib
import signal
import threading
import types
from collections.abc import Iterator
from typing import Any

import jax

from yolov7_jax.errors import UserError
from yolov7_jax.model import Yolov7

FORMS = {
    "training": "training form",
    "released": "plain head, no auxiliary heads",
    "deployed": "deployed",
}

UNREADABLE = 1  # exit code: some pictures could not be read, all else was done

_stop = threading.Event()

Commands = Any  # what argparse's add_subparsers returns, a class without a public name


def described(model: Yolov7) -> str:
    """Returns a model in a few words."""
    return f"{model.name}, {FORMS[model.form]}, {model.head.num_classes} classes"


def printable(text: str) -> str:
    """Returns a text from a file with whatever could move a terminal's cursor written out."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


@contextlib.contextmanager
def stopping_for_sure() -> Iterator[None]:
    """Remembers Ctrl-C for `stop_if_wanted`, because JAX loses one that comes while it compiles."""

    def note(number: int, frame: types.FrameType | None) -> None:
        _stop.set()
        signal.default_int_handler(number, frame)

    _stop.clear()
    if threading.current_thread() is not threading.main_thread():
        yield  # no other may handle signals
        return
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield  # as under nohup
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def forget_stop() -> None:
    """Forgets a Ctrl-C that ended only a part of the work."""
    _stop.clear()


def stop_if_wanted() -> None:
    """Raises KeyboardInterrupt where Ctrl-C was pressed since `stopping_for_sure`."""
    if _stop.is_set():
        raise KeyboardInterrupt


def new_folder(wanted: str | None, usual: pathlib.Path) -> pathlib.Path:
    """Makes the folder that a command writes to, so that no file of another is replaced.

    Args:
      wanted: must not exist, or be empty. None: the usual one, or the first of usual-2, usual-3 ...
        that does not exist.
      usual: see there.

    Raises:
      UserError: the folder that is wanted has something in it.
      OSError: it cannot be made.
    """
    if wanted is None:
        for number in itertools.count(1):
            folder = usual if number == 1 else usual.with_name(f"{usual.name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True)  # or another start has it
                return folder
    folder = pathlib.Path(os.path.expanduser(wanted or usual))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output (={wanted}) is a file; it must be a new folder, or an empty one")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"--output (={wanted}) exists; it must be a new folder, or an empty one")
    return folder


def keep_compiled() -> None:
    """Keeps compiled programs on disk for the next start, unless JAX is told where already."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = pathlib.Path.home() / ".cache" / "yolov7_jax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # All of them: there are dozens of small ones.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
