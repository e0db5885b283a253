"""What the optimiser does at each step: rates, warm-up and accumulation, computed on the host.

In double precision, and given to the jitted step as scalars: no rate ever causes a recompilation.
"""

import dataclasses
import math
import sys
from typing import Literal, NamedTuple

from yolov7_jax.errors import UserError

_LARGEST = sys.float_info.max  # no setting may be infinite
_RANGES = {
    "more than 0 and finite": (
        lambda value: 0 < value <= _LARGEST,
        ("lr0", "nominal_batch", "max_gradient_norm"),
    ),
    "at least 0 and finite": (
        lambda value: 0 <= value <= _LARGEST,
        (
            "lrf",
            "weight_decay",
            "warmup_epochs",
            "warmup_min_steps",
            "warmup_bias_lr",
            "implicit_lr_scale",
        ),
    ),
    "in [0, 1)": (lambda value: 0 <= value < 1, ("momentum", "warmup_momentum")),
}


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
        faults = [
            f"{name} (={value}) must be {wanted}"
            for wanted, (is_valid, names) in _RANGES.items()
            for name in names
            if (value := getattr(self, name)) is not None and not is_valid(value)
        ]
        if faults:
            raise UserError("; ".join(faults))

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
