"""Spreading the batch over devices changes neither the loss nor any gradient."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from yolov7_jax import LossConfig, Outputs, detection_loss, pad_targets

NUM_DEVICES = 8
MAX_OBJECTS = 6
COUNTS = (3, 0, 0, 6, 1, 0, 2, 4)  # three devices have an image without objects and nothing else
DEFAULTS = LossConfig()

pytestmark = pytest.mark.skipif(
    len(jax.devices("cpu")) < NUM_DEVICES, reason="wants 8 (simulated) CPU devices"
)


def devices():
    return np.array(jax.devices("cpu")[:NUM_DEVICES])


@functools.cache
def problem(head, *, auxiliary=False):
    """Parameters of a tiny head, features of every level, and objects."""
    rng = np.random.default_rng(0)
    case = cases.random_case(1, head, DEFAULTS, coarsest=(1, 2), counts=COUNTS, auxiliary=auxiliary)
    kernel = rng.standard_normal((head.num_fields, head.num_fields)) / head.num_fields**0.5
    params = {
        "kernel": kernel.astype(np.float32),
        "bias": rng.standard_normal(head.num_fields).astype(np.float32),
    }
    return params, case.outputs, pad_targets(case.rows, len(COUNTS), MAX_OBJECTS)


def loss_of(head, axis_name=None):
    def loss(params, features, targets):
        outputs = jax.tree.map(lambda x: x @ params["kernel"] + params["bias"], features)
        return detection_loss(Outputs(*outputs), targets, head, DEFAULTS, axis_name=axis_name)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


@functools.cache
def on_one_device(head, *, auxiliary=False):
    with jax.default_device(devices()[0]):
        return jax.jit(loss_of(head))(*problem(head, auxiliary=auxiliary))


def assert_same_as_on_one_device(found, head, *, auxiliary=False):
    (total, terms), (of_params, of_features) = on_one_device(head, auxiliary=auxiliary)
    (our_total, our_terms), (our_params, our_features) = found
    np.testing.assert_array_equal(our_terms.num_matched, terms.num_matched)
    assert terms.num_matched.sum() > 10
    np.testing.assert_allclose(our_total, total, rtol=1e-6)
    for ours, wanted in zip(our_terms, terms, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=2e-6)
    assert cases.relative_error(our_params, of_params) < 5e-6
    assert cases.relative_error(our_features, of_features) < 5e-6


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_jit_with_a_sharded_batch(kind):
    params, features, targets = problem(cases.P5)
    mesh = jax.make_mesh((NUM_DEVICES,), ("data",), axis_types=(kind,), devices=devices())
    features, targets = jax.device_put((features, targets), NamedSharding(mesh, P("data")))
    params = jax.device_put(params, NamedSharding(mesh, P()))
    found = jax.jit(loss_of(cases.P5))(params, features, targets)
    assert_same_as_on_one_device(found, cases.P5)


def sharded(head, mesh, axes, *, check_vma):
    """value_and_grad inside of shard_map, its parameters' gradient summed over the devices."""

    def run(params, features, targets):
        value, (of_params, of_features) = loss_of(head, axes)(params, features, targets)
        if not check_vma:  # otherwise the transpose of replication sums them
            of_params = jax.lax.psum(of_params, axes)
        return value, (of_params, of_features)

    return jax.jit(
        jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(P(), P(axes), P(axes)),
            out_specs=(P(), (P(), P(axes))),
            check_vma=check_vma,
        )
    )


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma):
    run = sharded(cases.P5, Mesh(devices(), ("data",)), "data", check_vma=check_vma)
    assert_same_as_on_one_device(run(*problem(cases.P5)), cases.P5)


def test_shard_map_over_two_axes():
    mesh = Mesh(devices().reshape(2, 4), ("hosts", "chips"))
    run = sharded(cases.P5, mesh, ("hosts", "chips"), check_vma=True)
    assert_same_as_on_one_device(run(*problem(cases.P5)), cases.P5)


def test_shard_map_with_auxiliary_heads():
    run = sharded(cases.P6, Mesh(devices(), ("data",)), "data", check_vma=True)
    found = run(*problem(cases.P6, auxiliary=True))
    assert_same_as_on_one_device(found, cases.P6, auxiliary=True)


def test_pmap():
    params, features, targets = problem(cases.P5)

    @functools.partial(jax.pmap, axis_name="data", in_axes=(None, 0, 0), devices=list(devices()))
    def run(params, features, targets):
        value, (of_params, of_features) = loss_of(cases.P5, "data")(params, features, targets)
        return value, (jax.lax.psum(of_params, "data"), of_features)

    features, targets = jax.tree.map(lambda x: x[:, None], (features, targets))
    value, (of_params, of_features) = run(params, features, targets)
    for copies in jax.tree.leaves((value, of_params)):  # the same on every device
        np.testing.assert_array_equal(copies, jnp.broadcast_to(copies[:1], copies.shape))
    value, of_params = jax.tree.map(lambda copies: copies[0], (value, of_params))
    of_features = jax.tree.map(lambda x: x[:, 0], of_features)
    assert_same_as_on_one_device((value, (of_params, of_features)), cases.P5)


def test_the_loss_without_axis_name_would_differ():
    # The reason for the argument: means of devices are not the mean of the batch.
    params, features, targets = problem(cases.P5)
    (total, _), _ = on_one_device(cases.P5)
    run = jax.jit(loss_of(cases.P5))
    batches = [
        jax.tree.map(lambda x, i=i: x[i : i + 1], (features, targets)) for i in range(NUM_DEVICES)
    ]
    alone = [run(params, *batch)[0][0] for batch in batches]
    assert abs(sum(alone) - total) > 1e-2 * total
