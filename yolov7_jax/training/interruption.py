"""What can end a run early, and what a person should be told about it."""

import math
import signal
import sys
import time
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import jax

from yolov7_jax.training.distributed import is_first, most

STEPS_BETWEEN_AGREEMENTS = 16  # of several processes: to stop, all must know at the same step
LOSS_COLLAPSE = 1.5  # times the lowest loss of the run
AP_COLLAPSE = 0.5  # times the highest AP of the run
LEAST_AP = 0.02  # below that, AP is noise
T = TypeVar("T")
AGAINST_DIVERGENCE = (
    "a lower --optim.lr0, a longer --optim.warmup-epochs or --optim.max-gradient-norm may help"
)


class InterruptedRunError(Exception):
    """Something that gives no result when it is left half-way was left."""


class Interruption:
    """Notes the first SIGINT or SIGTERM, and the end of the time allowed; a context manager.

    A second signal acts as usual.

    Attributes:
      signal: the number of the signal that came; None before. Once there is a reason, the same in
        all processes.
      reason: why the run is to stop; None before. The same in all processes.
    """

    def __init__(self, max_hours: float | None):
        self.signal: int | None = None
        self.reason: str | None = None
        self._max_hours = max_hours
        self._started = time.monotonic()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._note)
        return self

    def wanted(self, step: int, *, begun: bool = True) -> bool:
        """Says whether to stop now; to be asked at every step, by all processes.

        Args:
          step: the same in all processes.
          begun: whether anything has been done. Before, a signal counts, but not the time, so that
            a run with little of it gets somewhere.
        """
        if self.reason is None and agrees_at(step):
            late = (
                begun
                and self._max_hours is not None
                and time.monotonic() - self._started > self._max_hours * 3600
            )
            number, any_late = most(self.signal or 0, late)
            if number:
                self.signal = number
                self.reason = signal.Signals(number).name
            elif any_late:
                self.reason = f"--max-hours {self._max_hours:g}"
        return self.reason is not None

    def watched(self, items: Iterable[T]) -> Iterator[T]:
        """Gives items on, as many in every process.

        Raises:
          InterruptedRunError: the run is to stop.
        """
        for number, item in enumerate(items):
            if self.wanted(number):
                raise InterruptedRunError
            yield item

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.signal = number
        if is_first():
            print("\nsaving a checkpoint and stopping (press again to abort)", file=sys.stderr)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def __exit__(self, *exception: object) -> None:
        self._restore()


def agrees_at(step: int) -> bool:
    """Says whether the processes agree before a step; a single one always does."""
    return step % STEPS_BETWEEN_AGREEMENTS == 0 or jax.process_count() == 1


def warnings(records: Sequence[Mapping[str, Any]], assigner: str) -> list[str]:
    """Returns what is wrong with the last epoch of a run, measured by its own best.

    Args:
      records: the epochs so far.
      assigner: whose losses the records have.
    """
    told = []
    loss = f"train/{assigner}/total"
    last, before = records[-1], records[:-1]
    if last["skipped"]:
        told.append(
            f"{last['skipped']} batches of epoch {last['epoch']} were left out, because their loss "
            "or gradients were not finite"
        )
    known = [record[loss] for record in before if record[loss] is not None]
    lowest = min(known, default=math.inf)
    if last[loss] is not None and last[loss] > LOSS_COLLAPSE * lowest:
        told.append(
            f"the training loss is {last[loss]:.4g}, and was {lowest:.4g}: training diverges; "
            f"{AGAINST_DIVERGENCE}"
        )
    if last.get(f"val/{assigner}/total", 0) is None:
        told.append(
            "the averaged weights give no finite losses any more: training diverges; "
            f"{AGAINST_DIVERGENCE}"
        )
    best = highest_ap(before)
    now = last.get("ap")
    if best is not None and now is not None and LEAST_AP < best["ap"] > now / AP_COLLAPSE:
        told.append(
            f"AP is {now:.3f}, and was {best['ap']:.3f} after epoch {best['epoch']}: "
            "what was learnt gets lost; the best checkpoint is kept"
        )
    return told


def highest_ap(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Returns the epoch with the highest AP, the earliest of several; None without any."""
    evaluated = [record for record in records if record.get("ap") is not None]
    return max(evaluated, key=lambda record: record["ap"], default=None)


def out_of_patience(records: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Says whether the AP has not risen for so many epochs; never if `patience` is 0."""
    best = highest_ap(records)
    if not patience or best is None:
        return False
    # Epochs without an evaluation tell nothing.
    last = max(record["epoch"] for record in records if "ap" in record)
    return last - best["epoch"] >= patience
