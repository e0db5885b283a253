"""The command line: `yolov7-jax info` and `yolov7-jax convert`."""

import argparse
import collections
import os
import pathlib
import signal
import sys
from collections.abc import Sequence

from yolov7_jax import __version__, weights
from yolov7_jax.deploy import deploy
from yolov7_jax.model import ARCHITECTURES, Yolov7, create_abstract
from yolov7_jax.summary import Summary, summarize
from yolov7_jax.weights.files import model_of
from yolov7_jax.weights.identify import activation_name

WRONG_USE = 2
SAFETENSORS = ".safetensors"
FORMS = {
    "training": "training form",
    "released": "plain head, no auxiliary heads",
    "deployed": "deployed",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: what follows the program's name; those of the process if not given.

    Returns:
      The exit code: 0, 2 for wrong use and files that cannot be read or written, or 128 + n for
      signal n.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter must not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="yolov7-jax", description="YOLOv7 for JAX.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    info = commands.add_parser(
        "info",
        help="what models cost, and what a file of weights holds",
        description="Prints parameters, operations and memory of all models, of one, or of the one "
        "in a file, and then also what the file holds.",
    )
    what = info.add_mutually_exclusive_group()
    what.add_argument("--model", choices=ARCHITECTURES, help="one model instead of all")
    what.add_argument("--weights", metavar="FILE", help="a file of weights, or a run's folder")
    info.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="side of the pictures; default: published"
    )
    info.set_defaults(run=_info)

    convert = commands.add_parser(
        "convert",
        help="weights of any format to safetensors",
        description="Writes the weights of IN, the moving average where there is one, to OUT "
        "in float32 under the official names, and reads them back.",
    )
    convert.add_argument(
        "source", metavar="IN", help="a .pt or .safetensors file, or a training run's folder"
    )
    convert.add_argument("target", metavar="OUT", help="a .safetensors file")
    convert.add_argument(
        "--deploy", action="store_true", help="fold norms and drop what only training needs"
    )
    convert.add_argument("--force", action="store_true", help="replace OUT if it exists")
    convert.set_defaults(run=_convert)
    return parser


def _info(options: argparse.Namespace) -> None:
    if options.weights is None:
        names = list(ARCHITECTURES) if options.model is None else [options.model]
        models = [create_abstract(name) for name in names]
    else:
        checkpoint = weights.read_checkpoint(options.weights)
        model = model_of(checkpoint, options.weights)
        models = [model]
        print(_contents(options.weights, checkpoint, model), end="\n\n")
    print("                parameters (M)       GFLOPs")
    print("model          training  deploy  training  deploy  pixels  memory (MB)")
    for model in models:
        print(_row(model.name, summarize(model, options.image_size)), flush=True)
    print("GFLOPs: convolutions of one picture, forward; training counts auxiliary heads.")
    print("memory: deploy form in float32, one picture, parameters included; an estimate.")


def _row(name: str, summary: Summary) -> str:
    """Returns what a model costs, as a line of the table."""
    return (
        f"{name:<14} {_in_units(summary.parameters, 1e6, 2):>8} "
        f"{_in_units(summary.deploy_parameters, 1e6, 2):>7} {_in_units(summary.flops, 1e9, 1):>9} "
        f"{_in_units(summary.deploy_flops, 1e9, 1):>7} {summary.image_size:>7} "
        f"{_in_units(summary.memory, 1e6, 0):>12}"
    )


def _in_units(value: int | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"


def _contents(path: str, checkpoint: weights.Checkpoint, model: Yolov7) -> str:
    """Returns what a file holds, as lines of text."""
    tensors = checkpoint.weights
    types = collections.Counter(str(value.dtype) for value in tensors.values())
    classes = "no class names"
    if checkpoint.names is not None:
        classes = ", ".join(map(_printable, checkpoint.names))
    anchors = [" ".join(f"{w:g}x{h:g}" for w, h in level) for level in model.head.anchors]
    rows = {
        "model": f"{model.name}, {FORMS[model.form]}",
        "width": f"{model.width:g}",
        "activation": activation_name(model)
        + ("" if checkpoint.activation else " (assumed: the file does not tell)"),
        "classes": f"{model.head.num_classes} ({classes})",
        "anchors": "; ".join(anchors),
        "epoch": "none: not in training" if checkpoint.epoch is None else str(checkpoint.epoch),
        "tensors": f"{len(tensors)} ({', '.join(f'{n} {kind}' for kind, n in types.items())})",
        "moving average": "yes, and it is what is used" if checkpoint.ema is not None else "no",
    }
    lines = [f"  {name + ':':<16}{value}" for name, value in rows.items()]
    return "\n".join([f"{path}", *lines])


def _printable(text: str) -> str:
    """Returns a text from a file with whatever could move a terminal's cursor written out."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _convert(options: argparse.Namespace) -> None:
    target = pathlib.Path(options.target)
    if target.suffix != SAFETENSORS:
        raise ValueError(f"OUT (={options.target}) must end in {SAFETENSORS}")
    if target.exists() and not options.force:
        raise ValueError(f"{target} exists; --force replaces it")
    if not target.parent.is_dir():
        raise ValueError(f"{target}: there is no folder {target.parent}")
    if target.is_dir():
        raise ValueError(f"{target}: is a folder, wanted the name of a file")
    checkpoint = weights.read_checkpoint(options.source)
    model = model_of(checkpoint, options.source)
    if options.deploy:
        model = deploy(model)
    weights.save_safetensors(model, target, names=checkpoint.names, epoch=checkpoint.epoch)
    size = target.stat().st_size
    print(f"{target}: {_described(model)}, {size / 1e6:.1f} MB, read back and equal")


def _described(model: Yolov7) -> str:
    return f"{model.name}, {FORMS[model.form]}, {model.head.num_classes} classes"


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
