"""The optimiser: three groups of parameters, warm-up, accumulation, decay and the EMA.

What changes from step to step is computed on the host by `Schedule`, in double precision, and goes
into the jitted step as scalars: no rate ever causes a recompilation.
"""

import dataclasses
import fnmatch
import math
import sys
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

EMA_DECAY = 0.9999
EMA_RAMP = 2000.0  # updates; the average forgets quickly while the weights still move quickly
ADAM_B2 = 0.999
ADAM_EPS = 1e-8


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Rates and decay.

    Attributes:
      optimizer: SGD with Nesterov momentum; Adam with the decay as part of the gradient; or AdamW,
        whose decay shrinks the weights themselves.
      lr0: learning rate at the start, after the warm-up.
      lrf: learning rate at the end, as a share of lr0.
      schedule: the way from lr0 to lr0 * lrf, stepped once an epoch.
      momentum: of SGD; of Adam, its first beta.
      weight_decay: of convolution kernels, for a nominal batch.
      nominal_batch: gradients of smaller batches are summed until they stand for this many images.
      warmup_epochs: length of the warm-up in epochs.
      warmup_min_steps: the warm-up is never shorter than this many steps.
      warmup_momentum: momentum at the start of the warm-up.
      warmup_bias_lr: learning rate of the biases at the start of the warm-up; the others' is 0.
      implicit_lr_scale: learning rate of implicit tensors, as a multiple of the norms'.
      max_gradient_norm: summed gradients that are longer than that, all parameters taken together,
        are shortened to it before an update; none leaves them as they are.
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr0: float = 0.01
    lrf: float = 0.1
    schedule: Literal["cosine", "linear"] = "cosine"
    momentum: float = 0.937
    weight_decay: float = 5e-4
    nominal_batch: int = 64
    warmup_epochs: float = 3.0
    warmup_min_steps: int = 1000
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    implicit_lr_scale: float = 1.0
    max_gradient_norm: float | None = None

    def __post_init__(self):
        positive = ("lr0", "nominal_batch")
        not_negative = (
            "lrf",
            "weight_decay",
            "warmup_epochs",
            "warmup_min_steps",
            "warmup_bias_lr",
            "implicit_lr_scale",
        )
        shares = ("momentum", "warmup_momentum")
        most = sys.float_info.max  # no setting may be infinite
        checks = [
            (name, 0 < getattr(self, name) <= most, "more than 0 and finite") for name in positive
        ]
        checks += [
            (name, 0 <= getattr(self, name) <= most, "at least 0 and finite")
            for name in not_negative
        ]
        checks += [(name, 0 <= getattr(self, name) < 1, "in [0, 1)") for name in shares]
        if self.max_gradient_norm is not None:
            fine = 0 < self.max_gradient_norm <= most
            checks.append(("max_gradient_norm", fine, "more than 0 and finite"))
        faults = [
            f"{name} (={getattr(self, name)}) must be {wanted}"
            for name, fine, wanted in checks
            if not fine
        ]
        if faults:
            raise ValueError("; ".join(faults))

    def accumulation(self, batch_size: int) -> int:
        """Returns how many batches make one update after the warm-up."""
        return max(1, round(self.nominal_batch / batch_size))

    def scaled_decay(self, batch_size: int) -> float:
        """Returns the weight decay per update; one update may see more than a nominal batch."""
        seen = batch_size * self.accumulation(batch_size)
        return self.weight_decay * seen / self.nominal_batch


class Rates(NamedTuple):
    """What the optimiser is to do at one step.

    Attributes:
      norm: learning rate of norm scales and implicit tensors.
      kernel: learning rate of convolution kernels.
      bias: learning rate of all biases.
      momentum: of SGD.
      accumulate: the weights move at steps that are a multiple of this.
    """

    norm: float
    kernel: float
    bias: float
    momentum: float
    accumulate: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Gives the rates of a step.

    Attributes:
      config: rates and their warm-up.
      epochs: number of epochs of the whole run.
      batch_size: images per step, over all devices.
      num_images: images per epoch.
      warmup_steps: the last step of the warm-up; 0 starts without one.
    """

    config: OptimConfig
    epochs: int
    batch_size: int
    num_images: int
    warmup_steps: int

    def epoch(self, step: int) -> int:
        """Returns the epoch, counted from 0, that a step's first image belongs to."""
        return step * self.batch_size // self.num_images

    def decay(self, epoch: int) -> float:
        """Returns the learning rate of an epoch as a share of lr0: from 1 down to lrf."""
        progress = epoch / self.epochs
        if self.config.schedule == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return progress * (self.config.lrf - 1) + 1

    def rates(self, step: int) -> Rates:
        """Returns the rates of a step, counted from 0."""
        config = self.config
        rate = config.lr0 * self.decay(self.epoch(step))
        final = self.config.nominal_batch / self.batch_size
        if step > self.warmup_steps or self.warmup_steps == 0:
            accumulate = config.accumulation(self.batch_size)
            return Rates(rate, rate, rate, config.momentum, accumulate)
        done = step / self.warmup_steps
        return Rates(
            norm=rate * done,
            kernel=rate * done,
            bias=config.warmup_bias_lr + (rate - config.warmup_bias_lr) * done,
            momentum=config.warmup_momentum + (config.momentum - config.warmup_momentum) * done,
            accumulate=max(1, round(1 + (final - 1) * done)),  # Python rounds half to even
        )


def make_schedule(
    config: OptimConfig, *, epochs: int, batch_size: int, num_images: int
) -> Schedule:
    """Returns the schedule of a run.

    Args:
      config: rates, and how long to warm up.
      epochs: number of epochs of the whole run.
      batch_size: images per step, over all devices.
      num_images: images per epoch.
    """
    warmup_steps = max(
        round(config.warmup_epochs * num_images / batch_size), config.warmup_min_steps
    )
    return Schedule(config, epochs, batch_size, num_images, warmup_steps)


def param_groups(params: Any) -> Any:
    """Sorts parameters by what the optimiser does with them.

    Args:
      params: a tree of parameters whose leaves are called by their role.

    Returns:
      A tree of the same structure: "kernel" for convolution kernels, "bias" for biases, "implicit"
      for implicit tensors and "norm" for the scales of norms.

    Raises:
      ValueError: a leaf has another name; a new kind of parameter must choose its group.
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
    raise ValueError(
        f"parameter {'.'.join(names)} is in no optimiser group; "
        "its name must be kernel, bias, scale or implicit_*"
    )


def is_trained(params: Any, freeze: Sequence[str]) -> Any:
    """Says which parameters an optimiser may move.

    Args:
      params: a tree of parameters.
      freeze: patterns of names: `backbone` stands for all parameters whose name begins with
        `backbone.`, `*.bias` for all biases. A name is the path through the model, with dots.

    Returns:
      A tree of bools like `params`.

    Raises:
      ValueError: a pattern fits no parameter, or nothing would be left to train.
    """
    names = jax.tree_util.tree_map_with_path(lambda path, _: ".".join(_names(path)), params)
    used: set[str] = set()

    def trained(name: str) -> bool:
        fits = [
            pattern
            for pattern in freeze
            if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")
        ]
        used.update(fits)
        return not fits

    result = jax.tree.map(trained, names)
    unused = [pattern for pattern in freeze if pattern not in used]
    if unused:
        parts = dict.fromkeys(name.split(".")[0] for name in jax.tree.leaves(names))
        raise ValueError(
            f"freeze: no parameter is called {', '.join(unused)}; names begin with "
            f"{', '.join(parts)}"
        )
    if not any(jax.tree.leaves(result)):
        raise ValueError(f"freeze (={', '.join(freeze)}) leaves no parameter to train")
    return result


def init_optimizer(config: OptimConfig, params: Any) -> optax.OptState:
    """Returns the optimiser's state before the first update."""
    return _direction(config, 0.0, config.momentum).init(params)


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
    """Moves the parameters once.

    Args:
      gradients: a tree like `params`.
      opt_state: what `init_optimizer` or the call before returned.
      params: the parameters.
      rates: of this step; its fields may be traced.
      config: which optimiser.
      weight_decay: added to the gradient of kernels, times the kernel; with AdamW, to its
        direction.
      freeze: which parameters stay as they are; see `is_trained`.

    Returns:
      The new parameters and the new state of the optimiser.
    """
    trained = is_trained(params, freeze)
    gradients = jax.tree.map(
        lambda moves, gradient: gradient if moves else jnp.zeros_like(gradient), trained, gradients
    )
    direction, opt_state = _direction(config, weight_decay, rates.momentum).update(
        gradients, opt_state, params
    )
    rate_of_group = {
        "norm": rates.norm,
        "implicit": rates.norm * config.implicit_lr_scale,
        "kernel": rates.kernel,
        "bias": rates.bias,
    }

    def moved(moves: bool, group: str, param: jax.Array, way: jax.Array) -> jax.Array:
        return param - rate_of_group[group] * way if moves else param

    return jax.tree.map(moved, trained, param_groups(params), params, direction), opt_state


def _direction(
    config: OptimConfig, weight_decay: float, momentum: float | jax.Array
) -> optax.GradientTransformation:
    """The way of one update before its learning rate."""
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


def update_ema(average: Any, current: Any, updates: jax.Array) -> Any:
    """Moves the running average of parameters and statistics.

    Args:
      average: the average so far; before the first update, a copy of the start weights.
      current: the values after the update; a tree like `average`.
      updates: number of updates so far, this one included.

    Returns:
      The new average.
    """
    keep = EMA_DECAY * (1 - jnp.exp(-updates.astype(jnp.float32) / EMA_RAMP))
    return jax.tree.map(
        lambda old, new: (keep * old + (1 - keep) * new).astype(old.dtype), average, current
    )
