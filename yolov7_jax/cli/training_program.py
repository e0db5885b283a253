"""What `train` and `resume` share: meeting other processes, training, and how a run ended."""

import logging
import pathlib
import signal

import jax

from yolov7_jax.errors import is_out_of_memory
from yolov7_jax.training.checkpoint import CHECKPOINT_FOLDER
from yolov7_jax.training.distributed import (
    OtherProcessError,
    is_first,
    join_processes,
    wait_for_all,
)
from yolov7_jax.training.epoch_records import highest_ap
from yolov7_jax.training.loop import RunResult, train
from yolov7_jax.training.metrics_file import METRICS_FILE
from yolov7_jax.training.run_folder import REPORT_FILE, SHEET_FILE
from yolov7_jax.training.train_config import ProcessConfig, TrainConfig


def join(processes: ProcessConfig) -> None:
    """Connects this process with the others, of which the first alone talks to people."""
    join_processes(processes)
    logging.getLogger("yolov7_jax").setLevel(logging.NOTSET if is_first() else logging.ERROR)


def train_to_end(config: TrainConfig, run: pathlib.Path) -> int:
    """Trains, and prints how the run ended; returns the exit code.

    Raises:
      OtherProcessError: several processes train, and what they compute together has failed.
    """
    try:
        result = train(config, run)
    except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error) or jax.process_count() == 1:
            raise
        first_line = str(error).strip().splitlines()[0]
        raise OtherProcessError(
            f"what the processes compute together has failed: {first_line}; if one of them has "
            "ended before, its last lines say why"
        ) from error
    if is_first():
        print_result(result)
    wait_for_all()
    # Whoever preempts a run has done what was wanted; who presses Ctrl-C stops a script, too.
    return 128 + signal.SIGINT if result.signal == signal.SIGINT else 0


def print_result(result: RunResult) -> None:
    """Prints how a run ended, and what there is to look at."""
    run = result.run
    if result.interrupted is not None:
        print(
            f"stopped after step {result.step} ({result.interrupted}); "
            f"continue: yolov7-jax resume {run}"
        )
        return
    if result.note:
        print(result.note)
    best = highest_ap(result.records)
    if best is not None:
        last = [record for record in result.records if "ap" in record][-1]
        print(
            f"AP50 {_number(last['ap50'])}, AP {_number(last['ap'])} after epoch {last['epoch']}; "
            f"best: AP50 {_number(best['ap50'])}, AP {_number(best['ap'])} in epoch {best['epoch']}"
        )
    print("look at:")
    print(f"  {run / REPORT_FILE}      curves, accuracy, confusions, worst and best images")
    print(f"  {run / SHEET_FILE}   ground truth and detections, side by side")
    print(f"  {run / METRICS_FILE}    one line per epoch")
    print(f"  {run / CHECKPOINT_FOLDER}      the last and the best weights")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
