"""The command line, `yolov7-jax`: a module for each command."""

import argparse
import difflib
import io
import itertools
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import jax

from yolov7_jax import __version__
from yolov7_jax.cli.common import stopped_by, stopping_for_sure
from yolov7_jax.cli.convert import add_convert
from yolov7_jax.cli.export import add_export
from yolov7_jax.cli.info import add_info
from yolov7_jax.cli.predict import add_predict
from yolov7_jax.cli.val import add_val
from yolov7_jax.errors import is_out_of_memory

WRONG_USE = 2
TRAINING = ("train", "resume", "check", "anchors", "preview")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: what follows the program's name; those of the process if not given.

    Returns:
      The exit code: 0; 1 if all was done but some images could not be read; 2 for wrong use and
      files that cannot be read or written; or 128 + n for signal n.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that a terminal cannot show
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in TRAINING:
        from yolov7_jax.training.command import run_program  # needs the extra `train`

        return run_program(list(arguments))
    options = _parsed(arguments)
    try:
        with stopping_for_sure():
            code = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter must not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ImportError, MemoryError, OSError, ValueError) as error:
        print(f"error: {_with_flags(_one_line(error), options)}", file=sys.stderr)
        return WRONG_USE
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print(f"interrupted by {stopped_by().name}", file=sys.stderr)
        return 128 + stopped_by()
    return code or 0


class _Parser(argparse.ArgumentParser):
    """Tells of a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f"error: {message}; see {self.prog} --help\n")

    def refuse_unknown_flags(self, arguments: Sequence[str]) -> None:
        """Ends the program at a flag that does not exist, of which argparse tells last."""
        known = self._option_string_actions
        for argument in itertools.takewhile(lambda argument: argument != "--", arguments):
            flag = argument.partition("=")[0]
            # The beginning of a flag will do; with a space in it, it is a value.
            if not flag.startswith("--") or " " in flag or any(n.startswith(flag) for n in known):
                continue
            close = difflib.get_close_matches(flag, known, 1)
            self.error(f"there is no {flag}" + (f" (did you mean {close[0]}?)" if close else ""))


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="yolov7-jax", description="YOLOv7 for JAX.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_predict(commands)
    add_info(commands)
    add_convert(commands)
    add_export(commands)
    add_val(commands)
    if arguments and arguments[0] in commands.choices:
        commands.choices[arguments[0]].refuse_unknown_flags(arguments[1:])
    return parser.parse_args(arguments)


def _with_flags(message: str, options: argparse.Namespace) -> str:
    """Returns a message that names settings by the flags that they were given with."""
    given = [name for name, value in vars(options).items() if value is not None]
    return re.sub(
        rf"(?<![\w-])({'|'.join(given)})(?= \(=)",
        lambda match: f"--{match[1].replace('_', '-')}",
        message,
    )


def _one_line(error: Exception) -> str:
    if is_out_of_memory(error):
        return "this needs more memory than there is; smaller batches or images need less"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
