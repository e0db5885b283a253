"""`yolov7-jax convert`: weights of any format to safetensors."""

import argparse
import pathlib
from collections.abc import Sequence

from yolov7_jax.cli.parser import Parser
from yolov7_jax.files import check_exists, check_target

EXAMPLES = ("convert yolov7.pt yolov7.safetensors", "convert --deploy runs/demo demo.safetensors")


def make_parser(arguments: Sequence[str]) -> Parser:
    """Returns the flags."""
    parser = Parser(
        "convert",
        "Writes the weights of IN, the moving average where there is one, to OUT in float32 under "
        "the official names, and reads them back.",
        EXAMPLES,
    )
    parser.add_argument(
        "source", metavar="IN", help="a .pt or .safetensors file, or a training run's folder"
    )
    parser.add_argument("target", metavar="OUT", help="a .safetensors file")
    parser.add_argument(
        "--deploy", action="store_true", help="fold norms and drop what only training needs"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    return parser


def run(options: argparse.Namespace) -> int:
    """Converts the weights."""
    target, source = pathlib.Path(options.target), pathlib.Path(options.source)
    check_target(target, ".safetensors", source, "OUT", options.force)
    check_exists(options.source, "IN")
    from yolov7_jax.deploy import deploy
    from yolov7_jax.summary import described
    from yolov7_jax.weights import save_safetensors
    from yolov7_jax.weights.load import open_model

    model, checkpoint = open_model(options.source, finite=False)
    if options.deploy:
        model = deploy(model)
    save_safetensors(
        model,
        target,
        names=checkpoint.names,
        epoch=checkpoint.epoch,
        image_size=checkpoint.image_size,
    )
    size = target.stat().st_size
    print(f"{target}: {described(model)}, {size / 1e6:.1f} MB, read back and equal")
    return 0
