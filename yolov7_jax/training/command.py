"""`yolov7-jax train | resume | check | anchors | preview`."""

import dataclasses
import errno
import logging
import os
import pathlib
import signal
import sys
import traceback
from typing import Annotated

import jax

try:
    import tyro
except ImportError:
    raise SystemExit(
        "error: training needs more than the library: pip install 'yolov7-jax[train]'"
    ) from None

from yolov7_jax.data.dataset_images import ChangedImageError
from yolov7_jax.data.decoder_messages import quiet_decoders
from yolov7_jax.data.images import UnreadableImageError
from yolov7_jax.errors import UserError, is_out_of_memory
from yolov7_jax.training.arguments import DATA_HELP, HELP_FLAGS, parse, print_help
from yolov7_jax.training.check import check_command
from yolov7_jax.training.checkpoint import CHECKPOINT_FOLDER
from yolov7_jax.training.choose_anchors import describe_anchors
from yolov7_jax.training.distributed import (
    disconnect,
    is_first,
    join_processes,
    run_on_first,
    wait_for_all,
)
from yolov7_jax.training.epoch_records import highest_ap
from yolov7_jax.training.loop import RunResult, train
from yolov7_jax.training.metrics_file import METRICS_FILE
from yolov7_jax.training.model_and_data import DEMO, create_model, data_file, load_split
from yolov7_jax.training.preview import write_preview
from yolov7_jax.training.run_folder import (
    CONFIG_FILE,
    REPORT_FILE,
    SHEET_FILE,
    check_free,
    free_folder,
    make_folder,
)
from yolov7_jax.training.train_config import (
    CacheKind,
    ProcessConfig,
    TrainConfig,
    check_config,
    load_recipe,
    read_yaml,
    recipe_of,
)

USAGE = """usage: yolov7-jax COMMAND ...

  train [--recipe NAME] [--data DATA.yaml] ...   train; `train --help` lists the settings
  resume RUN                                   continue an interrupted run
  check --data DATA.yaml ...                   look at every file of a data set; `check --help`
  anchors [settings of train]                    how well the anchors suit the data, and better ones
  preview [settings of train]                    draw a batch, and which cells its objects get

--data takes a data.yaml, a COCO .json file, a Pascal VOC folder, or demo
"""
SUMMARIES = {
    "train": "Trains a detector.",
    "anchors": "Tells how well the anchors suit the data, and finds better ones. The other "
    "settings of `train` may be given too, and change nothing.",
    "preview": "Draws a batch as training sees it, and which cells and anchors its objects are "
    "given. The other settings of `train` may be given too, and change nothing.",
}
# What a flag means to a command, where that is not what it means to `train`.
TEXTS = {
    "train": {},
    "anchors": {
        "seed": "of the search for better anchors.",
        "autoanchor": "whether training would use better anchors where less than 98 % of the "
        "objects are in reach of the network's.",
    },
    "preview": {"output": "folder to write to; runs/DATA-preview if not given."},
}
# What matters to a command; all settings where nothing stands.
FLAGS = {
    "train": (),
    "anchors": (
        "recipe",
        "data",
        "model",
        "image_size",
        "single_class",
        "seed",
        "autoanchor",
        "loss.anchor_threshold",
    ),
    "preview": (
        "recipe",
        "data",
        "model",
        "width",
        "activation",
        "dtype",
        "output",
        "image_size",
        "single_class",
        "batch_size",
        "seed",
        "autoanchor",
        "loss.anchor_threshold",
        "loss.restrict_to_own_candidates",
        "augment",
    ),
}
RUNS = pathlib.Path("runs")
LOGGERS = ("yolov7_jax",)
FAILED, WRONG_USE = 1, 2
MAKE_ROOM = "make room, then resume the run, or start it again where it has no config.yaml yet"
LEAVE_OUT = "`yolov7-jax check` finds all such images of a data set and leaves them out"
NO_MEMORY = (
    "this needs more memory than there is; a smaller --batch-size or --image-size, --remat and "
    "--shard-parameters need less"
)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclasses.dataclass(frozen=True)
class Resume:
    """Continues a run with its settings, on as many devices, processes and workers as there are.

    Attributes:
      run: its folder.
      num_workers: threads that prepare images, in each process.
      worker_processes: prepare them in processes instead, which pays with many cores.
      cache: keep resized images between epochs: in memory, or in a file beside the data set.
      max_hours: stop after that time with a checkpoint to continue from.
      processes: where several processes train together.
    """

    run: tyro.conf.Positional[Annotated[pathlib.Path, tyro.conf.arg(metavar="RUN")]]
    num_workers: int = TrainConfig.num_workers
    worker_processes: bool = TrainConfig.worker_processes
    cache: CacheKind = TrainConfig.cache
    max_hours: float | None = TrainConfig.max_hours
    processes: ProcessConfig = dataclasses.field(default_factory=ProcessConfig)


def main(arguments: list[str]) -> int:
    """Runs a command.

    Args:
      arguments: what follows the program's name.

    Returns:
      The exit code: 0, 1 for faults that `check --strict` found, 2 for wrong use, or 128 + n for
      a run that signal n interrupted.
    """
    try:
        command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
        if command in HELP_FLAGS:
            print(USAGE, end="")
            return 0
        if command == "train":
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
        raise UserError(f"{got}; commands are train, resume, check, anchors and preview")
    except (UserError, UnreadableImageError) as error:
        # The input pipeline adds paragraphs of its own to errors that cross it.
        first_line = str(error).strip().splitlines()[0]
        damaged = isinstance(error, UnreadableImageError)
        advice = f"; {LEAVE_OUT}" if damaged and not isinstance(error, ChangedImageError) else ""
        print(f"error: {first_line}{advice}", file=sys.stderr)
        return WRONG_USE
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}; {MAKE_ROOM}", file=sys.stderr)
        return WRONG_USE
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if is_out_of_memory(error):
            print(f"error: {NO_MEMORY}", file=sys.stderr)
            return FAILED
        if jax.process_count() == 1:
            raise
        first_line = str(error).strip().splitlines()[0]
        print(
            f"error: what the processes compute together has failed: {first_line}; if one of them "
            "has ended before, its last lines say why",
            file=sys.stderr,
        )
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def join(processes: ProcessConfig) -> None:
    """Connects this process with the others, of which the first alone talks to people."""
    join_processes(processes)
    if not is_first():
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)


def fit_command(arguments: list[str]) -> RunResult:
    """Starts a new run."""
    config = parse_settings(arguments, "train")
    join(config.processes)
    if config.data != DEMO:
        # The run can then be resumed from any folder.
        config = dataclasses.replace(config, data=str(data_file(config.data).absolute()))
    if config.weights is not None:
        config = dataclasses.replace(
            config, weights=os.path.abspath(os.path.expanduser(config.weights))
        )
    if config.output is None:
        names = dict.fromkeys((data_name(config.data), pathlib.Path(config.recipe).stem))
        run = pathlib.Path(run_on_first(lambda: str(free_folder(RUNS / "-".join(names)))))
    else:
        run = pathlib.Path(config.output)
        run_on_first(lambda: check_free(run))
    return train(config, run)


def anchors_command(arguments: list[str]) -> int:
    """Tells how well the anchors suit the data that the settings name."""
    config = parse_settings(arguments, "anchors")
    dataset = load_split(config, "train")
    print(describe_anchors(config, dataset, create_model(config, len(dataset.names)).head))
    return 0


def preview_command(arguments: list[str]) -> int:
    """Draws what the settings would train on."""
    config = parse_settings(arguments, "preview")
    dataset = load_split(config, "train")
    model = create_model(config, len(dataset.names))
    if config.output is None:
        folder = free_folder(RUNS / f"{data_name(config.data)}-preview")
    else:
        folder = pathlib.Path(config.output)
    make_folder(folder)
    written = write_preview(config, dataset, model, folder)
    print("look at:")
    print(f"  {written[0]}   a batch as the network sees it")
    print(f"  {written[1]} ...   which cells and anchors each object gets, image by image")
    return 0


def resume_command(arguments: list[str]) -> RunResult:
    """Continues a run with the settings that it was started with."""
    program = "yolov7-jax resume"
    given = parse(Resume, arguments, program=program)
    join(given.processes)
    run = given.run
    if not run.is_dir():
        what = "is a file, and no folder of a run" if run.exists() else "there is no such folder"
        raise UserError(f"{run}: {what}; nothing to resume")
    if not (run / CONFIG_FILE).is_file():
        raise UserError(f"{run}: has no {CONFIG_FILE}; it is not the folder of a run")
    config = read_yaml(run / CONFIG_FILE, whole=True)
    changeable = [field.name for field in dataclasses.fields(Resume) if field.name != "run"]
    # Again, on top of what the run has: a flag that is not given changes nothing.
    kept = Resume(run, **{name: getattr(config, name) for name in changeable})
    given = parse(Resume, arguments, program=program, default=kept)
    config = dataclasses.replace(config, **{name: getattr(given, name) for name in changeable})
    check_config(config)
    return train(config, run)


def parse_settings(arguments: list[str], command: str) -> TrainConfig:
    """Reads the recipe that the arguments name, and lets the flags override it."""
    recipe = load_recipe(recipe_argument(arguments))
    program = f"yolov7-jax {command}"
    if any(flag in arguments for flag in HELP_FLAGS):
        print_help(
            recipe,
            program=program,
            summary=SUMMARIES[command],
            only=FLAGS[command],
            texts={"data": DATA_HELP, **TEXTS[command]},
        )
        raise SystemExit(0)
    config = parse(TrainConfig, arguments, program=program, default=recipe)
    check_config(config)
    if not config.data:
        raise UserError(
            "--data is missing: a data.yaml, a COCO .json file, a Pascal VOC folder, or demo for "
            "the embedded data set"
        )
    return config


def recipe_argument(arguments: list[str]) -> str:
    """Returns the recipe that the arguments name, or that of the model; the rest overrides it."""
    recipe, model = None, TrainConfig.model
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--recipe" and equals:
            recipe = value
        elif name == "--recipe":
            if position + 1 == len(arguments):
                raise UserError("--recipe needs the name of a recipe or the path of a YAML file")
            recipe = arguments[position + 1]
        elif name == "--model":
            model = value if equals else "".join(arguments[position + 1 : position + 2])
    return recipe_of(model) if recipe is None else recipe


def data_name(data: str) -> str:
    """Returns what a data set is called in the name of a run: the folder of its data.yaml."""
    path = pathlib.Path(data)
    return path.resolve().parent.name if path.name == "data.yaml" else path.stem


def show_warnings() -> None:
    """Shows what the input pipeline warns of as plain lines, whatever other packages configure."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    handler.setLevel(logging.WARNING)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False


def finish(summary: RunResult) -> int:
    """Prints how a run ended, and returns the exit code."""
    if is_first():
        print_summary(summary)
    wait_for_all()
    # Whoever preempts a run has done what was wanted; who presses Ctrl-C stops a script, too.
    return 128 + signal.SIGINT if summary.signal == signal.SIGINT else 0


def print_summary(summary: RunResult) -> None:
    """Prints how a run ended, and what there is to look at."""
    run = summary.run
    if summary.interrupted is not None:
        print(
            f"stopped after step {summary.step} ({summary.interrupted}); "
            f"continue: yolov7-jax resume {run}"
        )
        return
    if summary.note:
        print(summary.note)
    best = highest_ap(summary.records)
    if best is not None:
        last = [record for record in summary.records if "ap" in record][-1]
        print(
            f"AP50 {number(last['ap50'])}, AP {number(last['ap'])} after epoch {last['epoch']}; "
            f"best: AP50 {number(best['ap50'])}, AP {number(best['ap'])} in epoch {best['epoch']}"
        )
    print("look at:")
    print(f"  {run / REPORT_FILE}      curves, accuracy, confusions, worst and best images")
    print(f"  {run / SHEET_FILE}   ground truth and detections, side by side")
    print(f"  {run / METRICS_FILE}    one line per epoch")
    print(f"  {run / CHECKPOINT_FOLDER}      the last and the best weights")


def number(value: float | None) -> str:
    """Returns an accuracy as text."""
    return "undefined" if value is None else f"{value:.3f}"


def run_program(arguments: list[str]) -> int:
    """Runs a command, and leaves the other processes if there are any.

    Args:
      arguments: what follows the program's name.

    Returns:
      The exit code.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with quiet_decoders():
        show_warnings()
        try:
            code = main(arguments)
        except Exception:  # a fault of the program, whatever it is
            traceback.print_exc()  # now: leaving the others may end this process
            code = FAILED
        disconnect(code)
        return code
