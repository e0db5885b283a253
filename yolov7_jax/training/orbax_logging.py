"""Keeps orbax's threads from printing what reaches the caller as an exception anyway."""

import functools
import logging
import sys
import traceback


@functools.cache
def quieten_orbax() -> None:
    """Hides the log of every save, and the tracebacks of those that fail.

    For the whole process from now on: the last of them come when the save is long over.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_others)
    show = sys.unraisablehook

    def show_news(unraisable: "sys.UnraisableHookArgs") -> None:
        # Once a write has failed, nobody waits for those beside it; each complains of that.
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_news


def _is_others(record: logging.LogRecord) -> bool:
    """Says whether a record is not of orbax, which logs as absl, and whose tasks as asyncio."""
    trace = traceback.format_exception(*record.exc_info) if record.exc_info else []
    return not any("orbax" in text for text in (record.pathname, record.getMessage(), *trace))
