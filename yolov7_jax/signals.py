"""The signals that end work in order: Ctrl-C and what schedulers send."""

import contextlib
import math
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator

Handler = Callable[[int, types.FrameType | None], None]

# Seconds in which a signal may come twice and is one: `timeout` sends it to the process and to its
# group. The second would end what the first has begun: completing the files.
SAME_SIGNAL = 1.0

_signal: int | None = None  # the last that was to end the work
_signal_came = -math.inf  # on the monotonic clock


@contextlib.contextmanager
def on_stop_signal(handler: Handler) -> Iterator[Callable[[], None]]:
    """Calls a function at SIGINT and SIGTERM while its body runs.

    A signal that is ignored, as Ctrl-C is where a shell or nohup has started the program in the
    background, stays so; and so does one whose handler is not Python's. Outside of the main thread,
    which alone may handle signals, nothing changes.

    Args:
      handler: is given the number and the frame, as `signal.signal` gives them.

    Yields:
      A function that restores the handlers from before at once; so does the end of the body.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous = signal.getsignal(number)
            if previous not in (signal.SIG_IGN, None):
                before[number] = previous
                signal.signal(number, handler)

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    try:
        yield restore
    finally:
        restore()


@contextlib.contextmanager
def stopping_for_sure() -> Iterator[None]:
    """Lets SIGTERM end the work as Ctrl-C does, and remembers either for `stop_if_wanted`.

    They have to be remembered, because JAX loses an exception that comes while it compiles.
    """

    def note(number: int, frame: types.FrameType | None) -> None:
        global _signal, _signal_came
        before, _signal_came = _signal_came, time.monotonic()
        repeated, _signal = number == _signal, number
        if not repeated or _signal_came - before > SAME_SIGNAL:
            raise KeyboardInterrupt

    forget_stop()
    with on_stop_signal(note):
        yield


def stopped_by() -> signal.Signals:
    """Returns the signal that ended the work with a KeyboardInterrupt."""
    return signal.Signals(_signal or signal.SIGINT)


def forget_stop() -> None:
    """Forgets a Ctrl-C that ended only a part of the work."""
    global _signal
    _signal = None


def stop_if_wanted() -> None:
    """Raises KeyboardInterrupt where a signal came since `stopping_for_sure`."""
    if _signal is not None:
        raise KeyboardInterrupt
