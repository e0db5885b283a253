"""The same run on other numbers of devices, and under the other ways to use several."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pocket import POCKET, pocket_known

from yolov7_jax import LossConfig, Targets, assign_anchor, assign_ota
from yolov7_jax import model as networks
from yolov7_jax.training.mesh import (
    make_mesh,
    own_rows,
    place,
    replicated,
    shard_batch,
    state_shardings,
)
from yolov7_jax.training.schedule import OptimConfig, make_schedule
from yolov7_jax.training.state import create_state
from yolov7_jax.training.step import Batch, make_train_step

BATCH, SIZE, CLASSES, STEPS = 8, 64, 3, 20
ASSIGNERS = {"anchor": assign_anchor, "ota": assign_ota}
# Sums in another order move logits by 1e-6, which moves an object from one candidate to another
# where two cost nearly the same; the losses of the steps after that differ by more.
TOLERANCE = {"anchor": 1e-5, "ota": 1e-3}
OPTIM = OptimConfig(
    lr0=1e-4, nominal_batch=2 * BATCH, warmup_min_steps=10, warmup_epochs=0, warmup_bias_lr=0.0
)
SCHEDULE = make_schedule(OPTIM, epochs=4, batch_size=BATCH, num_images=5 * BATCH)
MIDDLE = 12  # a step after the warm-up


def random_batch(step: int) -> Batch:
    rng = np.random.default_rng(step)
    centres, sides = rng.uniform(0.3, 0.7, (BATCH, 8, 2)), rng.uniform(0.1, 0.5, (BATCH, 8, 2))
    return Batch(
        rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8),
        Targets(
            np.concatenate([centres, sides], -1).astype(np.float32),
            rng.integers(0, CLASSES, (BATCH, 8), np.int32),
            rng.random((BATCH, 8)) < 0.4,
        ),
    )


@functools.cache
def network(name):
    """Head, graphdef, parameters and statistics.

    Smooth: at the kink of a leaky ReLU, a difference of 1e-6 changes a gradient ten times. With
    that, another order of the same eight images on one device changes the gradients of
    yolov7-tiny's parameters by 0.5 % in the median and 2 % at most.
    """
    with pocket_known():
        model = networks.create(
            name, CLASSES, key=jax.random.key(1), width=0.125, activation=jax.nn.silu
        )
    return model.head, *networks.split(model)


def make_step(name, assigner, **how):
    head, graphdef, _, _ = network(name)
    return make_train_step(
        graphdef, head, LossConfig(), OPTIM, batch_size=BATCH, assigner=ASSIGNERS[assigner], **how
    )


def first_state(name):
    params, batch_stats = jax.tree.map(jnp.copy, network(name)[2:])  # steps take what they get
    return create_state(params, batch_stats, OPTIM)


def mesh_of(num_devices):
    return make_mesh(BATCH, jax.devices()[:num_devices])


@functools.cache
def compiled(name, num_devices, assigner, *, shard=False):
    """A step on so many devices, and how its state lies there."""
    mesh = mesh_of(num_devices)
    shardings = state_shardings(first_state(name), mesh, shard=shard)
    step = jax.jit(
        make_step(name, assigner, mesh=mesh if num_devices > 1 else None),
        donate_argnums=0,
        out_shardings=(shardings, None),
    )
    return step, shardings


@functools.cache
def losses_on(num_devices, assigner, *, name=POCKET, shard=False):
    step, shardings = compiled(name, num_devices, assigner, shard=shard)
    state = place(first_state(name), shardings)
    losses = []
    for number in range(STEPS):
        batch = shard_batch(random_batch(number), mesh_of(num_devices))
        state, metrics = step(state, batch, SCHEDULE.rates(number))
        losses.append(float(metrics.total))
    assert step._cache_size() == 1
    return np.asarray(losses)


@pytest.mark.parametrize(
    ("name", "num_devices", "assigner"),
    [
        (POCKET, 2, "anchor"),
        (POCKET, 8, "anchor"),
        (POCKET, 8, "ota"),
        pytest.param("yolov7-tiny", 8, "anchor", marks=pytest.mark.slow),
    ],
)
def test_losses_of_twenty_steps_are_those_of_one_device(name, num_devices, assigner):
    wanted = losses_on(1, assigner, name=name)
    assert len(set(wanted.tolist())) == STEPS
    losses = losses_on(num_devices, assigner, name=name)
    np.testing.assert_allclose(losses, wanted, rtol=TOLERANCE[assigner])


def test_sharded_parameters_give_the_losses_of_copies():
    shardings = jax.tree.leaves(compiled(POCKET, 4, "anchor", shard=True)[1])
    assert {sharding.is_fully_replicated for sharding in shardings} == {True, False}
    losses = losses_on(4, "anchor", shard=True)
    np.testing.assert_allclose(losses, losses_on(1, "anchor"), rtol=TOLERANCE["anchor"])


def test_sharding_leaves_a_device_little_more_than_its_share():
    _, params, _ = networks.split(networks.create_abstract("yolov7-tiny", CLASSES))
    mesh = make_mesh(BATCH, jax.devices()[:4])

    def on_one_device(shard):
        shardings = state_shardings(params, mesh, shard=shard)
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True)
        return sum(np.prod(how.shard_shape(leaf.shape)) for leaf, how in pairs)

    assert on_one_device(shard=True) < 0.27 * on_one_device(shard=False)


@functools.cache
def one_step_on_one_device():
    batch, step = random_batch(0), compiled(POCKET, 1, "anchor")[0]
    return step(first_state(POCKET), batch, SCHEDULE.rates(MIDDLE))


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_step_mapped_over_an_axis_gives_the_numbers_of_one_device(how):
    batch, rates, num_devices = random_batch(0), SCHEDULE.rates(MIDDLE), 2
    wanted, wanted_metrics = one_step_on_one_device()
    step = make_step(POCKET, "anchor", axis_name="data")
    if how == "pmap":
        mapped = jax.pmap(
            step, axis_name="data", in_axes=(None, 0, None), devices=jax.devices()[:num_devices]
        )
        parts = jax.tree.map(lambda leaf: leaf.reshape(num_devices, -1, *leaf.shape[1:]), batch)
        everywhere = mapped(first_state(POCKET), parts, rates)
        got, metrics = jax.tree.map(lambda leaf: leaf[1], everywhere)
    else:
        mesh = mesh_of(num_devices)
        everywhere, apart = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")
        mapped = jax.shard_map(
            step, mesh=mesh, in_specs=(everywhere, apart, everywhere), out_specs=everywhere
        )
        got, metrics = jax.jit(mapped)(
            place(first_state(POCKET), replicated(mesh)), shard_batch(batch, mesh), rates
        )
    np.testing.assert_allclose(metrics.total, wanted_metrics.total, rtol=1e-5)
    np.testing.assert_allclose(metrics.gradient_norm, wanted_metrics.gradient_norm, rtol=1e-3)
    for name in ("params", "batch_stats", "ema_params"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            getattr(got, name),
            getattr(wanted, name),
        )


def test_a_process_reads_back_the_rows_that_its_devices_hold():
    rows = np.arange(24).reshape(8, 3)
    mesh = make_mesh(8, jax.devices()[:4])
    np.testing.assert_array_equal(own_rows(shard_batch(rows, mesh)), rows)
