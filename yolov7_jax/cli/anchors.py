"""`yolov7-jax anchors`: how well the anchors suit the data, and better ones."""

import argparse
from collections.abc import Sequence

from yolov7_jax.cli.parser import Parser
from yolov7_jax.cli.run_settings import recipe_parser, run_settings

EXAMPLES = ("anchors --data blood/data.yaml", "anchors --data demo --recipe demo --image-size 320")
SHOWN = (
    *("recipe", "data", "model", "image_size", "single_class", "seed", "autoanchor"),
    "loss.anchor_threshold",
)


def make_parser(arguments: Sequence[str]) -> Parser:
    """Returns the flags."""
    return recipe_parser(
        "anchors",
        "Tells how well the anchors suit the data, and finds better ones. The other settings of "
        "`train` may be given too, and change nothing.",
        EXAMPLES,
        arguments,
        only=SHOWN,
        texts={
            "seed": "of the search for better anchors",
            "autoanchor": "whether training would use better anchors where less than 98 % of the "
            "objects are in reach of the network's",
        },
    )


def run(options: argparse.Namespace) -> int:
    """Prints how well the anchors suit the data."""
    config = run_settings(options)
    from yolov7_jax.training.choose_anchors import describe_anchors
    from yolov7_jax.training.model_and_data import create_model, load_split

    dataset = load_split(config, "train")
    print(describe_anchors(config, dataset, create_model(config, len(dataset.names)).head))
    return 0
