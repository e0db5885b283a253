"""Runs that are interrupted, and what is wrong with their batches, as tests want it."""

import contextlib
import signal
from collections.abc import Collection, Iterator

import numpy as np
import pytest

from train import setup
from train.data.pipeline import train_batches
from train.report import Progress


@contextlib.contextmanager
def signal_after(images: int, number: signal.Signals) -> Iterator[None]:
    """Sends this process a signal when a run has told of so many pictures."""
    update = Progress.update

    def update_and_signal(self, count, epoch, metrics):
        update(self, count, epoch, metrics)
        if self.seen == images:
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Progress, "update", update_and_signal)
        yield


@contextlib.contextmanager
def poisoned(steps: Collection[int]) -> Iterator[None]:
    """Gives the batches of some steps objects whose place is not a number."""

    def batches(*args, first_step=0, **options):
        sound = train_batches(*args, first_step=first_step, **options)
        with contextlib.closing(sound):
            for step, batch in enumerate(sound, first_step):
                boxes = batch.targets.boxes
                if step in steps:
                    boxes = np.where([True, False, False, False], np.float32(np.nan), boxes)
                yield batch._replace(targets=batch.targets._replace(boxes=boxes))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(setup, "train_batches", batches)
        yield
