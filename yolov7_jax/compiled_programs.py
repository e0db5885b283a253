"""Compiled programs, kept on disk for the next start of a command."""

import os
import pathlib
import sys
import warnings
from typing import Any

import jax

# How JAX begins its warnings of compiled programs on disk.
UNREADABLE_PROGRAM = "Error reading persistent compilation cache entry"
UNWRITABLE_PROGRAM = "Error writing persistent compilation cache entry"


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
