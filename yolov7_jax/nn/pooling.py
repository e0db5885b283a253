"""Max-pooling over NHWC maps, whose gradient goes to one cell of each window."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def max_pool(x: Float[Array, "b h w c"], size: int, stride: int) -> Float[Array, "b y x c"]:
    """Takes the largest value of each window.

    The gradient goes to the first of equal values, row by row, as it does in PyTorch and in XLA's
    `reduce_window`. It is computed here by comparing each row and then each column of windows with
    its largest value, because XLA scatters instead, on the CPU one cell after the other: in
    processor milliseconds for forward and backward 106 against 13 of 2/2 on `[8, 160, 160, 32]`,
    126 against 1.4 of 13/1 on `[8, 10, 10, 256]`.

    Args:
      x: `[b, h, w, c]`; h and w are multiples of the stride.
      size: side of the windows: odd for stride 1, equal to the stride otherwise.
      stride: step between windows. With stride 1 the map is padded by size // 2 and keeps its
        size, and the padding never wins.

    Returns:
      `[b, h / stride, w / stride, c]`.
    """
    return _max_pool(x, size, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x, size, stride):
    return _pool_axis(_pool_axis(x, size, stride, 2), size, stride, 1)


def _forward(x, size, stride):
    y = _max_pool(x, size, stride)
    return y, (x, y)


def _backward(size, stride, residuals, gradient):
    x, y = residuals
    rows = _pool_axis(x, size, stride, 2)
    # Columns of windows first: the topmost row wins, and in it then the leftmost cell.
    gradient = _pool_axis_gradient(rows, y, gradient, size, stride, 1)
    return (_pool_axis_gradient(x, rows, gradient, size, stride, 2),)


_max_pool.defvjp(_forward, _backward)


def _pool_axis(x, size, stride, axis):
    """Takes the largest value of each window along one axis."""
    return functools.reduce(jnp.maximum, _window_cells(x, size, stride, axis))


def _window_cells(x, size, stride, axis):
    """Returns the first, second ... cell of every window along an axis."""
    if stride > 1:
        split = x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :])
        return [jax.lax.index_in_dim(split, i, axis + 1, keepdims=False) for i in range(size)]
    length = x.shape[axis]
    padding = [(0, 0)] * 4
    padding[axis] = (size // 2, size // 2)
    padded = jnp.pad(x, padding, constant_values=-jnp.inf)
    return [jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(size)]


def _pool_axis_gradient(x, y, gradient, size, stride, axis):
    """Gives every window's gradient to the first of its cells that equals the largest value."""
    first = jnp.full(y.shape, size, jnp.int8)
    for i, cell in reversed(list(enumerate(_window_cells(x, size, stride, axis)))):
        first = jnp.where(cell == y, jnp.int8(i), first)
    # Without barriers the compiler repeats the search for each of the uses below.
    first = jax.lax.optimization_barrier(first)
    if stride > 1:
        parts = [jnp.where(first == i, gradient, 0) for i in range(size)]
        return jnp.stack(parts, axis + 1).reshape(x.shape)
    padding = [(0, 0)] * 4
    padding[axis] = (size // 2, size // 2)
    first, gradient = jax.lax.optimization_barrier(
        (jnp.pad(first, padding, constant_values=size), jnp.pad(gradient, padding))
    )
    total = jnp.zeros_like(x)
    for i in range(size):
        # A cell is the i-th of the window whose centre lies i - size // 2 steps before it.
        start, stop = size - 1 - i, size - 1 - i + x.shape[axis]
        wins = jax.lax.slice_in_dim(first, start, stop, axis=axis) == i
        total += jnp.where(wins, jax.lax.slice_in_dim(gradient, start, stop, axis=axis), 0)
    return total
