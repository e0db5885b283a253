"""The command line: `python -m train fit | resume | check | anchors | preview`."""

import dataclasses
import os
import pathlib
import signal
import sys

try:
    import tyro  # noqa: F401 - stands for all that the extra brings
except ImportError:
    raise SystemExit(
        "error: training needs more than the library: pip install 'yolov7-jax[train]'"
    ) from None

from train.anchors import describe_anchors
from train.arguments import parse
from train.check import check_command
from train.checkpoint import CHECKPOINT_FOLDER, METRICS_FILE
from train.config import TrainConfig, check_config, load_recipe, read_yaml
from train.data.sources import load_dataset
from train.errors import UserError
from train.loop import (
    CONFIG_FILE,
    DEMO,
    SHEET_FILE,
    Summary,
    create_model,
    data_file,
    fit,
    make_folder,
)
from train.preview import write_preview
from yolov7_jax.image import UnreadableImageError

USAGE = """usage: python -m train COMMAND ...

  fit [--recipe NAME] [--data DATA.yaml] ...   train; `fit --help` lists the settings
  resume RUN                                   continue an interrupted run
  check --data DATA.yaml ...                   look at every file of a data set; `check --help`
  anchors [settings of fit]                    how well the anchors suit the data, and better ones
  preview [settings of fit]                    draw a batch, and which cells its objects get
"""
RUN_FILES = (CONFIG_FILE, METRICS_FILE, CHECKPOINT_FOLDER)
RUNS = pathlib.Path("runs")
WRONG_USE = 2


def main(arguments: list[str]) -> int:
    """Runs a command.

    Args:
      arguments: what follows the program's name.

    Returns:
      The exit code: 0, 2 for wrong use, or 128 + n for a run that signal n interrupted.
    """
    try:
        command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
        if command in ("-h", "--help"):
            print(USAGE, end="")
            return 0
        if command == "fit":
            return finish(fit_command(rest))
        if command == "resume":
            return finish(resume_command(rest))
        if command == "check":
            return check_command(rest)
        if command == "anchors":
            return anchors_command(rest)
        if command == "preview":
            return preview_command(rest)
        got = f"unknown command {command!r}" if command else "a command is wanted"
        raise UserError(f"{got}; commands are fit, resume, check, anchors and preview")
    except (UserError, UnreadableImageError) as error:
        # The input pipeline adds paragraphs of its own to errors that cross it.
        first_line = str(error).strip().splitlines()[0]
        print(f"error: {first_line}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def fit_command(arguments: list[str]) -> Summary:
    """Starts a new run."""
    config = parse_settings(arguments, "fit")
    if config.data != DEMO:
        # The run can then be resumed from any folder.
        config = dataclasses.replace(config, data=str(pathlib.Path(config.data).absolute()))
    if config.output is None:
        names = dict.fromkeys((data_name(config.data), pathlib.Path(config.recipe).stem))
        run = free_folder(RUNS / "-".join(names))
    else:
        run = pathlib.Path(config.output)
        if holds_run(run):
            raise UserError(
                f"{run} holds a run already; continue it with `python -m train resume {run}` "
                "or choose another --output"
            )
        remains = [name for name in RUN_FILES if (run / name).exists()]
        if remains:
            raise UserError(
                f"{run} has {', '.join(remains)} of another run, but no complete checkpoint; "
                "remove them or choose another --output"
            )
    return fit(config, run)


def anchors_command(arguments: list[str]) -> int:
    """Tells how well the anchors suit the data that the settings name."""
    config = parse_settings(arguments, "anchors")
    dataset = load_dataset(data_file(config.data), "train")
    print(describe_anchors(config, dataset, create_model(config, len(dataset.names)).head))
    return 0


def preview_command(arguments: list[str]) -> int:
    """Draws what the settings would train on."""
    config = parse_settings(arguments, "preview")
    dataset = load_dataset(data_file(config.data), "train")
    model = create_model(config, len(dataset.names))
    if config.output is None:
        folder = free_folder(RUNS / f"{data_name(config.data)}-preview")
    else:
        folder = pathlib.Path(config.output)
    make_folder(folder)
    written = write_preview(config, dataset, model, folder)
    print("look at:")
    print(f"  {written[0]}   a batch as the network sees it")
    print(f"  {written[1]} ...   which cells and anchors each object gets, a page per picture")
    return 0


def resume_command(arguments: list[str]) -> Summary:
    """Continues a run with the settings that it was started with."""
    if arguments in (["-h"], ["--help"]):
        print(USAGE, end="")
        raise SystemExit(0)
    if len(arguments) != 1:
        raise UserError(f"resume takes the folder of one run, got {arguments or 'nothing'}")
    run = pathlib.Path(arguments[0])
    if not run.is_dir():
        raise UserError(f"{run}: there is no such folder; nothing to resume")
    if not (run / CONFIG_FILE).is_file():
        raise UserError(f"{run}: has no {CONFIG_FILE}; it is not the folder of a run")
    if not holds_run(run):
        raise UserError(f"{run}: has no checkpoint to resume from; start it with `fit`")
    config = read_yaml(run / CONFIG_FILE)
    check_config(config)
    return fit(config, run)


def parse_settings(arguments: list[str], command: str) -> TrainConfig:
    """Reads the recipe that the arguments name, and lets the flags override it."""
    recipe = load_recipe(recipe_argument(arguments))
    config = parse(TrainConfig, arguments, program=f"python -m train {command}", default=recipe)
    check_config(config)
    return config


def recipe_argument(arguments: list[str]) -> str:
    """Returns the recipe that the arguments name; the rest is parsed on top of it."""
    recipe = TrainConfig().recipe
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--recipe" and equals:
            recipe = value
        elif name == "--recipe":
            if position + 1 == len(arguments):
                raise UserError("--recipe needs the name of a recipe or the path of a YAML file")
            recipe = arguments[position + 1]
    return recipe


def data_name(data: str) -> str:
    """Returns what a data set is called in the name of a run: the folder of its data.yaml."""
    path = pathlib.Path(data)
    return path.resolve().parent.name if path.name == "data.yaml" else path.stem


def holds_run(folder: pathlib.Path) -> bool:
    """Says whether a folder is that of a run with a complete checkpoint."""
    checkpoints = folder / CHECKPOINT_FOLDER
    # Unfinished checkpoints have longer names.
    complete = checkpoints.is_dir() and any(path.name.isdigit() for path in checkpoints.iterdir())
    return complete and (folder / CONFIG_FILE).is_file()


def free_folder(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder, or the first of folder-2, folder-3 ... that does not exist."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate = folder.with_name(f"{folder.name}-{number}")
        number += 1
    return candidate


def finish(summary: Summary) -> int:
    """Prints how a run ended, and returns the exit code."""
    run = summary.run
    if summary.signal is not None:
        print(f"stopped after step {summary.step}; continue: python -m train resume {run}")
        return 128 + summary.signal
    defined = [record for record in summary.records if record["ap"] is not None]
    if defined:
        last, best = summary.records[-1], max(defined, key=lambda record: record["ap"])
        print(
            f"AP50 {number(last['ap50'])}, AP {number(last['ap'])} after epoch {last['epoch']}; "
            f"best: AP50 {number(best['ap50'])}, AP {number(best['ap'])} in epoch {best['epoch']}"
        )
    print("look at:")
    print(f"  {run / SHEET_FILE}   ground truth and detections, side by side")
    print(f"  {run / METRICS_FILE}    one line per epoch")
    print(f"  {run / CHECKPOINT_FOLDER}      the last and the best weights")
    return 0


def number(value: float | None) -> str:
    """Returns an accuracy as text."""
    return "undefined" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    raise SystemExit(main(sys.argv[1:]))
