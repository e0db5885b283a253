"""What options change before and within the step: sizes, frozen parameters, precision, classes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yolov7_jax import create_abstract, normalize_images, split
from yolov7_jax.errors import UserError
from yolov7_jax.training import prepare as preparation
from yolov7_jax.training.loop import train
from yolov7_jax.training.multi_scale import scale_ladder
from yolov7_jax.training.optim import trainable_params
from yolov7_jax.training.prepare import prepare
from yolov7_jax.training.step import Metrics, resize
from yolov7_jax.training.train_config import TrainConfig
from yolov7_jax.weights import read_checkpoint

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.mark.parametrize("size", [128, 320, 640, 1280])
@pytest.mark.parametrize("stride", [32, 64])
@pytest.mark.parametrize("count", [2, 3])
def test_sizes_are_multiples_of_the_stride_from_a_half_to_one_and_a_half(size, stride, count):
    sizes = scale_ladder(TrainConfig(image_size=size, multi_scale=count), stride)
    assert len(set(sizes)) == count
    assert list(sizes) == sorted(sizes)
    for side in sizes:
        assert side % stride == 0
        assert 0.5 * size <= side <= 1.5 * size
    assert sizes[0] - stride < 0.5 * size
    assert sizes[-1] + stride > 1.5 * size


def test_more_sizes_than_there_are_is_refused_with_their_number():
    assert scale_ladder(TrainConfig(image_size=64, multi_scale=3), 32) == (32, 64, 96)
    with pytest.raises(UserError, match=r"--multi-scale \(=4\) must be at most 3"):
        scale_ladder(TrainConfig(image_size=64, multi_scale=4), 32)
    with pytest.raises(UserError, match=r"--multi-scale \(=2\) must be 0; 1 multiples of 32"):
        scale_ladder(TrainConfig(image_size=32, multi_scale=2), 32)
    assert scale_ladder(TrainConfig(image_size=64), 32) == ()


def several_sizes(small):
    """Settings by whose seed all sizes come in the first epoch."""
    return dataclasses.replace(small, multi_scale=3, single_class=True, epochs=2, seed=9)


@pytest.fixture(scope="module")
def scaled(small, tmp_path_factory, quick_programs):
    """A run in several sizes with one class; and the sizes of what its step saw.

    Its step learns nothing, and compiles at once.
    """
    sizes = []

    def make_small_step(*args, **options):
        def train_step(state, batch, rates, size=None):
            images = resize(normalize_images(batch.images), size)
            sizes.append(images.shape[1])  # when it is traced
            zero, none = images.mean(), jnp.zeros((), jnp.int32)
            metrics = Metrics(zero, zero, zero, zero, zero, num_matched=none, skipped=none)
            return state._replace(step=state.step + 1), metrics

        return train_step

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(preparation, "make_train_step", make_small_step)
        summary = train(several_sizes(small), tmp_path_factory.mktemp("runs") / "scaled")
    return summary, sizes


def test_each_size_is_compiled_once_in_the_first_epoch(scaled):
    summary, sizes = scaled
    assert sorted(sizes) == [32, 64, 96]
    first, second = (record["compilations"] for record in summary.records)
    assert first == second == 3 + 1  # sizes, and the evaluation


def test_sizes_are_chosen_by_seed_and_step_alone(small):
    setup = prepare(several_sizes(small))[0]
    sizes = [setup.size_of_step(step) for step in range(300)]
    assert set(sizes[:3]) == set(sizes) == {32, 64, 96}
    assert min(sizes.count(size) for size in setup.sizes) > 70
    other = prepare(dataclasses.replace(several_sizes(small), seed=7))[0]
    assert [setup.size_of_step(step) for step in range(300)] == sizes
    assert [other.size_of_step(step) for step in range(300)] != sizes


def test_a_run_of_one_class_measures_and_keeps_that_class(scaled):
    record = scaled[0].records[-1]
    assert set(record["class_ap"]) == {"object"}
    assert 0 <= record["ap"] <= 1
    assert read_checkpoint(scaled[0].run).names == ("object",)


@pytest.fixture(scope="module")
def frozen(small, quick_programs):
    """The state before and after two steps of bfloat16 without backbone; their metrics."""
    config = dataclasses.replace(small, freeze=("backbone", "neck.*.bias"), dtype="bfloat16")
    setup, state = prepare(config)
    before = jax.tree.map(np.array, state)
    metrics = []
    with setup.batches(0, None) as batches:
        for step in range(2):
            rates = setup.schedule.rates(step + 2)._replace(accumulate=1)
            state, numbers = setup.train_step(state, next(batches), rates, size=None)
            metrics.append(jax.device_get(numbers))
    return setup, before, jax.device_get(state), metrics


def test_frozen_parameters_stay_bit_for_bit_and_others_move(frozen):
    setup, before, after, _ = frozen
    trainable = jax.tree.leaves(trainable_params(after.params, setup.config.freeze))
    assert 0 < sum(trainable) < len(trainable)
    for name in ("params", "ema_params"):
        assert changed(before, after, name).tolist() == trainable
    # A norm with a frozen bias, but a scale that is trained, has statistics of its own.
    for name in ("batch_stats", "ema_batch_stats"):
        stays = ["backbone" in jax.tree_util.keystr(path) for path, _ in leaves_of(after, name)]
        assert 0 < sum(stays) < len(stays)
        assert changed(before, after, name).tolist() == [not kept for kept in stays]


def leaves_of(state, name):
    return jax.tree_util.tree_leaves_with_path(getattr(state, name))


def changed(before, after, name):
    """Whether each array of a part of the state has changed."""
    pairs = zip(leaves_of(before, name), leaves_of(after, name), strict=True)
    return np.asarray([not np.array_equal(old, new) for (_, old), (_, new) in pairs])


def test_what_is_frozen_is_not_counted_as_trainable(frozen):
    setup, _, after, _ = frozen
    trainable = jax.tree.leaves(trainable_params(after.params, setup.config.freeze))
    sizes = np.asarray([leaf.size for leaf in jax.tree.leaves(after.params)])
    assert setup.num_trainable == sizes[trainable].sum() < sizes.sum()
    assert f"{setup.num_trainable / 1e6:.2f} M trainable parameters" in setup.title()
    (line,) = [line for line in setup.lines if line.startswith("freeze: ")]
    frozen = sizes.sum() - setup.num_trainable
    assert f"{frozen / 1e6:.2f} M of {sizes.sum() / 1e6:.2f} M parameters stay" in line


def test_bfloat16_learns_with_float32_weights_and_finite_losses(frozen):
    setup, _, after, metrics = frozen
    assert "bfloat16" in setup.title()
    assert setup.model.backbone.stem.dtype == jnp.bfloat16
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(after.params))
    for numbers in metrics:
        assert numbers.skipped == 0
        assert np.isfinite([numbers.box, numbers.obj, numbers.cls, numbers.gradient_norm]).all()


def test_automatic_precision_is_float32_here(small):
    setup, _ = prepare(small)
    assert "cpu device(s), float32" in setup.title()
    assert setup.model.backbone.stem.dtype == jnp.float32


def test_freezing_what_is_not_there_or_everything_is_refused_with_what_is(small):
    with pytest.raises(UserError, match=r"--freeze: .* body; names begin with .*backbone.*neck"):
        prepare(dataclasses.replace(small, freeze=("body", "backbone")))
    with pytest.raises(UserError, match=r"--freeze \(=\*\) leaves no parameter to train"):
        prepare(dataclasses.replace(small, freeze=("*",)))


def test_names_to_freeze_are_parts_or_patterns():
    _, params, _ = split(create_abstract("yolov7-tiny", 2, width=0.125))

    def frozen_of(*freeze):
        return sum(not trainable for trainable in jax.tree.leaves(trainable_params(params, freeze)))

    everything = len(jax.tree.leaves(params))
    assert frozen_of() == 0
    assert frozen_of("backbone") == frozen_of("backbone.*")
    assert 0 < frozen_of("backbone.stem") < frozen_of("backbone")
    assert frozen_of("backbone", "neck") + frozen_of("detect") == everything
    assert 0 < frozen_of("*.bias") < everything
    with pytest.raises(ValueError, match="back"):
        trainable_params(params, ("back",))  # no part is called so


def test_a_run_that_ends_while_warming_up_says_so(small):
    config = dataclasses.replace(
        small, optim=dataclasses.replace(small.optim, warmup_min_steps=1000)
    )
    setup, _ = prepare(config)
    (line,) = [line for line in setup.lines if line.startswith("warm-up: ")]
    assert f"1000 steps, and the run has {setup.bounds[-1]}" in line
    assert not [line for line in prepare(small)[0].lines if line.startswith("warm-up: ")]


def test_a_run_continues_without_the_file_that_it_started_from(small, tmp_path):
    config = dataclasses.replace(small, weights=str(tmp_path / "gone.safetensors"))
    with pytest.raises(UserError, match="gone"):
        prepare(config)
    setup, _ = prepare(config, fresh=False)
    assert setup.config.weights == config.weights
