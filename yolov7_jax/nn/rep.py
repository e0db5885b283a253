"""Re-parameterised convolution: parallel branches in training, one convolution afterwards."""

from flax import nnx
from jaxtyping import Array, Float

from yolov7_jax.nn.blocks import Build, ConvAct, uniform_by_fan_in
from yolov7_jax.nn.convolution import convolution
from yolov7_jax.nn.norm import BatchNorm


class RepConv(nnx.Module):
    """The sum of a normalised 3x3, a normalised 1x1 and, if widths allow, the normalised input.

    Source: RepVGG (arXiv 2101.03697); YOLOv7 (arXiv 2207.02696), section 4.1.

    Attributes:
      kernel3, kernel1: `[3, 3, in, out]` and `[1, 1, in, out]`, float32.
      norm3, norm1: the batch norm behind each.
      norm0: the batch norm of the input itself; None if `in` differs from `out`.
      activation: of the sum.
      dtype: the type that is computed in.
    """

    def __init__(self, build: Build, features_in: int, features_out: int):
        self.kernel3 = nnx.Param(
            uniform_by_fan_in(build.rng, (3, 3, features_in, features_out), 9 * features_in)
        )
        self.kernel1 = nnx.Param(
            uniform_by_fan_in(build.rng, (1, 1, features_in, features_out), features_in)
        )
        self.norm3 = BatchNorm(features_out)
        self.norm1 = BatchNorm(features_out)
        self.norm0 = BatchNorm(features_out) if features_in == features_out else None
        self.activation = build.activation
        self.dtype = build.dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Maps `[b, h, w, in]` to `[b, h, w, out]`."""
        x = x.astype(self.dtype)
        total = self.norm3(convolution(x, self.kernel3[...].astype(self.dtype), 1))
        total += self.norm1(convolution(x, self.kernel1[...].astype(self.dtype), 1))
        if self.norm0 is not None:
            total += self.norm0(x)
        return self.activation(total)


class RepConvFolded(ConvAct):
    """What `deploy` makes of a `RepConv`: a 3x3 convolution with bias, and the activation."""
