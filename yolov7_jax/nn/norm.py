"""Batch normalisation whose statistics are those of the global batch."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

EPSILON = 1e-3
MOMENTUM = 0.97  # keeps 97 % of the old statistics: PyTorch's 0.03 counts the other way


class BatchNorm(nnx.Module):
    """Normalises every channel, by the statistics of the batch or by the running ones.

    Statistics are float32 whatever the input is, and the variance is computed in a second pass
    around the mean: the usual `E[x^2] - E[x]^2` loses all digits when the mean is large.

    Attributes:
      scale, bias: `[c]`, learned.
      mean, variance: `[c]`, running statistics; the variance is the unbiased one.
      use_running_average: what to normalise by; `train()` and `eval()` of a model set it.
      axis_name: the mapped axis, under `shard_map` or `pmap`, over which a batch is spread.
      batches_tracked: a counter of the official checkpoints. It is kept so that they survive a
        round trip; nothing is computed from it and training does not advance it.
    """

    def __init__(self, features: int):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.variance = nnx.BatchStat(jnp.ones(features))
        self.use_running_average = False
        self.axis_name: str | None = None
        self.batches_tracked = 0

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the normalised map, in the type of `x`; in training updates the statistics."""
        values = x.astype(jnp.float32)
        if self.use_running_average:
            mean, variance = self.mean[...], self.variance[...]
        else:
            mean, variance, count = _moments(values, self.axis_name)
            self._update(jax.lax.stop_gradient(mean), jax.lax.stop_gradient(variance), count)
        gain = jax.lax.rsqrt(variance + EPSILON) * self.scale[...]
        return ((values - mean) * gain + self.bias[...]).astype(x.dtype)

    def _update(self, mean: Float[Array, " c"], variance: Float[Array, " c"], count: int):
        unbiased = variance * (count / max(count - 1, 1))
        # Assigning to `mean[...]` instead compares shardings, which takes time quadratic in the
        # size of the program that is being traced: 9 of 10 seconds for yolov7-e6e.
        self.mean.set_value(MOMENTUM * self.mean[...] + (1 - MOMENTUM) * mean)
        self.variance.set_value(MOMENTUM * self.variance[...] + (1 - MOMENTUM) * unbiased)


def _moments(
    x: Float[Array, "b h w c"], axis_name: str | None
) -> tuple[Float[Array, " c"], Float[Array, " c"], int]:
    """Returns mean, biased variance and the number of values behind each, over all devices."""
    count = x.shape[0] * x.shape[1] * x.shape[2]
    mean = x.mean((0, 1, 2))
    if axis_name is None:
        return mean, jnp.square(x - mean).mean((0, 1, 2)), count
    mean = jax.lax.pmean(mean, axis_name)
    variance = jax.lax.pmean(jnp.square(x - mean).mean((0, 1, 2)), axis_name)
    return mean, variance, count * jax.lax.axis_size(axis_name)
