"""The optimiser against stored measurements of the public implementation and against numpy."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yolov7_jax import model as networks
from yolov7_jax.training.ema import update_ema
from yolov7_jax.training.optim import apply_gradients, init_optimizer, param_groups
from yolov7_jax.training.schedule import OptimConfig, Rates, Schedule, make_schedule

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "trajectory"


def measured_schedule(config: OptimConfig, meta: dict) -> Schedule:
    num_images = meta["batches_per_epoch"] * meta["batch"]
    return Schedule(config, meta["epochs"], meta["batch"], num_images, meta["warmup_iterations"])


@pytest.mark.parametrize("name", ["tiny_anchor_sgd", "tiny_ota_adam", "tiny_ota_sgd"])
def test_rates_momentum_accumulation_and_steps_are_those_measured(name):
    stored = np.load(GOLDEN / f"{name}.npz")
    meta = json.loads(bytes(stored["meta"]))
    hyper = meta["hyp_scaled"]
    config = OptimConfig(
        optimizer=meta["optimizer"],
        lr0=hyper["lr0"],
        lrf=hyper["lrf"],
        warmup_bias_lr=hyper["warmup_bias_lr"],
    )
    schedule = measured_schedule(config, meta)
    log = dict(zip(stored["columns"].tolist(), stored["log"].T, strict=True))
    rates = [schedule.rates(i) for i in range(len(stored["log"]))]
    for column, field in (("lr_other", "norm"), ("lr_weight", "kernel"), ("lr_bias", "bias")):
        np.testing.assert_allclose([getattr(r, field) for r in rates], log[column], rtol=1e-12)
    if meta["optimizer"] == "sgd":
        np.testing.assert_allclose([r.momentum for r in rates], log["momentum"], rtol=1e-12)
    np.testing.assert_array_equal([r.accumulate for r in rates], log["accumulate"])
    stepped = [i % r.accumulate == 0 for i, r in enumerate(rates)]
    np.testing.assert_array_equal(stepped, log["stepped"])


def test_linear_schedule_is_a_straight_line_down_to_lrf():
    schedule = Schedule(OptimConfig(schedule="linear", lrf=0.2), 10, 64, 640, 0)
    np.testing.assert_allclose([schedule.decay(e) for e in (0, 5, 10)], [1, 0.6, 0.2])


def test_warmup_is_three_epochs_but_at_least_its_fewest_steps():
    config = OptimConfig()
    short = make_schedule(config, epochs=300, batch_size=10, num_images=256)
    long = make_schedule(config, epochs=300, batch_size=10, num_images=70_004)
    assert (short.warmup_steps, long.warmup_steps) == (1000, 21001)


def test_accumulation_rounds_half_to_even():
    schedule = Schedule(OptimConfig(), 10, 8, 8000, 1000)
    assert schedule.rates(500).accumulate == 4  # 4.5
    assert schedule.rates(357).accumulate == 3  # 3.499
    assert schedule.rates(1001).accumulate == 8


def test_no_warmup_starts_at_full_rates():
    rates = Schedule(OptimConfig(nominal_batch=8), 10, 8, 80, 0).rates(0)
    assert rates == Rates(0.01, 0.01, 0.01, 0.937, 1)


def test_decay_grows_with_the_images_of_an_update():
    config = OptimConfig()
    assert config.scaled_decay(8) == pytest.approx(5e-4)
    assert config.scaled_decay(48) == pytest.approx(5e-4 * 48 / 64)
    assert config.scaled_decay(256) == pytest.approx(5e-4 * 4)


def sample_params() -> dict:
    return {
        "conv": {"kernel": jnp.array([1.0, -2.0])},
        "norm": {"scale": jnp.array([1.5]), "bias": jnp.array([0.5])},
        "detect": {"implicit_add": jnp.array([0.1]), "bias": jnp.array([-1.0])},
    }


def test_every_parameter_has_the_group_of_its_role():
    assert param_groups(sample_params()) == {
        "conv": {"kernel": "kernel"},
        "norm": {"scale": "norm", "bias": "bias"},
        "detect": {"implicit_add": "implicit", "bias": "bias"},
    }


@pytest.mark.parametrize("name", list(networks.ARCHITECTURES))
def test_every_parameter_of_every_model_is_in_the_group_of_its_dimensions(name):
    _, params, _ = networks.split(networks.create_abstract(name, 2))
    groups = jax.tree.leaves(param_groups(params))
    for leaf, group in zip(jax.tree.leaves(params), groups, strict=True):
        assert (group == "kernel") == (leaf.ndim == 4)


def test_a_parameter_of_unknown_role_is_refused_by_name():
    with pytest.raises(ValueError, match=r"stem\.weights is in no optimiser group"):
        param_groups({"stem": {"weights": jnp.zeros(2)}})


def reference_updates(
    optimizer: str, rates: list[Rates], decay: float, scale: float, longest: float = np.inf
) -> dict:
    """Three formulas, parameter by parameter, in numpy."""
    params = {"/".join(p): np.float64(v) for p, v in flat(sample_params())}
    first, second = dict.fromkeys(params, 0.0), dict.fromkeys(params, 0.0)
    for count, rate in enumerate(rates, 1):
        length = np.sqrt(sum((np.cos(count * value) ** 2).sum() for value in params.values()))
        shortened = min(1, longest / length)
        for name, value in params.items():
            role = name.split("/")[1]
            lr = {"kernel": rate.kernel, "bias": rate.bias}.get(role, rate.norm)
            lr *= scale if role.startswith("implicit") else 1
            gradient = shortened * np.cos(count * value)
            decayed = decay * value if role == "kernel" else 0
            if optimizer != "adamw":
                gradient = gradient + decayed
            if optimizer == "sgd":
                first[name] = rate.momentum * first[name] + gradient
                move = gradient + rate.momentum * first[name]
            else:
                first[name] = 0.937 * first[name] + 0.063 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                variance = second[name] / (1 - 0.999**count)
                move = first[name] / (1 - 0.937**count) / (np.sqrt(variance) + 1e-8)
            if optimizer == "adamw":
                move = move + decayed  # past the division that adapts the rate
            params[name] = value - lr * move
    return params


def flat(tree: dict) -> list:
    return [((a, b), leaf) for a, branch in tree.items() for b, leaf in branch.items()]


@pytest.mark.parametrize("longest", [None, 1.0, 100.0])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_updates_follow_the_formulas_with_rates_that_change(optimizer, longest):
    config = OptimConfig(optimizer=optimizer, implicit_lr_scale=3.0, max_gradient_norm=longest)
    rates = [Rates(0.01 * i, 0.02 * i, 0.1 / i, 0.8 + 0.03 * i, 1) for i in range(1, 5)]
    params = sample_params()
    opt_state = init_optimizer(config, params)
    step = jax.jit(
        lambda count, params, opt_state, rate: apply_gradients(
            jax.tree.map(lambda p: jnp.cos(count * p), params),
            opt_state,
            params,
            rate,
            config=config,
            weight_decay=0.3,
        )
    )
    for count, rate in enumerate(rates, 1):
        params, opt_state = step(float(count), params, opt_state, rate)
    assert step._cache_size() == 1
    wanted = reference_updates(optimizer, rates, 0.3, 3.0, longest or np.inf)
    for path, value in flat(params):
        np.testing.assert_allclose(value, wanted["/".join(path)], rtol=2e-5)


def test_gradients_are_shortened_all_by_the_same_factor_and_only_if_they_are_long():
    params = sample_params()
    rates = Rates(1.0, 1.0, 1.0, 0.0, 1)

    def moves(longest, size, freeze=()):
        config = OptimConfig(max_gradient_norm=longest)
        gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, size), params)
        moved, _ = apply_gradients(
            gradients,
            init_optimizer(config, params),
            params,
            rates,
            config=config,
            weight_decay=0.0,
            freeze=freeze,
        )
        difference = jax.tree.map(jnp.subtract, params, moved)
        return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(difference)])

    assert len(moves(None, 1.0)) == 6
    np.testing.assert_allclose(moves(None, 3.0), 3.0, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(moves(0.5, 3.0)), 0.5, rtol=1e-6)
    np.testing.assert_allclose(moves(0.5, 3.0), moves(0.5, 3.0)[0], rtol=1e-6)
    np.testing.assert_allclose(moves(0.5, 0.01), 0.01, rtol=1e-5)
    # What is frozen adds nothing to the length.
    frozen = moves(0.5, 3.0, freeze=("conv",))
    np.testing.assert_allclose(np.linalg.norm(frozen), 0.5, rtol=1e-6)
    assert (frozen == 0).sum() == 2


def test_ema_forgets_quickly_at_first_and_slowly_later():
    average = {"a": jnp.array([1.0])}
    current = {"a": jnp.array([3.0])}
    for updates in (1, 2000, 10**6):
        keep = 0.9999 * (1 - np.exp(-updates / 2000))
        moved = update_ema(average, current, jnp.array(updates))
        np.testing.assert_allclose(moved["a"], keep * 1 + (1 - keep) * 3, rtol=1e-6)


def test_wrong_rates_are_refused_all_at_once():
    with pytest.raises(ValueError, match=r"lr0 \(=0\).*momentum \(=1\)"):
        OptimConfig(lr0=0, momentum=1)
    with pytest.raises(ValueError, match=r"max_gradient_norm \(=0\) must be more than 0"):
        OptimConfig(max_gradient_norm=0)
