"""Whose log records are hidden: those of orbax, and nobody else's."""

import logging

import pytest

from yolov7_jax.training.orbax_logging import quieten_orbax


def record(logger, path, message="a message", error=None):
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord(logger, logging.INFO, path, 1, message, None, exc_info)


@pytest.mark.parametrize(
    ("shown", "hidden"),
    [
        (record("absl", "/lib/grain/data.py"), record("absl", "/lib/orbax/checkpoint.py")),
        (
            record("asyncio", "/lib/asyncio/tasks.py", "of another library"),
            record("asyncio", "/lib/asyncio/tasks.py", "exception of <Task orbax/serialize.py>"),
        ),
        (
            record("asyncio", "/lib/asyncio/tasks.py", error=ValueError("of another library")),
            record("asyncio", "/lib/asyncio/tasks.py", error=ValueError("in orbax")),
        ),
    ],
)
def test_records_of_orbax_alone_are_hidden(shown, hidden):
    quieten_orbax()
    logger = logging.getLogger(shown.name)
    assert logger.filter(shown)
    assert not logger.filter(hidden)
