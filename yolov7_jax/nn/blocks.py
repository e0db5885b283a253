"""The blocks that the networks are made of."""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype
from jaxtyping import Array, Float

from yolov7_jax.nn.convolution import convolution
from yolov7_jax.nn.norm import BatchNorm
from yolov7_jax.nn.pooling import max_pool

Activation = Callable[[Array], Array]
POOL_SIZES = (5, 9, 13)


def leaky_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """LeakyReLU of slope 0.1; its gradient at zero is the slope."""
    return jnp.where(x > 0, x, 0.1 * x)


def uniform_by_fan_in(
    rng: np.random.Generator, shape: tuple[int, ...], fan_in: int
) -> Float[Array, "..."]:
    """Draws uniformly from +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return jnp.asarray(rng.uniform(-bound, bound, shape).astype(np.float32))


def scaled_width(width: float, features: int) -> int:
    """Returns `width * features`, rounded up to a multiple of 8."""
    return 8 * math.ceil(width * features / 8)


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w c"]:
    """Doubles height and width by repeating every cell."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


class ConvBnAct(nnx.Module):
    """Convolution without bias, batch norm, activation.

    Attributes:
      kernel: `[k, k, in, out]`, float32.
      norm: the batch norm.
      stride, activation: as given.
      dtype: the type that is computed in.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel_size: int,
        stride: int = 1,
        *,
        activation: Activation,
        dtype: Dtype,
        rng: np.random.Generator,
    ):
        shape = (kernel_size, kernel_size, features_in, features_out)
        fan_in = kernel_size * kernel_size * features_in
        self.kernel = nnx.Param(uniform_by_fan_in(rng, shape, fan_in))
        self.norm = BatchNorm(features_out)
        self.stride = stride
        self.activation = activation
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b y x o"]:
        """Maps `[b, h, w, in]` to `[b, h / stride, w / stride, out]`."""
        kernel = self.kernel[...].astype(self.dtype)
        return self.activation(self.norm(convolution(x.astype(self.dtype), kernel, self.stride)))


class Elan(nnx.Module):
    """Efficient layer aggregation: two 1x1 branches, one of them prolonged by a chain of 3x3.

    The joined maps are, in this order: the links of the chain that are kept, deepest first, then
    `right`, from which the chain starts, then `left`.

    Source: YOLOv7 (arXiv 2207.02696), section 3.

    Attributes:
      left, right: the 1x1 branches, `branch` wide.
      chain: `depth` 3x3 convolutions, `link` wide.
      out: 1x1 over the joined maps.
      keep_every: 1 joins every link of the chain, 2 every second one, counted from the deepest.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        branch: int,
        link: int,
        depth: int,
        keep_every: int,
        activation: Activation,
        dtype: Dtype,
        rng: np.random.Generator,
    ):
        conv = functools.partial(ConvBnAct, activation=activation, dtype=dtype, rng=rng)
        self.left = conv(features_in, branch, 1)
        self.right = conv(features_in, branch, 1)
        self.chain = nnx.List([conv(branch if i == 0 else link, link, 3) for i in range(depth)])
        self.keep_every = keep_every
        kept = len(range(depth - 1, -1, -keep_every))
        self.out = conv(2 * branch + kept * link, features_out, 1)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Maps `[b, h, w, in]` to `[b, h, w, out]`."""
        left, right = self.left(x), self.right(x)
        links = [right]
        for conv in self.chain:
            links.append(conv(links[-1]))
        kept = links[: 0 : -self.keep_every]
        return self.out(jnp.concatenate([*kept, right, left], axis=-1))


class SppCspTiny(nnx.Module):
    """Spatial pyramid pooling with a bypass, the short form of yolov7-tiny.

    Attributes:
      bypass: 1x1 on the input, beside the pools.
      reduce: 1x1 on the input, before the pools.
      merge: 1x1 over the pooled maps and the one that they come from.
      out: 1x1 over (merge, bypass).
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        activation: Activation,
        dtype: Dtype,
        rng: np.random.Generator,
    ):
        conv = functools.partial(ConvBnAct, activation=activation, dtype=dtype, rng=rng)
        self.bypass = conv(features_in, features_out, 1)
        self.reduce = conv(features_in, features_out, 1)
        self.merge = conv((1 + len(POOL_SIZES)) * features_out, features_out, 1)
        self.out = conv(2 * features_out, features_out, 1)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Maps `[b, h, w, in]` to `[b, h, w, out]`."""
        reduced = self.reduce(x)
        pools = [max_pool(reduced, size, 1) for size in reversed(POOL_SIZES)]
        merged = self.merge(jnp.concatenate([*pools, reduced], axis=-1))
        return self.out(jnp.concatenate([merged, self.bypass(x)], axis=-1))
