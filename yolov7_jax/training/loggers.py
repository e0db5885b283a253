"""Where the numbers of a run go besides metrics.jsonl: TensorBoard, Weights & Biases."""

import contextlib
import dataclasses
import math
import pathlib
import time
import types
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from yolov7_jax.errors import UserError
from yolov7_jax.training.distributed import is_first
from yolov7_jax.training.train_config import TrainConfig

TENSORBOARD_FOLDER = "tensorboard"
WANDB_FILE = "wandb.id"


class Log(Protocol):
    """Takes numbers by name."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keeps numbers of a step."""
        ...

    def close(self) -> None:
        """Writes what is still kept."""
        ...


class TensorBoard:
    """Writes files that TensorBoard reads, into the folder of a run.

    The package's own writer does so in a thread, whose errors nobody could answer.
    """

    def __init__(self, run: pathlib.Path, first_step: int):
        """Opens the files.

        Args:
          run: the run's folder.
          first_step: TensorBoard drops what it has of this step and of later ones.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        messages: Any = event_pb2  # protobuf makes its classes when it is imported
        self._event = messages.Event
        (run / TENSORBOARD_FOLDER).mkdir(exist_ok=True)
        # Files are called by the second, in which a run could stop and start again.
        self._writer = EventsWriter(str(run / TENSORBOARD_FOLDER / "events"), f".{first_step}")
        start = messages.SessionLog(status=messages.SessionLog.START)
        event = self._event(wall_time=time.time(), step=first_step, session_log=start)
        self._writer.write_event(event)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keeps numbers of a step."""
        from tensorboardX.summary import scalar

        now = time.time()
        for name, value in numbers.items():
            event = self._event(wall_time=now, step=step, summary=scalar(name, value))
            self._writer.write_event(event)
        self._writer.flush()  # to be seen now, and not lost with a run that is killed

    def close(self) -> None:
        """Writes what is still kept."""
        self._writer.close()


class Wandb:
    """Reports to Weights & Biases; its environment variables say to which project."""

    def __init__(self, run: pathlib.Path, settings: Mapping[str, Any]):
        """Starts a run there, or continues the one that this folder was reported to before.

        Raises:
          UserError: the package is not installed, or cannot start a run there.
        """
        wandb = import_wandb()
        known = run / WANDB_FILE
        if not known.is_file():
            # Not the folder's name: another folder may have had it, whose run would be continued.
            known.write_text(uuid.uuid4().hex, encoding="utf-8")
        try:
            self._run = wandb.init(
                dir=str(run),
                id=known.read_text(encoding="utf-8"),
                name=run.name,
                resume="allow",
                config=dict(settings),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(f"--wandb: Weights & Biases could not be reached: {reason}") from error

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keeps numbers of a step."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Waits until all is reported."""
        self._run.finish()


def import_wandb() -> types.ModuleType:
    """Returns the package.

    Raises:
      UserError: it is not installed.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports] - an extra of its own
    except ImportError:
        raise UserError("--wandb needs an extra: pip install 'yolov7-jax[wandb]'") from None
    return wandb


def open_logs(
    stack: contextlib.ExitStack, config: TrainConfig, run: pathlib.Path, step: int
) -> list[Log]:
    """Returns the logs that the settings want; the first process alone has any.

    Args:
      stack: closes them.
      config: the settings.
      run: the run's folder.
      step: steps done.
    """
    logs: list[Log] = []
    if config.tensorboard and is_first():
        logs.append(TensorBoard(run, step + 1))
    if config.wandb and is_first():
        logs.append(Wandb(run, dataclasses.asdict(config)))
    for log in logs:
        stack.callback(log.close)
    return logs


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of an epoch's record by name, those of each class too."""
    numbers = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            numbers |= {f"{name}/{key}": number for key, number in scalars(value).items()}
        elif isinstance(value, int | float) and math.isfinite(value):
            numbers[name] = float(value)
    return numbers
