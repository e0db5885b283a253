"""Compiling for tests, which run a program a few times and wait longer for the compiler."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def hastily() -> Iterator[None]:
    """Compiles with little optimisation: in half the time; the numbers differ by rounding."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
