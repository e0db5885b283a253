"""`yolov7-jax resume`: an interrupted run goes on."""

import argparse
import pathlib
from collections.abc import Sequence

from yolov7_jax.cli.parser import Parser, overridden
from yolov7_jax.errors import UserError

EXAMPLES = ("resume runs/demo", "resume runs/blood-tiny --max-hours 8 --cache disk")
# How it is computed may change, on as many devices, processes and workers as there are.
CHANGEABLE = ("num_workers", "worker_processes", "cache", "max_hours", "processes")


def make_parser(arguments: Sequence[str]) -> Parser:
    """Returns the flags."""
    from yolov7_jax.training.train_config import TrainConfig

    parser = Parser(
        "resume",
        "Continues a run with its settings, on as many devices, processes and workers as there "
        "are.",
        EXAMPLES,
        abbreviations=False,
    )
    parser.add_argument("run_folder", metavar="RUN", help="the folder of the run")
    parser.add_settings(TrainConfig(), CHANGEABLE, others=False, default="that of the run")
    return parser


def run(options: argparse.Namespace) -> int:
    """Continues the run; returns the exit code."""
    from yolov7_jax.training.train_config import CONFIG_FILE, check_config, read_yaml

    folder = pathlib.Path(options.run_folder)
    if not folder.is_dir():
        what = "is a file, and no folder of a run" if folder.exists() else "there is no such folder"
        raise UserError(f"{folder}: {what}; nothing to resume")
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"{folder}: has no {CONFIG_FILE}; it is not the folder of a run")
    config = overridden(read_yaml(folder / CONFIG_FILE, whole=True), options)
    check_config(config)
    from yolov7_jax.cli.training_program import join, train_to_end

    join(config.processes)
    return train_to_end(config, folder)
