"""Multi-scale training: the ladder of image sizes, and which one a step takes."""

import math

import numpy as np

from yolov7_jax.errors import UserError
from yolov7_jax.training.train_config import TrainConfig

SCALE_STREAM = 4  # of random numbers; the input pipeline has those before


def scale_ladder(config: TrainConfig, stride: int) -> tuple[int, ...]:
    """Returns the sizes of multi-scale training: multiples of the stride, evenly spread.

    Args:
      config: says around which size, and how many.
      stride: the largest of the network.

    Raises:
      UserError: there are not so many.
    """
    low, high = (config.image_size * share / stride for share in (0.5, 1.5))
    possible = np.arange(math.ceil(low), math.floor(high) + 1) * stride
    if config.multi_scale > len(possible):
        most = f"at most {len(possible)}" if len(possible) > 1 else "0"
        raise UserError(
            f"--multi-scale (={config.multi_scale}) must be {most}; {len(possible)} multiples of "
            f"{stride} are between a half and one and a half times {config.image_size}"
        )
    if not config.multi_scale:
        return ()
    chosen = np.linspace(0, len(possible) - 1, config.multi_scale)
    return tuple(possible[chosen.round().astype(int)].tolist())


def size_of_step(sizes: tuple[int, ...], seed: int, step: int) -> int | None:
    """Returns the side that a step resizes images to; None leaves them as they are."""
    if not sizes:
        return None
    return sizes[np.random.default_rng((SCALE_STREAM, seed, step)).integers(len(sizes))]
