"""The command line, `yolov7-jax`: a module for each verb, loaded when it is asked for."""

import argparse
import contextlib
import errno
import importlib
import io
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence

from yolov7_jax import __version__
from yolov7_jax.cli.parser import Parser
from yolov7_jax.errors import FAILED, WRONG_USE, UserError, did_you_mean, is_out_of_memory
from yolov7_jax.signals import stopped_by, stopping_for_sure

VERBS = {
    "train": "train a detector",
    "resume": "continue an interrupted run",
    "check": "look at every file of a data set",
    "anchors": "how well the anchors suit the data, and better ones",
    "preview": "draw a batch, and which cells its objects get",
    "predict": "what is in images and videos",
    "val": "how accurate weights are on a data set",
    "export": "models as StableHLO, ONNX, safetensors or for PyTorch",
    "convert": "weights of any format to safetensors",
    "info": "what models cost, and what a file of weights holds",
}
# The extra with the packages that a verb needs; `train`, which has them all but ONNX, for others.
EXTRAS = {"predict": "images", "val": "images", "export": "export,images"}
EXAMPLES = ("train --recipe demo", "predict images/ --weights runs/demo")
# Read when libraries are loaded: no lines of their own, no images that fill the memory.
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "OPENCV_LOG_LEVEL": "SILENT",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(2**28),
}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MAKE_ROOM = "make room, then resume the run, or start it again where it has no config.yaml yet"
NO_MEMORY = (
    "this needs more memory than there is; smaller batches or images need less, and in training "
    "--remat and --shard-parameters"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: what follows the program's name; those of the process if not given.

    Returns:
      The exit code: 0; 1 if all was done but some images could not be read, for faults that
      `check --strict` found, too little memory, or a fault of the program, with its traceback; 2
      for what the user can fix; or 128 + n for signal n.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that a terminal cannot show
    with _warnings_as_lines():
        code = _ended(sys.argv[1:] if arguments is None else list(arguments))
    distributed = sys.modules.get("yolov7_jax.training.distributed")
    if distributed is not None:
        distributed.disconnect(code)
    return code


def _ended(arguments: list[str]) -> int:
    """Runs a command; returns its exit code, however it ends."""
    options, verb = argparse.Namespace(), ""
    try:
        verb = _verb_of(arguments)
        with stopping_for_sure():
            module = importlib.import_module(f"{__name__}.{verb}")
            options = module.make_parser(arguments[1:]).parse(arguments[1:])
            code = module.run(options)
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter must not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print(f"interrupted by {stopped_by().name}", file=sys.stderr)
        return 128 + stopped_by()
    except Exception as error:
        message = _message_to_user(error, verb)
        if message is None:
            traceback.print_exc()  # now: leaving other processes may end this one
            return FAILED
        print(f"error: {_with_flags(message, options)}", file=sys.stderr)
        if is_out_of_memory(error):
            return FAILED
        return error.exit_code if isinstance(error, UserError) else WRONG_USE


def _verb_of(arguments: list[str]) -> str:
    """Returns the verb that the arguments begin with."""
    listed = "\n".join(f"  {verb:<9} {summary}" for verb, summary in VERBS.items())
    parser = Parser(
        "", f"YOLOv7 for JAX. The verbs, each with a --help of its own:\n{listed}", EXAMPLES
    )
    parser.add_argument("--version", action="version", version=f"{parser.prog} {__version__}")
    parser.add_argument("verb", metavar="VERB", help="one of those above")
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] in VERBS:
            return arguments[0]
        meant = did_you_mean(arguments[0], VERBS)
        parser.error(f"there is no {arguments[0]!r}{meant}; the verbs are {', '.join(VERBS)}")
    return parser.parse(arguments).verb


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Shows warnings of the library as plain lines, whatever other packages configure."""
    handler, logger = logging.StreamHandler(), logging.getLogger("yolov7_jax")
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _message_to_user(error: Exception, verb: str) -> str | None:
    """Returns an error as a line, if a user can fix it; None for a fault of the program."""
    if is_out_of_memory(error):
        return NO_MEMORY
    if isinstance(error, UserError):
        # The input pipeline adds paragraphs of its own to errors that cross it.
        message = str(error).strip().partition("\n\n")[0]
        return " ".join(message.split()) + error.advice
    if isinstance(error, OSError) and (error.filename is not None or error.errno in NO_ROOM):
        where = "" if error.filename is None else f"{error.filename}: "
        advice = f"; {MAKE_ROOM}" if error.errno in NO_ROOM and verb in ("train", "resume") else ""
        return f"{where}{error.strerror}{advice}"
    if isinstance(error, ImportError) and "pip install" in str(error):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and "yolov7_jax" not in str(error.name):
        return f"{verb} needs {error.name}: pip install 'yolov7-jax[{EXTRAS.get(verb, 'train')}]'"
    return None


def _with_flags(message: str, options: argparse.Namespace) -> str:
    """Returns a message that names settings by the flags that they were given with."""
    given = [re.escape(name) for name, value in vars(options).items() if value is not None]
    if not given:
        return message
    return re.sub(
        rf"(?<![\w-])({'|'.join(given)})(?= \(=)",
        lambda match: f"--{match[1].replace('_', '-')}",
        message,
    )
