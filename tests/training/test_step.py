"""The training step: a measured trajectory, accumulation, averages and compilation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pocket import POCKET, pocket_known

from yolov7_jax import LossConfig, Targets, assign_anchor, assign_ota
from yolov7_jax import model as networks
from yolov7_jax.training.optim import frozen_norms
from yolov7_jax.training.schedule import OptimConfig, Rates
from yolov7_jax.training.state import create_state
from yolov7_jax.training.step import Batch, make_eval_step, make_train_step

BATCH, SIZE, CLASSES = 8, 64, 3


def random_targets(rng: np.random.Generator) -> Targets:
    centres, sides = rng.uniform(0.3, 0.7, (BATCH, 8, 2)), rng.uniform(0.1, 0.5, (BATCH, 8, 2))
    return Targets(
        np.concatenate([centres, sides], -1).astype(np.float32),
        rng.integers(0, CLASSES, (BATCH, 8), np.int32),
        rng.random((BATCH, 8)) < 0.5,
    )


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    return [
        Batch(rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8), random_targets(rng))
        for _ in range(3)
    ]


@pytest.fixture(scope="module")
def network():
    with pocket_known():
        model = networks.create(POCKET, CLASSES, key=jax.random.key(1), width=0.125)
    return model.head, *networks.split(model)


@pytest.fixture(scope="module")
def config():
    return OptimConfig()


@pytest.fixture
def state(network, config):
    _, _, params, batch_stats = network
    return create_state(params, batch_stats, config)


@pytest.fixture(scope="module")
def train_step(network, config):
    head, graphdef, _, _ = network
    return jax.jit(
        make_train_step(graphdef, head, LossConfig(), config, batch_size=BATCH, assigner=assign_ota)
    )


def rates(accumulate: int, lr: float = 0.01) -> Rates:
    return Rates(lr, lr, lr, 0.9, accumulate)


def assert_close(got, expected, tolerance=1e-5):
    def compare(a, b):
        scale = max(float(jnp.abs(b).max()), 1e-3)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)

    jax.tree.map(compare, got, expected)


def differs(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any((x != y).any() for x, y in pairs)


def test_weights_move_only_at_multiples_of_accumulate(train_step, state, batches):
    moved = []
    for batch in batches:
        before = state
        state, _ = train_step(state, batch, rates(2))
        moved.append(differs(state.params, before.params))
        assert differs(state.ema_params, before.ema_params) == moved[-1]
    assert moved == [True, False, True]  # steps 0, 1 and 2
    assert (int(state.step), int(state.updates)) == (3, 2)


def test_gradients_of_an_accumulation_are_summed_and_then_forgotten(train_step, state, batches):
    state = state._replace(step=jnp.array(1, jnp.int32))
    alone = [train_step(state, batch, rates(100))[0].gradients for batch in batches[:2]]
    both = state
    for batch in batches[:2]:
        both, _ = train_step(both, batch, rates(100))
    assert_close(both.gradients, jax.tree.map(jnp.add, *alone))
    stepped, _ = train_step(both, batches[2], rates(1))
    assert not any(leaf.any() for leaf in jax.tree.leaves(stepped.gradients))


def test_averages_follow_weights_and_statistics(train_step, state, batches):
    after, _ = train_step(state, batches[0], rates(1))
    keep = 0.9999 * (1 - np.exp(-1 / 2000))

    def mix(old, new):
        return keep * old + (1 - keep) * new

    assert_close(after.ema_params, jax.tree.map(mix, state.params, after.params))
    assert_close(after.ema_batch_stats, jax.tree.map(mix, state.batch_stats, after.batch_stats))


def test_changing_rates_and_objects_compile_nothing_anew(train_step, state, batches):
    for batch, accumulate in zip(batches, (1, 3, 7), strict=True):
        state, _ = train_step(state, batch, rates(accumulate, 0.001 * accumulate))
    assert train_step._cache_size() == 1


def test_a_frozen_part_gives_bit_for_bit_what_it_gave(network, config, state, batches):
    head, graphdef, _, _ = network
    freeze = ("backbone", "neck")
    step = jax.jit(
        make_train_step(
            graphdef,
            head,
            LossConfig(),
            config,
            batch_size=BATCH,
            assigner=assign_anchor,  # compiles faster
            freeze=freeze,
        )
    )

    @functools.partial(jax.jit, static_argnames="train")
    def outputs(state, train):
        names = frozen_norms(state.params, freeze)
        images = networks.normalize_images(batches[0].images)
        # Of the last convolution alone, which is trained, from before.
        params = nnx.State({**state.params, "detect": first.params["detect"]})
        return networks.apply(
            graphdef, params, state.batch_stats, images, train=train, frozen_norms=names
        )[0].lead

    first = state
    for batch in batches:
        state, metrics = step(state, batch, rates(1))
    assert float(metrics.gradient_norm) > 0
    assert differs(state.params, first.params)
    for train in (True, False):
        jax.tree.map(
            np.testing.assert_array_equal, outputs(state, train), outputs(first, train=False)
        )


def test_metrics_are_the_terms_of_the_loss(train_step, state, batches):
    _, metrics = train_step(state, batches[0], rates(1))
    np.testing.assert_allclose(
        metrics.total, BATCH * (metrics.box + metrics.obj + metrics.cls), rtol=1e-5
    )
    assert int(metrics.num_matched) >= int(batches[0][1].valid.sum())


@pytest.fixture(scope="module")
def eval_step(network):
    head, graphdef, params, batch_stats = network
    step = jax.jit(make_eval_step(graphdef, head, LossConfig(), assigner=assign_ota))
    return lambda batch, present: step(params, batch_stats, *batch, present)


def test_evaluation_finds_at_most_300_boxes_a_image(eval_step, batches):
    found, _ = eval_step(batches[0], np.ones(BATCH, bool))
    assert found.boxes_xyxy.shape == (BATCH, 300, 4)
    assert found.valid.any()
    assert (found.scores[found.valid] > 0.001).all()


def test_loss_of_a_image_in_evaluation_does_not_depend_on_the_others(eval_step, batches):
    def first_half(first, second):
        return jax.tree.map(lambda a, b: np.concatenate([a[:4], b[4:]]), first, second)

    present = np.arange(BATCH) < 4
    _, wanted = eval_step(batches[0], present)
    _, mixed = eval_step(first_half(batches[0], batches[1]), present)
    _, others = eval_step(batches[1], present)
    for name in ("box", "obj", "cls"):
        np.testing.assert_allclose(getattr(mixed, name), getattr(wanted, name), rtol=1e-6)
        assert abs(getattr(others, name) / getattr(wanted, name) - 1) > 1e-3


def test_losses_of_evaluation_are_sums_over_the_images_present(eval_step, batches):
    one_by_one = [eval_step(batches[0], np.arange(BATCH) == row)[1] for row in range(3)]
    _, together = eval_step(batches[0], np.arange(BATCH) < 3)
    for name in ("box", "obj", "cls"):
        wanted = sum(float(getattr(losses, name)) for losses in one_by_one)
        np.testing.assert_allclose(getattr(together, name), wanted, rtol=1e-5)


def test_gradients_that_wait_are_not_lost_with_a_batch_that_is_left_out(train_step, state, batches):
    waiting = state
    for batch in batches[:2]:
        waiting, _ = train_step(waiting, batch, rates(2))
    assert (int(waiting.step), int(waiting.updates), int(waiting.summed)) == (2, 1, 1)

    leaves, tree = jax.tree.flatten(waiting.params)
    before = waiting._replace(params=jax.tree.unflatten(tree, [leaves[0] * jnp.nan, *leaves[1:]]))
    after, metrics = train_step(before, batches[2], rates(2))
    assert int(metrics.skipped) == 1
    assert (int(after.updates), int(after.summed)) == (2, 0)
    assert not any(leaf.any() for leaf in jax.tree.leaves(after.gradients))
    for new, old in zip(jax.tree.leaves(after.params)[1:], leaves[1:], strict=True):
        assert differs(new, old)


def test_a_batch_without_finite_gradients_changes_nothing_but_counts(train_step, state, batches):
    sound, _ = train_step(state, batches[0], rates(1))

    # One parameter that is not a number makes the loss and all gradients that, too.
    leaves, tree = jax.tree.flatten(sound.params)
    before = sound._replace(params=jax.tree.unflatten(tree, [leaves[0] * jnp.nan, *leaves[1:]]))
    after, metrics = train_step(before, batches[1], rates(1))
    assert int(metrics.skipped) == int(after.skipped) == int(after.skipped_in_row) == 1
    assert int(after.step) == int(before.step) + 1
    for name in set(before._fields) - {"step", "skipped", "skipped_in_row"}:
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))
    again, metrics = train_step(after._replace(params=sound.params), batches[1], rates(1))
    assert (int(again.skipped), int(again.skipped_in_row), int(metrics.skipped)) == (1, 0, 0)
    assert differs(again.params, sound.params)
