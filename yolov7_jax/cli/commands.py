"""What the commands share."""

import os
import pathlib
from typing import Any

import jax

from yolov7_jax.model import Yolov7

FORMS = {
    "training": "training form",
    "released": "plain head, no auxiliary heads",
    "deployed": "deployed",
}

Commands = Any  # what argparse's add_subparsers returns, a class without a public name


def described(model: Yolov7) -> str:
    """Returns a model in a few words."""
    return f"{model.name}, {FORMS[model.form]}, {model.head.num_classes} classes"


def printable(text: str) -> str:
    """Returns a text from a file with whatever could move a terminal's cursor written out."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def keep_compiled() -> None:
    """Keeps compiled programs on disk for the next start, unless JAX is told where already."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = pathlib.Path.home() / ".cache" / "yolov7_jax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
