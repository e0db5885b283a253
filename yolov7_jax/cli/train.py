"""`yolov7-jax train`: a new run."""

import argparse
import dataclasses
import os
import pathlib
from collections.abc import Sequence

from yolov7_jax.cli.parser import Parser
from yolov7_jax.cli.run_settings import RUNS, data_name, recipe_parser, run_settings
from yolov7_jax.config import DEMO

EXAMPLES = (
    "train --recipe demo",
    "train --data blood/data.yaml --weights yolov7-tiny.pt --epochs 50",
)


def make_parser(arguments: Sequence[str]) -> Parser:
    """Returns the flags."""
    return recipe_parser("train", "Trains a detector.", EXAMPLES, arguments, texts={})


def run(options: argparse.Namespace) -> int:
    """Starts a new run; returns the exit code."""
    config = run_settings(options)
    from yolov7_jax.cli.training_program import join, train_to_end
    from yolov7_jax.demo_data.demo import data_file
    from yolov7_jax.training.distributed import run_on_first
    from yolov7_jax.training.run_folder import check_free, free_folder

    join(config.processes)
    if config.data != DEMO:
        # The run can then be resumed from any folder.
        config = dataclasses.replace(config, data=str(data_file(config.data).absolute()))
    if config.weights is not None:
        weights = os.path.abspath(os.path.expanduser(config.weights))
        config = dataclasses.replace(config, weights=weights)
    if config.output is None:
        names = dict.fromkeys((data_name(config.data), pathlib.Path(config.recipe).stem))
        folder = pathlib.Path(run_on_first(lambda: str(free_folder(RUNS / "-".join(names)))))
    else:
        folder = pathlib.Path(config.output)
        run_on_first(lambda: check_free(folder))
    return train_to_end(config, folder)
