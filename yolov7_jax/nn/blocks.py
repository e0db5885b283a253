"""The blocks that the networks are made of."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype
from jaxtyping import Array, Float

from yolov7_jax.nn.convolution import convolution
from yolov7_jax.nn.norm import Activation, BatchNorm
from yolov7_jax.nn.pooling import max_pool

FeatureMap = Float[Array, "b _h _w _c"]
POOL_SIZES = (5, 9, 13)


class Features(NamedTuple):
    """What a neck hands to the head.

    Attributes:
      lead: one `[b, h, w, c]` map per level, finest first.
      auxiliary: as many more for the auxiliary heads, where the model has some and trains.
    """

    lead: tuple[FeatureMap, ...]
    auxiliary: tuple[FeatureMap, ...] = ()


def leaky_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """LeakyReLU of slope 0.1; its gradient at zero is the slope."""
    return jnp.where(x > 0, x, 0.1 * x)


def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """SiLU, `x * sigmoid(x)`; a plain function, unlike `jax.nn.silu`, so models can be pickled."""
    return x * jax.nn.sigmoid(x)


def uniform_by_fan_in(
    rng: np.random.Generator | None, shape: tuple[int, ...], fan_in: int
) -> Float[Array, "..."]:
    """Draws uniformly from +-1 / sqrt(fan_in); zeros without `rng`."""
    if rng is None:
        return jnp.zeros(shape)
    bound = fan_in**-0.5
    return jax.device_put(rng.uniform(-bound, bound, shape).astype(np.float32))


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w c"]:
    """Doubles height and width by repeating every cell."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def space_to_depth(x: Float[Array, "b 2h 2w c"]) -> Float[Array, "b h w 4c"]:
    """Halves height and width: the four cells of every 2x2 become channels.

    Their order is (even row, even column), (odd, even), (even, odd), (odd, odd).
    """
    return join(x[:, ::2, ::2], x[:, 1::2, ::2], x[:, ::2, 1::2], x[:, 1::2, 1::2])


def join(*maps: Float[Array, "b h w _c"]) -> Float[Array, "b h w c"]:
    """Puts the channels of maps of one size behind each other."""
    return jnp.concatenate(maps, axis=-1)


@dataclasses.dataclass(frozen=True)
class Build:
    """What all blocks of one model have in common when they are made.

    Attributes:
      width: multiplies all numbers of channels.
      activation: behind every norm.
      dtype: the type that is computed in; parameters and statistics are float32.
      rng: draws the start parameters; without one they are zeros, for `nnx.eval_shape`.
    """

    width: float
    activation: Activation
    dtype: Dtype
    rng: np.random.Generator | None

    def scaled(self, features: int) -> int:
        """Returns `width * features`, rounded up to a multiple of 8."""
        return 8 * math.ceil(self.width * features / 8)


class ConvBnAct(nnx.Module):
    """Convolution without bias, batch norm, activation.

    Attributes:
      kernel: `[k, k, in, out]`, float32.
      norm: the batch norm.
      stride, activation: as given.
      dtype: the type that is computed in.
    """

    def __init__(
        self, build: Build, features_in: int, features_out: int, kernel_size: int, stride: int = 1
    ):
        shape = (kernel_size, kernel_size, features_in, features_out)
        fan_in = kernel_size * kernel_size * features_in
        self.kernel = nnx.Param(uniform_by_fan_in(build.rng, shape, fan_in))
        self.norm = BatchNorm(features_out)
        self.stride = stride
        self.activation = build.activation
        self.dtype = build.dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b y x o"]:
        """Maps `[b, h, w, in]` to `[b, h / stride, w / stride, out]`."""
        kernel = self.kernel[...].astype(self.dtype)
        return self.norm(convolution(x.astype(self.dtype), kernel, self.stride), self.activation)


class ConvAct(nnx.Module):
    """Convolution with bias, activation: what `deploy` makes of a `ConvBnAct`.

    Attributes:
      kernel: `[k, k, in, out]`, float32.
      bias: `[out]`, float32.
      stride, activation: as given.
      dtype: the type that is computed in.
    """

    def __init__(
        self,
        kernel: Float[Array, "k k i o"],
        bias: Float[Array, " o"],
        stride: int,
        *,
        activation: Activation,
        dtype: Dtype,
    ):
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(bias)
        self.stride = stride
        self.activation = activation
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b y x o"]:
        """Maps `[b, h, w, in]` to `[b, h / stride, w / stride, out]`."""
        kernel = self.kernel[...].astype(self.dtype)
        y = convolution(x.astype(self.dtype), kernel, self.stride)
        return self.activation(y + self.bias[...].astype(self.dtype))


class Stage(nnx.Module):
    """A block of many convolutions, whose inner maps need not be kept for the gradient.

    Attributes:
      remat: compute the inner maps again when the gradient needs them; `create` sets it.
    """

    remat: bool = False

    def _forward(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        raise NotImplementedError

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Maps `[b, h, w, in]` to `[b, h, w, out]`."""
        return nnx.remat(type(self)._forward)(self, x) if self.remat else self._forward(x)


class Elan(Stage):
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
        build: Build,
        features_in: int,
        features_out: int,
        *,
        branch: int,
        link: int,
        depth: int,
        keep_every: int,
    ):
        conv = functools.partial(ConvBnAct, build)
        self.left = conv(features_in, branch, 1)
        self.right = conv(features_in, branch, 1)
        self.chain = nnx.List([conv(branch if i == 0 else link, link, 3) for i in range(depth)])
        self.keep_every = keep_every
        kept = len(range(depth - 1, -1, -keep_every))
        self.out = conv(2 * branch + kept * link, features_out, 1)

    def _forward(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        left, right = self.left(x), self.right(x)
        links = [right]
        for conv in self.chain:
            links.append(conv(links[-1]))
        kept = links[: 0 : -self.keep_every]
        return self.out(join(*kept, right, left))


class ElanPair(nnx.Module):
    """Two aggregations side by side, added: the paper's extended aggregation, E-ELAN.

    Source: YOLOv7 (arXiv 2207.02696), section 3.

    Attributes:
      first, second: the aggregations, of the same widths.
    """

    def __init__(self, first: Elan, second: Elan):
        self.first = first
        self.second = second

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Maps `[b, h, w, in]` to `[b, h, w, out]`."""
        return self.first(x) + self.second(x)


class Down(nnx.Module):
    """Halves height and width in two ways, half of the channels each.

    Source: YOLOv7 (arXiv 2207.02696).

    Attributes:
      reduce: 1x1 before `conv`, `middle` wide.
      conv: 3x3 of stride 2.
      pooled: 1x1 behind a max-pool.
    """

    def __init__(self, build: Build, features_in: int, features_out: int, *, middle: int):
        conv = functools.partial(ConvBnAct, build)
        self.reduce = conv(features_in, middle, 1)
        self.conv = conv(middle, features_out // 2, 3, 2)
        self.pooled = conv(features_in, features_out // 2, 1)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b y x o"]:
        """Maps `[b, h, w, in]` to `[b, h / 2, w / 2, out]`."""
        return join(self.conv(self.reduce(x)), self.pooled(max_pool(x, 2, 2)))


class SppCsp(Stage):
    """Spatial pyramid pooling inside a cross-stage partial block.

    Attributes:
      bypass: 1x1 on the input, beside everything else.
      reduce, mix, squeeze: 1x1, 3x3, 1x1 before the pools.
      merge, out_mix: 1x1 over the pooled maps and the one that they come from, 3x3.
      out: 1x1 over (out_mix, bypass).
    """

    def __init__(self, build: Build, features_in: int, features_out: int):
        conv = functools.partial(ConvBnAct, build)
        self.bypass = conv(features_in, features_out, 1)
        self.reduce = conv(features_in, features_out, 1)
        self.mix = conv(features_out, features_out, 3)
        self.squeeze = conv(features_out, features_out, 1)
        self.merge = conv((1 + len(POOL_SIZES)) * features_out, features_out, 1)
        self.out_mix = conv(features_out, features_out, 3)
        self.out = conv(2 * features_out, features_out, 1)

    def _forward(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        squeezed = self.squeeze(self.mix(self.reduce(x)))
        pools = [max_pool(squeezed, size, 1) for size in POOL_SIZES]
        merged = self.out_mix(self.merge(join(squeezed, *pools)))
        return self.out(join(merged, self.bypass(x)))


class SppCspTiny(Stage):
    """Spatial pyramid pooling with a bypass, the short form of yolov7-tiny.

    Attributes:
      bypass: 1x1 on the input, beside the pools.
      reduce: 1x1 on the input, before the pools.
      merge: 1x1 over the pooled maps and the one that they come from.
      out: 1x1 over (merge, bypass).
    """

    def __init__(self, build: Build, features_in: int, features_out: int):
        conv = functools.partial(ConvBnAct, build)
        self.bypass = conv(features_in, features_out, 1)
        self.reduce = conv(features_in, features_out, 1)
        self.merge = conv((1 + len(POOL_SIZES)) * features_out, features_out, 1)
        self.out = conv(2 * features_out, features_out, 1)

    def _forward(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        reduced = self.reduce(x)
        pools = [max_pool(reduced, size, 1) for size in reversed(POOL_SIZES)]
        merged = self.merge(join(*pools, reduced))
        return self.out(join(merged, self.bypass(x)))
