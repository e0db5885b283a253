"""Runs that are interrupted, and what is wrong with their batches, as tests want it."""

import contextlib
import signal
from collections.abc import Collection, Iterator

import numpy as np
import pytest

from yolov7_jax.training import evaluation as evaluate
from yolov7_jax.training import prepare as setup
from yolov7_jax.training.pipeline.stream import train_batches
from yolov7_jax.training.progress import Progress


@contextlib.contextmanager
def signal_after(images: int, number: signal.Signals) -> Iterator[None]:
    """Sends this process a signal when a run has told of so many images."""
    update = Progress.update

    def update_and_signal(self, count, epoch, metrics):
        update(self, count, epoch, metrics)
        if self.seen == images:
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Progress, "update", update_and_signal)
        yield


@contextlib.contextmanager
def signal_in_evaluation(which: int, number: signal.Signals) -> Iterator[list[int]]:
    """Sends this process a signal with the first batch of an evaluation, the `which`th, from 1.

    Yields:
      How many batches each evaluation has seen so far.
    """
    seen: list[int] = []
    begin, shard = setup.evaluate, evaluate.shard_batch

    def begin_and_count(*args, **options):
        seen.append(0)
        return begin(*args, **options)

    def shard_and_signal(*args):
        seen[-1] += 1
        if (len(seen), seen[-1]) == (which, 1):
            signal.raise_signal(number)
        return shard(*args)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(setup, "evaluate", begin_and_count)
        monkeypatch.setattr(evaluate, "shard_batch", shard_and_signal)
        yield seen


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
