"""Every formulation of the layers' gradients against the one that JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_model import largest_error
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from benchmarks.model import plain_convolution, plain_normalise
from yolov7_jax.nn import convolution as layers
from yolov7_jax.nn.blocks import leaky_relu
from yolov7_jax.nn.convolution import convolution
from yolov7_jax.nn.norm import BatchNorm, identity


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def problem(size, features, stride, dtype=jnp.float32):
    """Returns a map, a kernel, and the gradient of their convolution."""
    x = normal(0, 2, *size, features, dtype=dtype)
    kernel = normal(1, 3, 3, features, 7, dtype=dtype)
    return x, kernel, normal(2, 2, size[0] // stride, size[1] // stride, 7, dtype=dtype)


def gradients(function, stride):
    def compute(x, kernel, gradient):
        return jax.vjp(lambda x, kernel: function(x, kernel, stride), x, kernel)[1](gradient)

    return jax.jit(compute)


@pytest.mark.parametrize(
    # The number of cells decides about the input's gradient, strips about the kernel's, and that
    # only from 16 features on.
    ("features", "few_cells", "strip_size"),
    [(3, 0, 1), (3, 2**30, 1), (17, 0, 1), (17, 2**30, 2**12), (17, 0, 2**30)],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_every_formulation_gives_the_plain_gradients(
    monkeypatch, features, stride, few_cells, strip_size
):
    monkeypatch.setattr(layers, "STRIP_SIZE", strip_size)
    monkeypatch.setattr(layers, "FEW_CELLS", few_cells)
    arguments = problem((12, 20), features, stride)
    wanted = gradients(plain_convolution, stride)(*arguments)
    for left, right in zip(gradients(convolution, stride)(*arguments), wanted, strict=True):
        assert largest_error(left, np.asarray(right)) < 2e-6


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_half_precision_are_sums_in_full_precision(monkeypatch, stride):
    monkeypatch.setattr(layers, "STRIP_SIZE", 2**12)
    arguments = problem((32, 32), 16, stride, jnp.bfloat16)
    exact = [argument.astype(jnp.float32) for argument in arguments]
    wanted = gradients(plain_convolution, stride)(*exact)
    for left, right in zip(gradients(convolution, stride)(*arguments), wanted, strict=True):
        assert left.dtype == jnp.bfloat16
        assert largest_error(left, np.asarray(right)) < 2**-8


def test_other_platforms_get_the_gradients_of_xla_and_the_cpu_gets_products():
    arguments = problem((32, 32), 16, 1)
    step = gradients(convolution, 1)
    lowered = {
        platform: step.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda", "tpu")
    }
    assert {name: "dot_general" in text for name, text in lowered.items()} == {
        "cpu": True,
        "cuda": False,
        "tpu": False,
    }


@pytest.mark.parametrize("check_vma", [True, False])
def test_strips_are_summed_over_the_devices(monkeypatch, check_vma):
    monkeypatch.setattr(layers, "STRIP_SIZE", 2**12)
    x, kernel, gradient = problem((32, 32), 16, 2)
    devices = np.array(jax.devices()[: min(2, jax.device_count())])

    def loss(kernel, x, gradient):
        return jax.lax.psum((convolution(x, kernel, 2) * gradient).sum(), "data")

    spread = jax.shard_map(
        loss,
        mesh=Mesh(devices, ("data",)),
        in_specs=(P(), P("data"), P("data")),
        out_specs=P(),
        check_vma=check_vma,
    )
    got = jax.jit(jax.grad(spread))(kernel, x, gradient)
    assert largest_error(got, gradients(plain_convolution, 2)(x, kernel, gradient)[1]) < 2e-6


def normalised(x, scale, bias, activation):
    norm = BatchNorm(x.shape[3])
    norm.scale.set_value(scale)
    norm.bias.set_value(bias)
    return norm(x, activation)


def norm_problem():
    x = normal(0, 4, 6, 8, 5) * jnp.arange(1.0, 5).reshape(4, 1, 1, 1) + 3
    return x, 1 + 0.3 * normal(1, 5), normal(2, 5), normal(3, *x.shape)


@pytest.mark.parametrize("activation", [identity, jax.nn.silu, leaky_relu])
def test_the_gradients_of_a_norm_are_those_that_jax_derives(activation):
    x, scale, bias, gradient = norm_problem()

    def plain(x, scale, bias):
        return plain_normalise(x, scale, bias, activation, None, 0)[0]

    def ours(x, scale, bias):
        return normalised(x, scale, bias, activation)

    got, wanted = (
        jax.jit(lambda *a, f=function: jax.vjp(f, *a)[1](gradient))(x, scale, bias)
        for function in (ours, plain)
    )
    for left, right in zip(got, wanted, strict=True):
        assert largest_error(left, np.asarray(right)) < 2e-5


def test_an_activation_inside_the_norm_is_the_one_behind_it():
    x, scale, bias, _ = norm_problem()
    inside = normalised(x, scale, bias, jax.nn.silu)
    assert largest_error(inside, jax.nn.silu(normalised(x, scale, bias, identity))) < 1e-6
