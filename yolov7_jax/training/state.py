"""What a training run is made of between two steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from yolov7_jax.training.optim import init_optimizer
from yolov7_jax.training.schedule import OptimConfig


class TrainState(NamedTuple):
    """Everything that a step reads and writes; saved whole, it continues a run exactly.

    Attributes:
      step: batches seen; the state of the input pipeline as well.
      params: what the optimiser updates.
      batch_stats: running statistics of the norms.
      opt_state: momentum of the optimiser.
      gradients: sum of the gradients since the last update.
      summed: batches whose gradients are in it.
      updates: updates of the parameters so far.
      ema_params: running average of the parameters; evaluation uses it.
      ema_batch_stats: the same of the statistics.
      skipped: batches left out because their loss or gradients were not finite.
      skipped_in_row: those among the batches just before this step.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    gradients: Any
    summed: jax.Array
    updates: jax.Array
    ema_params: Any
    ema_batch_stats: Any
    skipped: jax.Array
    skipped_in_row: jax.Array


def create_state(params: Any, batch_stats: Any, config: OptimConfig) -> TrainState:
    """Returns the state before the first step.

    No two fields share an array, so that all of them can be donated.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=init_optimizer(config, params),
        gradients=jax.tree.map(jnp.zeros_like, params),
        summed=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
        ema_params=jax.tree.map(jnp.copy, params),
        ema_batch_stats=jax.tree.map(jnp.copy, batch_stats),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
    )
