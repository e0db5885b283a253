"""The command line, `yolov7-jax`: a module for each command."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence

import jax

from yolov7_jax import __version__
from yolov7_jax.cli.commands import stopping_for_sure
from yolov7_jax.cli.convert import add_convert
from yolov7_jax.cli.export import add_export
from yolov7_jax.cli.info import add_info
from yolov7_jax.cli.predict import add_predict
from yolov7_jax.cli.val import add_val
from yolov7_jax.errors import is_out_of_memory

WRONG_USE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: what follows the program's name; those of the process if not given.

    Returns:
      The exit code: 0; 1 if all was done but some pictures could not be read; 2 for wrong use and
      files that cannot be read or written; or 128 + n for signal n.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that a terminal cannot show
    options = _parser().parse_args(arguments)
    try:
        with stopping_for_sure():
            code = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter must not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ImportError, MemoryError, OSError, ValueError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return WRONG_USE
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return code or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="yolov7-jax", description="YOLOv7 for JAX.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add_predict(commands)
    add_info(commands)
    add_convert(commands)
    add_export(commands)
    add_val(commands)
    return parser


def _one_line(error: Exception) -> str:
    if is_out_of_memory(error):
        return "this needs more memory than there is; smaller batches or pictures need less"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
