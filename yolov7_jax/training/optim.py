"""The optimiser: three groups of parameters, accumulation, decay, clipping, freezing."""

import fnmatch
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from yolov7_jax.errors import UserError
from yolov7_jax.training.schedule import OptimConfig, Rates

ADAM_B2 = 0.999
ADAM_EPS = 1e-8


def param_groups(params: Any) -> Any:
    """Sorts parameters by what the optimiser does with them.

    Args:
      params: a tree of parameters whose leaves are called by their role.

    Returns:
      A tree of the same structure: "kernel" for convolution kernels, "bias" for biases, "implicit"
      for implicit tensors and "norm" for the scales of norms.

    Raises:
      UserError: a leaf has another name; a new kind of parameter must choose its group.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: _group(path), params)


def _names(path: tuple[Any, ...]) -> list[str]:
    names = [
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    ]
    # The path of a Flax variable ends in the attribute that holds its array.
    return [name for name in names if name not in ("value", "raw_value")]


def _group(path: tuple[Any, ...]) -> str:
    names = _names(path)
    role = names[-1].rstrip("0123456789")  # a block with two kernels numbers them
    if role in ("kernel", "bias"):
        return role
    if role == "scale":
        return "norm"
    if role.startswith("implicit_"):
        return "implicit"
    raise UserError(
        f"parameter {'.'.join(names)} is in no optimiser group; "
        "its name must be kernel, bias, scale or implicit_*"
    )


def trainable_params(params: Any, freeze: Sequence[str]) -> Any:
    """Says which parameters are trained.

    Args:
      params: a tree of parameters.
      freeze: patterns of names: `backbone` stands for all parameters whose name begins with
        `backbone.`, `*.bias` for all biases. A name is the path through the model, with dots.

    Returns:
      A tree of bools like `params`.

    Raises:
      UserError: a pattern fits no parameter, or nothing would be left to train.
    """
    names = jax.tree_util.tree_map_with_path(lambda path, _: ".".join(_names(path)), params)
    used: set[str] = set()

    def trainable(name: str) -> bool:
        fits = [
            pattern
            for pattern in freeze
            if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")
        ]
        used.update(fits)
        return not fits

    result = jax.tree.map(trainable, names)
    unused = [pattern for pattern in freeze if pattern not in used]
    if unused:
        parts = dict.fromkeys(name.split(".")[0] for name in jax.tree.leaves(names))
        raise UserError(
            f"freeze: no parameter is called {', '.join(unused)}; names begin with "
            f"{', '.join(parts)}"
        )
    if not any(jax.tree.leaves(result)):
        raise UserError(f"freeze (={', '.join(freeze)}) leaves no parameter to train")
    return result


def frozen_norms(params: Any, freeze: Sequence[str]) -> frozenset[str]:
    """Returns the names of the norms whose parameters are all frozen; see `trainable_params`.

    They stay as they are in all respects: training normalises by their running statistics, as
    evaluation does, and does not update these.
    """
    trainable = jax.tree_util.tree_leaves_with_path(trainable_params(params, freeze))
    frozen = {".".join(_names(path)) for path, is_trainable in trainable if not is_trainable}
    norms = (name.removesuffix(".scale") for name in frozen if name.endswith(".scale"))
    return frozenset(norm for norm in norms if f"{norm}.bias" in frozen)


def init_optimizer(config: OptimConfig, params: Any) -> optax.OptState:
    """Returns the optimiser's state before the first update."""
    return _transformation(config, 0.0, config.momentum).init(params)


def apply_gradients(
    gradients: Any,
    opt_state: optax.OptState,
    params: Any,
    rates: Rates,
    *,
    config: OptimConfig,
    weight_decay: float,
    freeze: Sequence[str] = (),
) -> tuple[Any, optax.OptState]:
    """Updates the parameters once.

    Args:
      gradients: a tree like `params`.
      opt_state: what `init_optimizer` or the call before returned.
      params: the parameters.
      rates: of this step; its fields may be traced.
      config: which optimiser.
      weight_decay: added to the gradient of kernels, times the kernel; with AdamW, to its
        direction.
      freeze: which parameters stay as they are; see `trainable_params`.

    Returns:
      The new parameters and the new state of the optimiser.
    """
    trainable = trainable_params(params, freeze)
    gradients = jax.tree.map(
        lambda is_trainable, gradient: gradient if is_trainable else jnp.zeros_like(gradient),
        trainable,
        gradients,
    )
    updates, opt_state = _transformation(config, weight_decay, rates.momentum).update(
        gradients, opt_state, params
    )
    rate_of_group = {
        "norm": rates.norm,
        "implicit": rates.norm * config.implicit_lr_scale,
        "kernel": rates.kernel,
        "bias": rates.bias,
    }

    def updated(is_trainable: bool, group: str, param: jax.Array, update: jax.Array) -> jax.Array:
        return param - rate_of_group[group] * update if is_trainable else param

    return jax.tree.map(updated, trainable, param_groups(params), params, updates), opt_state


def _transformation(
    config: OptimConfig, weight_decay: float, momentum: float | jax.Array
) -> optax.GradientTransformation:
    """Makes updates of gradients, before the learning rate."""
    clip = (
        optax.identity()
        if config.max_gradient_norm is None
        else optax.clip_by_global_norm(config.max_gradient_norm)
    )
    decay = optax.add_decayed_weights(
        weight_decay, mask=lambda params: jax.tree.map(_is_kernel, param_groups(params))
    )
    if config.optimizer == "sgd":
        momentum_of_sgd = optax.trace(decay=momentum, nesterov=True)  # type: ignore[arg-type] - traced
        return optax.chain(clip, decay, momentum_of_sgd)
    # Adam's betas are not warmed up.
    adam = optax.scale_by_adam(b1=config.momentum, b2=ADAM_B2, eps=ADAM_EPS)
    return optax.chain(clip, *((decay, adam) if config.optimizer == "adam" else (adam, decay)))


def _is_kernel(group: str) -> bool:
    return group == "kernel"
