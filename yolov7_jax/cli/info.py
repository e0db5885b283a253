"""`yolov7-jax info`: what models cost, and what a file of weights holds."""

import argparse
import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING

from yolov7_jax.cli.parser import Parser
from yolov7_jax.config import P5_MODELS, P6_MODELS
from yolov7_jax.errors import printable
from yolov7_jax.files import check_exists

if TYPE_CHECKING:
    from yolov7_jax.model import Yolov7
    from yolov7_jax.summary import ModelSummary
    from yolov7_jax.weights import Checkpoint

EXAMPLES = ("info --model yolov7 --image-size 320", "info --weights runs/demo")


def make_parser(arguments: Sequence[str]) -> Parser:
    """Returns the flags."""
    parser = Parser(
        "info",
        "Prints parameters, operations and memory of all models, of one, or of the one in a file, "
        "and then also what the file holds.",
        EXAMPLES,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", choices=P5_MODELS + P6_MODELS, help="one model instead of all")
    what.add_argument("--weights", metavar="FILE", help="a file of weights, or a run's folder")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="side of the images; default: that of the training, where the weights tell, or the "
        "published one",
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Prints the table."""
    if options.weights is not None:
        check_exists(options.weights, "--weights")
    from yolov7_jax.model import create_abstract
    from yolov7_jax.summary import summarize
    from yolov7_jax.weights.load import open_model

    image_size = options.image_size
    if options.weights is None:
        names = P5_MODELS + P6_MODELS if options.model is None else [options.model]
        models = [create_abstract(name) for name in names]
    else:
        model, checkpoint = open_model(options.weights, finite=False)
        models = [model]
        if image_size is None:
            image_size = checkpoint.image_size
        print(_contents(options.weights, checkpoint, model), end="\n\n")
    print("                parameters (M)       GFLOPs")
    print("model          training  deploy  training  deploy  pixels  memory (MB)")
    for model in models:
        print(_row(model.name, summarize(model, image_size)), flush=True)
    print("GFLOPs: convolutions of one image, forward; training counts auxiliary heads.")
    print("memory: deploy form in float32, one image, parameters included; an estimate.")
    return 0


def _row(name: str, summary: "ModelSummary") -> str:
    """Returns what a model costs, as a line of the table."""
    return (
        f"{name:<14} {_in_units(summary.parameters, 1e6, 2):>8} "
        f"{_in_units(summary.deploy_parameters, 1e6, 2):>7} {_in_units(summary.flops, 1e9, 1):>9} "
        f"{_in_units(summary.deploy_flops, 1e9, 1):>7} {summary.image_size:>7} "
        f"{_in_units(summary.memory, 1e6, 0):>12}"
    )


def _in_units(value: int | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"


def _contents(path: str, checkpoint: "Checkpoint", model: "Yolov7") -> str:
    """Returns what a file holds, as lines of text."""
    from yolov7_jax.summary import FORMS
    from yolov7_jax.weights.identify import activation_name

    tensors = checkpoint.weights
    types = collections.Counter(str(value.dtype) for value in tensors.values())
    classes = "no class names"
    if checkpoint.names is not None:
        classes = ", ".join(map(printable, checkpoint.names))
    anchors = [" ".join(f"{w:g}x{h:g}" for w, h in level) for level in model.head.anchors]
    rows = {
        "model": f"{model.name}, {FORMS[model.form]}",
        "width": f"{model.width:g}",
        "activation": activation_name(model)
        + ("" if checkpoint.activation else " (assumed: the file does not tell)"),
        "classes": f"{model.head.num_classes} ({classes})",
        "anchors": "; ".join(anchors),
        "epoch": "none: not in training" if checkpoint.epoch is None else str(checkpoint.epoch),
        "image size": "-" if checkpoint.image_size is None else f"{checkpoint.image_size} pixels",
        "tensors": f"{len(tensors)} ({', '.join(f'{n} {kind}' for kind, n in types.items())})",
        "moving average": "yes, and it is what is used" if checkpoint.ema is not None else "no",
    }
    lines = [f"  {name + ':':<16}{value}" for name, value in rows.items()]
    return "\n".join([f"{path}", *lines])
