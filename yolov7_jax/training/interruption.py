"""What stops a run that is to be continued: signals, and the end of the time allowed."""

import contextlib
import signal
import sys
import time
import types
from collections.abc import Iterable, Iterator
from typing import Self, TypeVar

import jax

from yolov7_jax.signals import on_stop_signal
from yolov7_jax.training.distributed import is_first, max_over_processes

STEPS_BETWEEN_AGREEMENTS = 16  # of several processes: to stop, all must know at the same step
T = TypeVar("T")


class InterruptedRunError(Exception):
    """Something that gives no result when it is left half-way was left."""


class Interruption(contextlib.ExitStack):
    """Notes the first SIGINT or SIGTERM, and the end of the time allowed; a context manager.

    A second signal acts as usual. See `on_stop_signal` for those that are not listened to.

    Attributes:
      signal: the number of the signal that came; None before. Once there is a reason, the same in
        all processes.
      reason: why the run is to stop; None before. The same in all processes.
    """

    def __init__(self, max_hours: float | None):
        super().__init__()
        self.signal: int | None = None
        self.reason: str | None = None
        self._max_hours = max_hours
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._restore = self.enter_context(on_stop_signal(self._note))
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
            number, any_late = max_over_processes(self.signal or 0, late)
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


def agrees_at(step: int) -> bool:
    """Says whether the processes agree before a step; a single one always does."""
    return step % STEPS_BETWEEN_AGREEMENTS == 0 or jax.process_count() == 1
