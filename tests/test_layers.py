"""Convolution, pooling and normalisation against plain formulations, on one device and on many."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_model import largest_error
from jax.sharding import PartitionSpec as P

from benchmarks.model import plain_convolution, plain_max_pool
from yolov7_jax.nn.blocks import Build, ConvBnAct, Elan, leaky_relu
from yolov7_jax.nn.convolution import convolution
from yolov7_jax.nn.norm import BatchNorm
from yolov7_jax.nn.pooling import max_pool


def test_leaky_relu_has_slope_a_tenth_at_and_below_zero():
    x = jnp.array([-2.0, 0.0, 3.0])
    np.testing.assert_allclose(leaky_relu(x), [-0.2, 0, 3])
    np.testing.assert_allclose(jax.vmap(jax.grad(leaky_relu))(x), [0.1, 0.1, 1])


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride"),
    [((40, 32), 3, 1), ((72, 64), 3, 2), ((6, 8), 1, 1)],  # small ones: test_convolution
)
def test_convolution_and_its_gradients_equal_the_plain_ones(size, kernel_size, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 5)).astype(np.float32)
    kernel = rng.normal(size=(kernel_size, kernel_size, 5, 7)).astype(np.float32)
    weights = rng.normal(size=(2, size[0] // stride, size[1] // stride, 7)).astype(np.float32)

    def results(function):
        def weighted(x, kernel):
            y = function(x, kernel, stride)
            return (y * weights).sum(), y

        gradients, y = jax.jit(jax.grad(weighted, (0, 1), has_aux=True))(x, kernel)
        return y, *gradients

    for got, wanted in zip(results(convolution), results(plain_convolution), strict=True):
        assert largest_error(got, np.asarray(wanted)) < 1e-5


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (5, 1), (9, 1), (13, 1)])
def test_max_pool_equals_the_plain_one_and_the_first_of_equals_gets_the_gradient(size, stride):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, (2, 10, 14, 3)).astype(np.float32)  # few values: many ties
    gradient = rng.integers(-8, 8, (2, 10 // stride, 14 // stride, 3)).astype(np.float32)

    def results(function):
        def both(x, gradient):
            y, transpose = jax.vjp(lambda x: function(x, size, stride), x)
            return y, transpose(gradient)[0]

        return jax.jit(both)(x, gradient)

    for got, wanted in zip(results(max_pool), results(plain_max_pool), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_batch_norm_reads_as_in_numpy():
    rng = np.random.default_rng(0)
    x = rng.normal(300, 0.1, (2, 3, 4, 5)).astype(np.float32)  # one pass would lose all digits
    norm = BatchNorm(5)
    norm.scale[...] = jnp.arange(1.0, 6)
    norm.bias[...] = jnp.arange(5.0)
    exact = x.astype(np.float64)
    mean, variance = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    wanted = (exact - mean) / np.sqrt(variance + 1e-3) * np.arange(1, 6) + np.arange(5)
    np.testing.assert_allclose(norm(x), wanted, atol=5e-3)
    np.testing.assert_allclose(norm.mean[...], 0.03 * mean, rtol=1e-5)
    unbiased = exact.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(norm.variance[...], 0.97 + 0.03 * unbiased, rtol=1e-5)
    norm.eval()
    running = (norm.mean[...], norm.variance[...])
    wanted = (exact - running[0]) / np.sqrt(running[1] + 1e-3) * np.arange(1, 6) + np.arange(5)
    np.testing.assert_allclose(norm(x), wanted, rtol=1e-4)
    np.testing.assert_array_equal(norm.mean[...], running[0])


class Pooled(nnx.Module):
    """Everything whose gradient could depend on the number of devices, a recomputed stage too."""

    def __init__(self):
        build = Build(1.0, leaky_relu, jnp.float32, np.random.default_rng(0))
        self.first = ConvBnAct(build, 3, 4, 3)
        self.stage = Elan(build, 4, 5, branch=3, link=3, depth=1, keep_every=1)
        self.stage.remat = True

    def __call__(self, x):
        return max_pool(self.stage(self.first(x)), 2, 2)


def loss_of_blocks(axis_name):
    graphdef, params, batch_stats = nnx.split(Pooled(), nnx.Param, nnx.BatchStat)

    # The statistics are an argument: closed over, they make shard_map crash XLA of jax 0.11.2.
    def loss(params, images, batch_stats):
        model = nnx.merge(graphdef, params, batch_stats, copy=True)
        model.set_attributes(BatchNorm, axis_name=axis_name)
        y = model(images)
        total = (y**3).sum()
        total = total if axis_name is None else jax.lax.psum(total, axis_name)
        return total, nnx.state(model, nnx.BatchStat)

    return loss, params, batch_stats


def uneven_images():
    """Returns four images of different statistics, large enough for every formulation."""
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    return images * np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1, 1)


def assert_close(got, wanted):
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        scale = np.abs(right).max()
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4 * scale)


def test_gradients_and_statistics_of_a_spread_batch_are_those_of_the_whole():
    whole, params, stats = loss_of_blocks(None)
    wanted = jax.jit(jax.value_and_grad(whole, has_aux=True))(params, uneven_images(), stats)
    part, _, _ = loss_of_blocks("data")
    # Types are checked on one device too; more are used where there are some.
    devices = np.array(jax.devices()[: math.gcd(4, jax.device_count())])
    under_shard_map = jax.shard_map(
        part,
        mesh=jax.sharding.Mesh(devices, ("data",)),
        in_specs=(P(), P("data"), P()),
        out_specs=P(),
    )

    def under_vmap(params, images, stats):
        shards = images.reshape(4, 1, 32, 32, 3)
        mapped = jax.vmap(part, in_axes=(None, 0, None), axis_name="data")(params, shards, stats)
        return jax.tree.map(lambda leaf: leaf[2], mapped)  # every shard has the same

    for spread in (under_vmap, under_shard_map):
        got = jax.jit(jax.value_and_grad(spread, has_aux=True))(params, uneven_images(), stats)
        assert_close(got, wanted)
