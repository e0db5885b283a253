"""`yolov7-jax convert`: weights of any format to safetensors."""

import argparse
import pathlib

from yolov7_jax import weights
from yolov7_jax.cli.common import Commands, check_not_source, described
from yolov7_jax.deploy import deploy
from yolov7_jax.weights.load import open_model

SAFETENSORS = ".safetensors"


def add_convert(commands: Commands) -> None:
    """Adds the command."""
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


def _convert(options: argparse.Namespace) -> None:
    target, source = pathlib.Path(options.target), pathlib.Path(options.source)
    if target.suffix != SAFETENSORS:
        raise ValueError(f"OUT (={options.target}) must end in {SAFETENSORS}")
    check_not_source(target, source, "OUT")
    if target.exists() and not options.force:
        raise ValueError(f"{target} exists; --force replaces it")
    if not target.parent.is_dir():
        raise ValueError(f"{target}: there is no folder {target.parent}")
    if target.is_dir():
        raise ValueError(f"{target}: is a folder, wanted the name of a file")
    model, checkpoint = open_model(options.source, finite=False)
    if options.deploy:
        model = deploy(model)
    weights.save_safetensors(
        model,
        target,
        names=checkpoint.names,
        epoch=checkpoint.epoch,
        image_size=checkpoint.image_size,
    )
    size = target.stat().st_size
    print(f"{target}: {described(model)}, {size / 1e6:.1f} MB, read back and equal")
