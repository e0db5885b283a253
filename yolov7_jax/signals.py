"""The signals that end work in order: Ctrl-C and what schedulers send."""

import contextlib
import signal
import threading
import types
from collections.abc import Callable, Iterator

Handler = Callable[[int, types.FrameType | None], None]


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
