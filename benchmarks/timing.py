"""What benchmarks measure times with."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import jax
import numpy as np

Name = TypeVar("Name", bound=Hashable)


def times_in_turns(
    calls: Mapping[Name, Callable[[], object]],
    repeats: int,
    summary: Callable[[list[float]], float] = np.median,
) -> dict[Name, float]:
    """Milliseconds of each call, taken in turns so that all meet the same noise.

    Args:
      calls: what to measure; each is called once before, to compile.
      repeats: number of turns.
      summary: of the times of a call.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(summary(taken)) for name, taken in times.items()}


def machine() -> str:
    """Returns what numbers were measured on."""
    return f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
