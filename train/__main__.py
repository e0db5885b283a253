"""The command line: `python -m train fit`, `python -m train resume`."""

import contextlib
import dataclasses
import io
import os
import pathlib
import signal
import sys

import tyro

from train.checkpoint import CHECKPOINT_FOLDER, METRICS_FILE
from train.config import TrainConfig, check_config, load_recipe, read_yaml
from train.errors import UserError
from train.loop import CONFIG_FILE, DEMO, SHEET_FILE, Summary, fit
from yolov7_jax.image import UnreadableImageError

USAGE = """usage: python -m train COMMAND ...

  fit [--recipe NAME] [--data DATA.yaml] ...   train; `fit --help` lists the settings
  resume RUN                                   continue an interrupted run
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
        got = f"unknown command {command!r}" if command else "a command is wanted"
        raise UserError(f"{got}; commands are fit and resume")
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
    config = parse_fit(arguments)
    check_config(config)
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


def parse_fit(arguments: list[str]) -> TrainConfig:
    """Reads the recipe that the arguments name, and lets the flags override it."""
    recipe = load_recipe(recipe_argument(arguments))
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(TrainConfig, prog="python -m train fit", args=arguments, default=recipe)
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise UserError(first_message(printed.getvalue())) from None


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


def first_message(box: str) -> str:
    """Returns the message in the box that the parser draws, and what it suggests, as one line.

    The box has a title, then sections with rules between them: the message, then what may have
    been meant. Without Unicode there is no frame, and a rule below the title.
    """
    lines = box.splitlines()
    framed = box.startswith("╭")
    sections: list[list[str]] = [[]]
    for line in lines[1:-1] if framed else lines:
        row = line.strip("│ ")
        if row and not row.strip("─-"):
            sections.append([])
        elif row:
            sections[-1].append(row)
    message, *others = sections if framed else sections[1:]
    meant = [rows[1].split()[0] for rows in others if rows[0].startswith("Perhaps you meant")]
    return " ".join(message) + (f" (did you mean {meant[0]}?)" if meant else "")


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
