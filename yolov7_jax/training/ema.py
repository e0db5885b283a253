"""EMA: the exponential moving average of parameters and statistics, which evaluation uses."""

from typing import Any

import jax
import jax.numpy as jnp

EMA_DECAY = 0.9999
EMA_RAMP = 2000.0  # updates; the average forgets quickly while the weights still move quickly


def update_ema(average: Any, current: Any, updates: jax.Array) -> Any:
    """Updates the running average of parameters and statistics.

    Args:
      average: the average so far; before the first update, a copy of the start weights.
      current: the values after the update; a tree like `average`.
      updates: number of updates so far, this one included.

    Returns:
      The new average; exactly the old one of what is frozen.
    """
    keep = EMA_DECAY * (1 - jnp.exp(-updates.astype(jnp.float32) / EMA_RAMP))

    def mixed(old: jax.Array, new: jax.Array) -> jax.Array:
        # Rounding would move an average of equal numbers.
        return jnp.where(new == old, old, keep * old + (1 - keep) * new).astype(old.dtype)

    return jax.tree.map(mixed, average, current)
