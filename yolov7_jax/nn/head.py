"""The detection head."""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype
from jaxtyping import Array, Float

from yolov7_jax.config import HeadConfig
from yolov7_jax.nn.blocks import uniform_by_fan_in
from yolov7_jax.types import Outputs

# What a fresh head expects, so that the first steps are not spent on unlearning a coin toss.
EXPECTED_OBJECTS = 8  # on each level of a picture of EXPECTED_SIZE pixels
EXPECTED_SIZE = 640
EXPECTED_CLASS = 0.6


class DetectLevel(nnx.Module):
    """One level of the head: a 1x1 convolution between two learned implicit vectors.

    Attributes:
      kernel: `[1, 1, in, a * f]`; output channels are (anchor, field), anchor-major.
      bias: `[a * f]`.
      implicit_add: `[in]`, added to the input.
      implicit_multiply: `[a * f]`, multiplies the output, bias included.

    Source: implicit knowledge, YOLOR (arXiv 2105.04206).
    """

    def __init__(self, features_in: int, level: int, head: HeadConfig, rng: np.random.Generator):
        features_out = head.num_anchors * head.num_fields
        shape = (1, 1, features_in, features_out)
        self.kernel = nnx.Param(uniform_by_fan_in(rng, shape, features_in))
        bias = uniform_by_fan_in(rng, (features_out,), features_in)
        self.bias = nnx.Param(bias + _bias_prior(level, head))
        self.implicit_add = nnx.Param(_normal(rng, 0.0, features_in))
        self.implicit_multiply = nnx.Param(_normal(rng, 1.0, features_out))

    def __call__(self, x: Float[Array, "b h w i"], dtype: Dtype) -> Float[Array, "b h w o"]:
        """Maps features to logits; products in `dtype`, sums and result in float32."""
        shifted = (x.astype(jnp.float32) + self.implicit_add[...]).astype(dtype)
        kernel = self.kernel[0, 0].astype(dtype)
        logits = jnp.matmul(shifted, kernel, preferred_element_type=jnp.float32)
        return (logits + self.bias[...]) * self.implicit_multiply[...]


class Detect(nnx.Module):
    """The head of a model without auxiliary heads: one `DetectLevel` per level.

    Attributes:
      levels: the levels, finest first.
      fields: numbers of anchors and of fields per anchor.
      dtype: the type that products are computed in; logits are float32.
    """

    def __init__(
        self, features: tuple[int, ...], head: HeadConfig, *, dtype: Dtype, rng: np.random.Generator
    ):
        self.levels = nnx.List(
            [DetectLevel(width, level, head, rng) for level, width in enumerate(features)]
        )
        self.fields = (head.num_anchors, head.num_fields)
        self.dtype = dtype

    def __call__(self, features: tuple[Float[Array, "b _h _w _c"], ...]) -> Outputs:
        """Maps one feature map per level to logits `[b, h, w, a, f]`."""
        logits = [level(x, self.dtype) for level, x in zip(self.levels, features, strict=True)]
        return Outputs(tuple(y.reshape(*y.shape[:3], *self.fields) for y in logits))


def _normal(rng: np.random.Generator, mean: float, features: int) -> Float[Array, " c"]:
    """Draws the start values of an implicit vector."""
    return jnp.asarray(rng.normal(mean, 0.02, features).astype(np.float32))


def _bias_prior(level: int, head: HeadConfig) -> Float[Array, " o"]:
    """Returns the log-odds, about, of an object in a cell and of a class; `[a * f]`."""
    cells = (EXPECTED_SIZE / head.strides[level]) ** 2
    fields = [0.0] * 4
    fields += [math.log(EXPECTED_OBJECTS / cells)]
    fields += [math.log(EXPECTED_CLASS / (head.num_classes - 0.99))] * head.num_classes
    return jnp.tile(jnp.array(fields, jnp.float32), head.num_anchors)
