"""Augmented samples a second, in one thread and in two, and where the time goes.

    python -m benchmarks.pipeline --data instances.json [--seconds 10]

The recipe is that of the P5 models, at 640 pixels. `wall` is what a clock shows; `CPU` is what the
threads' own time amounts to, which other programs on the machine disturb less. All are measured
in turns, so that they meet the same noise. The unavoidable is decoding and resizing the images
that show, one warp of them, and the change of colour; the rest is Python, copies and blending.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from unittest import mock

import cv2
import numpy as np

from yolov7_jax.data.layouts import load_dataset
from yolov7_jax.training.pipeline import augment, render
from yolov7_jax.training.pipeline import file_images as images
from yolov7_jax.training.pipeline.augment import AugmentConfig, train_sample
from yolov7_jax.training.pipeline.image_cache import CachedImages, open_cache
from yolov7_jax.training.pipeline.memory import keep_freed_memory
from yolov7_jax.training.pipeline.plan import Images

IMAGE_SIZE = 640
P5 = AugmentConfig(mosaic=1.0, mixup=0.15, paste_in=0.15, scale=0.9, translate=0.2)
BARE = dataclasses.replace(P5, mixup=0.0, paste_in=0.0)
TURN = 96  # samples of each configuration in turn; at its end one of two threads may wait
# What the public PyTorch loader reached on this recipe and data, in one worker and in two.
PUBLIC = {"P5": (8.4, 15.3), "P5 without mixup and paste-in": (21.0, 41.5)}
UNAVOIDABLE = ("decode", "resize", "warp", "colour")


def make(source: Images, config: AugmentConfig, position: int) -> None:
    """Makes the sample at a position and throws it away."""
    rng = np.random.default_rng(position)
    train_sample(source, position % len(source), IMAGE_SIZE, config, rng)


class Rate(NamedTuple):
    """What so many samples of one configuration have taken, in seconds."""

    samples: int
    wall: float
    processor: float


def measure(
    jobs: dict[tuple[str, int], tuple[Images, AugmentConfig]], seconds: float
) -> dict[tuple[str, int], Rate]:
    """Runs jobs, named by configuration and number of threads, in turns."""
    spent = {name: np.zeros(2) for name in jobs}
    start, first = time.perf_counter(), 0
    with ThreadPoolExecutor(2) as pool:
        while time.perf_counter() - start < seconds * len(jobs):
            for (name, threads), (source, config) in jobs.items():
                each = map if threads == 1 else pool.map
                before = np.asarray((time.perf_counter(), time.process_time()))
                list(each(functools.partial(make, source, config), range(first, first + TURN)))
                spent[name, threads] += (time.perf_counter(), time.process_time()) - before
            first += TURN
    return {name: Rate(first, *times.tolist()) for name, times in spent.items()}


@contextlib.contextmanager
def stopwatches() -> Iterator[dict[str, float]]:
    """Times the parts of a sample, in seconds of the thread; what runs inside counts once."""
    spent: dict[str, float] = collections.defaultdict(float)
    open_parts: list[str] = []

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            outer = bool(open_parts)
            open_parts.append(name)
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                open_parts.pop()
                if not outer:
                    spent[name] += time.thread_time() - start

        return call

    # Between three and four channels and back is a part of the warp: it makes that cheaper.
    parts = [
        (images, "_read_reduced", "decode"),
        (images, "resize", "resize"),
        (render, "_shrink", "resize"),
        (cv2, "warpAffine", "warp"),
        (cv2, "cvtColor", "warp"),
        (augment, "random_hsv", "colour"),
    ]
    with contextlib.ExitStack() as stack:
        for module, attribute, name in parts:
            replaced = timed(name, getattr(module, attribute))
            stack.enter_context(mock.patch.object(module, attribute, replaced))
        yield spent


def breakdown(source: Images, config: AugmentConfig, seconds: float) -> dict[str, float]:
    """Milliseconds a sample of each part in one thread; `rest` is what no part accounts for."""
    samples, start, processor = 0, time.perf_counter(), time.thread_time()
    with stopwatches() as spent:
        while time.perf_counter() - start < seconds:
            make(source, config, samples)
            samples += 1
    total = time.thread_time() - processor
    parts = {name: 1e3 * spent[name] / samples for name in UNAVOIDABLE}
    return {**parts, "rest": 1e3 * total / samples - sum(parts.values())}


def main() -> None:
    """Prints rates, then the breakdown."""
    parser = argparse.ArgumentParser(description="Times the making of augmented samples.")
    parser.add_argument("--data", required=True, help="a data set with outlines")
    parser.add_argument("--seconds", type=float, default=10, help="for each configuration")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    keep_freed_memory()
    dataset = load_dataset(options.data, "train")
    files = images.FileImages(dataset)
    cache = open_cache(dataset, IMAGE_SIZE, "memory", pathlib.Path())
    if cache is None:
        raise SystemExit("no cache was opened")
    cached = CachedImages(files, cache)
    for index in range(len(dataset)):
        for halvings in range(4):
            cached.pixels(index, IMAGE_SIZE, halvings)

    names = list(PUBLIC)
    jobs = {}
    for threads in (1, 2):
        for name, config in zip(names, (P5, BARE), strict=True):
            jobs[name, threads] = files, config
            jobs[f"{name}, cached", threads] = cached, config
    rates = measure(jobs, options.seconds)
    print(f"{'images/s':44}{'threads':>8}{'wall':>8}{'CPU':>8}{'goal':>8}")
    for (name, threads), rate in rates.items():
        goal = f"{4 * PUBLIC[name][threads - 1]:8.1f}" if name in PUBLIC else ""
        by_processor = threads * rate.samples / rate.processor
        print(f"{name:44}{threads:8}{rate.samples / rate.wall:8.1f}{by_processor:8.1f}{goal}")
    for name in names:
        plain, kept = rates[name, 1], rates[f"{name}, cached", 1]
        gain = plain.processor / plain.samples / (kept.processor / kept.samples)
        print(f"the cache speeds {name} up by {gain:.2f} (goal: 2)")

    print(f"\n{'milliseconds a sample, one thread':44}", *(f"{n:>8}" for n in UNAVOIDABLE), sep="")
    for name, config in zip(names, (P5, BARE), strict=True):
        parts = breakdown(files, config, options.seconds)
        share = parts["rest"] / sum(parts.values())
        print(f"{name:44}", *(f"{parts[part]:8.2f}" for part in UNAVOIDABLE), sep="", end="")
        print(f"   rest {parts['rest']:.2f}: {share:.0%} (goal: at most 25%)")


if __name__ == "__main__":
    main()
