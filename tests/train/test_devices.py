"""The same run on other numbers of devices, and under the other ways to use several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.mesh import make_mesh, own_rows, place, replicated, shard_batch, state_shardings
from train.optim import OptimConfig, make_schedule
from train.state import create_state
from train.step import Batch, make_train_step
from yolov7_jax import LossConfig, Targets, assign_anchor, assign_ota
from yolov7_jax import model as networks

BATCH, SIZE, CLASSES, STEPS = 8, 64, 3, 20
ASSIGNERS = {"anchor": assign_anchor, "ota": assign_ota}
# Sums in another order move logits by 1e-6, which moves an object from one candidate to another
# where two cost nearly the same; the losses of the steps after that differ by more.
TOLERANCE = {"anchor": 1e-5, "ota": 1e-3}
QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time
OPTIM = OptimConfig(
    lr0=1e-4, nominal_batch=2 * BATCH, warmup_min_steps=10, warmup_epochs=0, warmup_bias_lr=0.0
)


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


@pytest.fixture(scope="module")
def network():
    # Smooth: at the kink of a leaky ReLU, a difference of 1e-6 changes a gradient ten times. With
    # that, another order of the same eight pictures on one device changes the gradients of the
    # network's parameters by 0.5 % in the median and 2 % at most.
    model = networks.create(
        "yolov7-tiny", CLASSES, key=jax.random.key(1), width=0.125, activation=jax.nn.silu
    )
    return model.head, *networks.split(model)


def make_step(network, assigner, **how):
    head, graphdef, _, _ = network
    return make_train_step(
        graphdef, head, LossConfig(), OPTIM, batch_size=BATCH, assigner=ASSIGNERS[assigner], **how
    )


def first_state(network):
    params, batch_stats = jax.tree.map(jnp.copy, network[2:])  # steps take what they are given
    return create_state(params, batch_stats, OPTIM)


def losses_on(network, num_devices: int, assigner: str, shard: bool = False) -> np.ndarray:
    mesh = make_mesh(BATCH, jax.devices()[:num_devices])
    state = first_state(network)
    shardings = state_shardings(state, mesh, shard=shard)
    state = place(state, shardings)
    step = jax.jit(
        make_step(network, assigner, mesh=mesh if num_devices > 1 else None),
        donate_argnums=0,
        out_shardings=(shardings, None),
        compiler_options=QUICK,
    )
    schedule = make_schedule(OPTIM, epochs=4, batch_size=BATCH, num_images=5 * BATCH)
    losses = []
    for number in range(STEPS):
        batch = shard_batch(random_batch(number), mesh)
        state, metrics = step(state, batch, schedule.rates(number))
        losses.append(float(metrics.total))
    assert step._cache_size() == 1
    return np.asarray(losses)


@pytest.fixture(scope="module")
def alone(network):
    return {assigner: losses_on(network, 1, assigner) for assigner in ASSIGNERS}


@pytest.mark.parametrize(("num_devices", "assigner"), [(2, "anchor"), (8, "anchor"), (8, "ota")])
def test_losses_of_twenty_steps_are_those_of_one_device(network, alone, num_devices, assigner):
    losses = losses_on(network, num_devices, assigner)
    np.testing.assert_allclose(losses, alone[assigner], rtol=TOLERANCE[assigner])


def test_sharded_parameters_give_the_losses_of_copies(network, alone):
    losses = losses_on(network, 4, "anchor", shard=True)
    np.testing.assert_allclose(losses, alone["anchor"], rtol=TOLERANCE["anchor"])


def test_sharding_leaves_a_device_little_more_than_its_share():
    _, params, _ = networks.split(networks.create_abstract("yolov7-tiny", CLASSES))
    mesh = make_mesh(BATCH, jax.devices()[:4])

    def on_one_device(shard):
        shardings = state_shardings(params, mesh, shard=shard)
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True)
        return sum(np.prod(how.shard_shape(leaf.shape)) for leaf, how in pairs)

    assert on_one_device(shard=True) < 0.27 * on_one_device(shard=False)


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_step_mapped_over_an_axis_gives_the_numbers_of_one_device(network, how):
    batch, num_devices = random_batch(0), 2
    rates = make_schedule(OPTIM, epochs=4, batch_size=BATCH, num_images=5 * BATCH).rates(12)
    wanted, wanted_metrics = jax.jit(make_step(network, "anchor"), compiler_options=QUICK)(
        first_state(network), batch, rates
    )
    step = make_step(network, "anchor", axis_name="data")
    devices = jax.devices()[:num_devices]
    if how == "pmap":
        mapped = jax.pmap(step, axis_name="data", in_axes=(None, 0, None), devices=devices)
        parts = jax.tree.map(lambda leaf: leaf.reshape(num_devices, -1, *leaf.shape[1:]), batch)
        everywhere = mapped(first_state(network), parts, rates)
        got, metrics = jax.tree.map(lambda leaf: leaf[1], everywhere)
    else:
        mesh = make_mesh(BATCH, devices)
        everywhere, apart = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")
        mapped = jax.shard_map(
            step, mesh=mesh, in_specs=(everywhere, apart, everywhere), out_specs=everywhere
        )
        got, metrics = jax.jit(mapped, compiler_options=QUICK)(
            place(first_state(network), replicated(mesh)), shard_batch(batch, mesh), rates
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
