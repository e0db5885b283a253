"""Convolution over NHWC maps, with gradients that are fast on every platform.

This is the one place that chooses by platform. XLA's own forms are right on accelerators, and so is
its forward 3x3 on the CPU. Around it, XLA's CPU compiler is slow in three places, and the same sums
are written in another order there:

- A 1x1 is a matrix product, everywhere, over a map that was made a matrix: a product over three
  axes at once costs a transposed copy of the map in the gradient.
- The input's gradient. Where the map is smaller than the kernel, one product with the whole kernel
  and nine shifted sums: XLA turns the kernel round first. At stride 2, the four phases of even and
  odd rows and columns: XLA convolves a map that is three quarters zeros.
- The kernel's gradient. XLA convolves with windows of the map's size. Here it is one matrix product
  of the map beside itself, one column to the left and to the right, with the gradient beside
  itself, one row up and down: six copies give nine taps, where im2col makes nine copies. Maps that
  exceed the cache are taken in strips of rows.

Processor milliseconds on a Xeon with AVX-512, float32, batch 2, XLA's form against this one:

                            input's gradient   kernel's gradient
    320x320,   32 ->   64 / 2     52 -> 26          84 -> 50
    160x160,   64 ->   64                          105 -> 65
    160x160,   64 ->  128 / 2     21 -> 20          71 -> 31
    80x80,     64 ->   64                           23 -> 16
    20x20,    512 ->  512 / 2     13 -> 7.5         10 -> 11
    10x10,    512 ->  512         12 -> 7.7        9.7 -> 8.5
    10x10,    512 -> 1024         35 -> 15          21 -> 17

XLA's kernel gradients keep to one core where the features outnumber the batch's cells, these ones
use all. A training step of yolov7 at 320 pixels takes 1.08 seconds on two cores so, 1.94 plainly.
benchmarks/model.py measures what whole training steps gain. Tried and slower: im2col for a whole
batch, by image or by strip; nine products of shifted maps; maps with channels first, whose
transposed copies cost more than the faster product saves; a convolution in which rows or images
are the features; for the input at stride 2 a single 2x2 convolution that gives the four phases.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from yolov7_jax.sharding import varying_like

# Up to this many cells in a batch, the kernel is the larger factor of the input's gradient.
FEW_CELLS = 1024
# With fewer features, as in the first layer, the products are too thin to be fast.
FEW_FEATURES = 16
# Numbers of the map in one strip: with its copies it stays within 8 MB of cache.
STRIP_SIZE = 2**18


# Traced and differentiated once for all layers of the same shapes.
@functools.partial(jax.jit, static_argnums=2)
def convolution(
    x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"], stride: int
) -> Float[Array, "b y x o"]:
    """Convolves with padding k // 2, so stride 1 keeps the size.

    Args:
      x: `[b, h, w, in]`; h and w are multiples of the stride.
      kernel: `[k, k, in, out]`, k odd.
      stride: 1 or 2.

    Returns:
      `[b, h / stride, w / stride, out]`.
    """
    if kernel.shape[0] == 1 and stride == 1:
        return _product(x, kernel[0, 0])
    if kernel.shape[0] == 3:
        # So that under shard_map the kernel's gradient is summed over the devices.
        return _convolution3(x, varying_like(kernel, x), stride)
    return _xla_convolution(x, kernel, stride)


def _product(x: Float[Array, "b h w i"], matrix: Float[Array, "i o"]) -> Float[Array, "b h w o"]:
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)


def _xla_convolution(x, kernel, stride):
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution3(x, kernel, stride):
    return _xla_convolution(x, kernel, stride)


def _forward(x, kernel, stride):
    return _xla_convolution(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, gradient):
    x, kernel = residuals
    return lax.platform_dependent(
        x,
        kernel,
        gradient,
        cpu=functools.partial(_cpu_gradients, stride),
        default=functools.partial(_xla_gradients, stride),
    )


_convolution3.defvjp(_forward, _backward)


def _xla_gradients(stride, x, kernel, gradient):
    _, transpose = jax.vjp(lambda x, kernel: _xla_convolution(x, kernel, stride), x, kernel)
    return transpose(gradient)


def _cpu_gradients(stride, x, kernel, gradient):
    input_gradient, kernel_gradient = _xla_gradients(stride, x, kernel, gradient)
    b, h, w, _ = gradient.shape
    if b * h * w <= FEW_CELLS:
        input_gradient = _input_gradient_by_taps(stride, kernel, gradient)
    elif stride == 2:
        input_gradient = _input_gradient_by_phases(kernel, gradient)
    if x.shape[3] >= FEW_FEATURES:
        kernel_gradient = _kernel_gradient_by_strips(stride, x, gradient).astype(kernel.dtype)
    return input_gradient, kernel_gradient


def _input_gradient_by_taps(
    stride: int, kernel: Float[Array, "3 3 i o"], gradient: Float[Array, "b y x o"]
) -> Float[Array, "b h w i"]:
    """Multiplies by the kernel's nine taps at once and adds up the products, shifted."""
    b, y, x, features_out = gradient.shape
    products = lax.dot_general(
        gradient.reshape(-1, features_out),
        kernel.reshape(-1, features_out),
        (((1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    ).reshape(b, y, x, 3, 3, -1)
    rows = [
        _sum_of_taps([products[:, :, :, i, j] for j in range(3)], stride, axis=2) for i in range(3)
    ]
    return _sum_of_taps(rows, stride, axis=1).astype(gradient.dtype)


def _sum_of_taps(
    taps: Sequence[Float[Array, "b _h _w i"]], stride: int, axis: int
) -> Float[Array, "b _y _x i"]:
    """Adds up what the three taps along an axis give to the cells that they touch."""
    before, centre, after = taps
    if stride == 1:
        return _shift(before, axis, -1) + centre + _shift(after, axis, 1)
    pairs = jnp.stack([centre, after + _shift(before, axis, -1)], axis + 1)
    return pairs.reshape(*centre.shape[:axis], -1, *centre.shape[axis + 1 :])


def _input_gradient_by_phases(
    kernel: Float[Array, "3 3 i o"], gradient: Float[Array, "b y x o"]
) -> Float[Array, "b 2y 2x i"]:
    """Convolves for even and for odd rows and columns apart, at stride 2."""
    b, y, x, _ = gradient.shape
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)

    def phase(rows: slice, columns: slice) -> Float[Array, "b y x i"]:
        taps = flipped[rows, columns]
        if taps.shape[:2] == (1, 1):
            return _product(gradient, taps[0, 0])
        padding = ((0, taps.shape[0] - 1), (0, taps.shape[1] - 1))
        return lax.conv_general_dilated(
            gradient, taps, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    # An even cell is met by the middle tap alone, an odd one by the last and the next one's first.
    even, odd = slice(1, 2), slice(0, 3, 2)
    phases = [
        jnp.stack([phase(rows, even), phase(rows, odd)], axis=3)  # [b, y, x, 2, i]
        for rows in (even, odd)
    ]
    return jnp.stack(phases, axis=2).reshape(b, 2 * y, 2 * x, -1)


def _kernel_gradient_by_strips(
    stride: int, x: Float[Array, "b h w i"], gradient: Float[Array, "b y x o"]
) -> Float[Array, "3 3 i o"]:
    """Adds up the kernel's gradients of strips of rows, in float32."""
    b, height, width, features_out = gradient.shape
    features_in = x.shape[3]
    row_size = b * width * features_in * stride**2
    rows = max(
        n
        for n in range(1, height + 1)
        if height % n == 0 and (n == 1 or n * row_size <= STRIP_SIZE)
    )
    # A row of x meets the gradient of its own row and of the ones around it.
    above, below = 2 - stride, 1
    padded = jnp.pad(gradient, ((0, 0), (above, below), (0, 0), (0, 0)))

    def add_strip(i, total):
        strip = lax.dynamic_slice_in_dim(x, i * rows * stride, rows * stride, axis=1)
        around = lax.dynamic_slice_in_dim(padded, i * rows, above + rows + below, axis=1)
        return total + _strip_gradient(stride, strip, around)

    if rows == height:
        total = _strip_gradient(stride, x, padded)
    else:
        zeros = jnp.zeros((3, 3 * features_in, features_out))
        total = lax.fori_loop(0, height // rows, add_strip, varying_like(zeros, x))
    return total.reshape(3, 3, features_in, features_out)


def _strip_gradient(
    stride: int, x: Float[Array, "b h w i"], gradient: Float[Array, "b _y _x o"]
) -> Float[Array, "3 3i o"]:
    """Multiplies a strip, shifted along its rows, by its gradient, shifted along the columns.

    Args:
      stride: of the convolution.
      x: `[b, h, w, in]`.
      gradient: `[b, h / stride + 3 - stride, w / stride, out]`: one more row below, and one above
        if the stride is 1.

    Returns:
      `[3, 3 * in, out]`: rows of taps; columns of taps and features.
    """
    b, h, w, features = x.shape
    if stride == 1:
        columns = jnp.concatenate([_shift(x, 2, 1), x, _shift(x, 2, -1)], axis=-1)
        return jnp.stack(_sums_of_products(columns, [gradient[:, i : i + h] for i in (2, 1, 0)]))
    pairs = x.reshape(b, h // 2, 2, w // 2, 2 * features)
    columns = jnp.concatenate([_shift(pairs[..., features:], 3, 1), pairs], axis=-1)
    here, below = gradient[:, :-1], gradient[:, 1:]
    (centre,) = _sums_of_products(columns[:, :, 0], [here])
    before, after = _sums_of_products(columns[:, :, 1], [below, here])
    return jnp.stack([before, centre, after])


def _sums_of_products(
    columns: Float[Array, "b h w i"], gradients: Sequence[Float[Array, "b h w o"]]
) -> list[Float[Array, "i o"]]:
    """Sums over all cells the products of every feature with every one of some gradients."""
    joined = jnp.concatenate(gradients, axis=-1)
    products = lax.dot_general(
        columns.reshape(-1, columns.shape[-1]),
        joined.reshape(-1, joined.shape[-1]),
        (((0,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    return jnp.split(products, len(gradients), axis=1)


def _shift(x: Array, axis: int, by: int) -> Array:
    """Moves everything `by` cells on along an axis; zeros come in."""
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (by, -by, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), padding)
