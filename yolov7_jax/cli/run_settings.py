"""The settings of `train`, `anchors` and `preview`: a recipe, and flags on top of it."""

import argparse
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from yolov7_jax.cli.parser import Parser, overridden
from yolov7_jax.config import DEMO
from yolov7_jax.errors import UserError
from yolov7_jax.files import check_exists

if TYPE_CHECKING:
    from yolov7_jax.training.train_config import TrainConfig

RUNS = pathlib.Path("runs")
DATA_HELP = (
    "a data.yaml, which names the classes and where images with YOLO label files are (or COCO "
    ".json files, or Pascal VOC folders); or a COCO .json file itself, beside which the one of the "
    "other split is found by its name, as instances_train.json and instances_val.json; or a Pascal "
    "VOC folder itself, with Annotations, JPEGImages and ImageSets/Main; or demo, the embedded "
    "data set"
)


def recipe_parser(
    verb: str,
    description: str,
    examples: Sequence[str],
    arguments: Sequence[str],
    *,
    only: Collection[str] = (),
    texts: Mapping[str, str],
) -> Parser:
    """Returns a parser whose help shows the values of the recipe that the arguments name.

    Args:
      verb: as for `Parser`; so are description and examples.
      description: see there.
      examples: see there.
      arguments: what follows the verb.
      only: as for `Parser.add_settings`; so are the texts.
      texts: see there.

    Raises:
      UserError: there is no such recipe, or it is not a proper one.
    """
    from yolov7_jax.training.train_config import TrainConfig, load_recipe, recipe_of

    first = Parser(verb, "", (), abbreviations=False)
    first.add_argument("--recipe")
    first.add_argument("--model", default=TrainConfig.model)
    named, _ = first.parse_known_args([part for part in arguments if part not in ("-h", "--help")])
    recipe = load_recipe(recipe_of(named.model) if named.recipe is None else named.recipe)
    parser = Parser(verb, description, examples, abbreviations=False)
    parser.add_settings(recipe, only, {"data": DATA_HELP, **texts})
    parser.set_defaults(recipe_settings=recipe)
    return parser


def run_settings(options: argparse.Namespace) -> "TrainConfig":
    """Returns the settings of a run: its recipe's, with those of the flags in their place.

    Raises:
      UserError: a value is out of its range, or no data set is given.
    """
    from yolov7_jax.training.train_config import check_config

    config = overridden(options.recipe_settings, options)
    check_config(config)
    if not config.data:
        raise UserError(
            "--data is missing: a data.yaml, a COCO .json file, a Pascal VOC folder, or demo for "
            "the embedded data set"
        )
    check_data(config.data)
    if config.weights is not None:
        check_exists(config.weights, "--weights")
    return config


def check_data(data: str) -> None:
    """Refuses a data set that is not there.

    Raises:
      UserError: it is neither a path of something nor "demo".
    """
    if data != DEMO:
        check_exists(data, "--data")


def data_name(data: str) -> str:
    """Returns what a data set is called in the name of a run: the folder of its data.yaml."""
    path = pathlib.Path(data)
    return path.resolve().parent.name if path.name == "data.yaml" else path.stem
