"""The detection head."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype
from jaxtyping import Array, Float

from yolov7_jax.config import HeadConfig
from yolov7_jax.nn.blocks import Build, Features, uniform_by_fan_in
from yolov7_jax.types import Outputs

# What a fresh head expects, so that the first steps are not spent on unlearning a coin toss.
EXPECTED_OBJECTS = 8  # on each level of an image of EXPECTED_SIZE pixels
EXPECTED_SIZE = 640
EXPECTED_CLASS = 0.6


class DetectLevel(nnx.Module):
    """One level of the head: a 1x1 convolution.

    Attributes:
      kernel: `[1, 1, in, a * f]`; output channels are (anchor, field), anchor-major.
      bias: `[a * f]`.
      dtype: the type that products are computed in; logits are float32.
    """

    def __init__(self, kernel: Float[Array, "1 1 i o"], bias: Float[Array, " o"], *, dtype: Dtype):
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(bias)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Maps features to logits; products in `dtype`, sums and result in float32."""
        kernel = self.kernel[0, 0].astype(self.dtype)
        logits = jnp.matmul(x.astype(self.dtype), kernel, preferred_element_type=jnp.float32)
        return logits + self.bias[...]


class ImplicitDetectLevel(DetectLevel):
    """One level of the head, between two learned implicit vectors.

    Attributes:
      implicit_add: `[in]`, added to the input.
      implicit_multiply: `[a * f]`, multiplies the output, bias included.

    Source: implicit knowledge, YOLOR (arXiv 2105.04206).
    """

    def __init__(
        self,
        kernel: Float[Array, "1 1 i o"],
        bias: Float[Array, " o"],
        implicit_add: Float[Array, " i"],
        implicit_multiply: Float[Array, " o"],
        *,
        dtype: Dtype,
    ):
        super().__init__(kernel, bias, dtype=dtype)
        self.implicit_add = nnx.Param(implicit_add)
        self.implicit_multiply = nnx.Param(implicit_multiply)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Maps features to logits; products in `dtype`, sums and result in float32."""
        shifted = x.astype(jnp.float32) + self.implicit_add[...]
        return super().__call__(shifted) * self.implicit_multiply[...]


class Detect(nnx.Module):
    """The head: a convolution per level, and as many for the auxiliary maps of P6 models.

    Attributes:
      levels: the levels that predict, finest first.
      auxiliary: those that only help to train; none in P5 models.
      fields: numbers of anchors and of fields per anchor.
    """

    def __init__(
        self,
        build: Build,
        head: HeadConfig,
        features: tuple[int, ...],
        auxiliary_features: tuple[int, ...],
    ):
        self.levels = nnx.List()
        for level, width in enumerate(features):
            kernel, bias = _fresh_convolution(build.rng, width, level, head)
            add = _normal(build.rng, 0.0, width)
            multiply = _normal(build.rng, 1.0, bias.shape[0])
            self.levels.append(ImplicitDetectLevel(kernel, bias, add, multiply, dtype=build.dtype))
        self.auxiliary = nnx.List()
        for level, width in enumerate(auxiliary_features):
            kernel, bias = _fresh_convolution(build.rng, width, level, head)
            self.auxiliary.append(DetectLevel(kernel, bias, dtype=build.dtype))
        self.fields = (head.num_anchors, head.num_fields)

    def __call__(self, features: Features) -> Outputs:
        """Maps one feature map per level to logits `[b, h, w, a, f]`."""
        # In evaluation the auxiliary maps, and so their logits, are left out.
        auxiliary = self.auxiliary if features.auxiliary else ()
        lead = [level(x) for level, x in zip(self.levels, features.lead, strict=True)]
        more = [level(x) for level, x in zip(auxiliary, features.auxiliary, strict=True)]
        return Outputs(self._by_anchor(lead), self._by_anchor(more))

    def _by_anchor(
        self, logits: Sequence[Float[Array, "b _h _w o"]]
    ) -> tuple[Float[Array, "b _h _w a f"], ...]:
        return tuple(y.reshape(*y.shape[:3], *self.fields) for y in logits)


def _fresh_convolution(
    rng: np.random.Generator | None, features_in: int, level: int, head: HeadConfig
) -> tuple[Float[Array, "1 1 i o"], Float[Array, " o"]]:
    """Draws the start values of a level's kernel and bias."""
    features_out = head.num_anchors * head.num_fields
    kernel = uniform_by_fan_in(rng, (1, 1, features_in, features_out), features_in)
    bias = uniform_by_fan_in(rng, (features_out,), features_in)
    return kernel, bias + _bias_prior(level, head)


def _normal(rng: np.random.Generator | None, mean: float, features: int) -> Float[Array, " c"]:
    """Draws the start values of an implicit vector; zeros without `rng`."""
    if rng is None:
        return jnp.zeros(features)
    return jax.device_put(rng.normal(mean, 0.02, features).astype(np.float32))


def _bias_prior(level: int, head: HeadConfig) -> Float[np.ndarray, " o"]:
    """Returns the log-odds, about, of an object in a cell and of a class; `[a * f]`."""
    cells = (EXPECTED_SIZE / head.strides[level]) ** 2
    fields = [0.0] * 4
    fields += [math.log(EXPECTED_OBJECTS / cells)]
    fields += [math.log(EXPECTED_CLASS / (head.num_classes - 0.99))] * head.num_classes
    return np.tile(np.array(fields, np.float32), head.num_anchors)
