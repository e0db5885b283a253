"""How many objects a training sample has at most, from its random numbers alone."""

import numpy as np
from jaxtyping import Int64

from yolov7_jax.training.augment_config import AugmentConfig
from yolov7_jax.training.pipeline.blend import PASTE_PLACES
from yolov7_jax.training.pipeline.mosaic import NINE_SHARE

WARP_NUMBERS = 8  # that `random_perspective` draws


def most_objects(
    counts: Int64[np.ndarray, " n"],
    index: int,
    image_size: int,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> int | None:
    """Returns as many objects as the images of a sample have, and cut-outs find place.

    A fiftieth of the time that it takes to find out where they end up, and mostly enough to know
    that they need no more room than usual.

    Args:
      counts: objects of each image of the data set.
      index: as for `train_sample`, like the others.
      image_size: side of the sample in pixels.
      config: how far to vary.
      rng: the sample's own generator. It draws what `train_sample` would, up to the last image.

    Returns:
      The number; None where copy-paste makes the random numbers depend on where objects are.
    """
    if config.copy_paste:
        return None
    most = 0
    if rng.random() < config.mosaic:
        most += _of_mosaic(counts, index, image_size, rng)
        if rng.random() < config.mixup:
            second = int(rng.integers(len(counts)))
            most += _of_mosaic(counts, second, image_size, rng)
    else:
        most += int(counts[index])
    return most + bool(config.paste_in) * sum(count for count, _ in PASTE_PLACES)


def _of_mosaic(
    counts: Int64[np.ndarray, " n"], index: int, image_size: int, rng: np.random.Generator
) -> int:
    nine = rng.random() < NINE_SHARE
    others = rng.integers(len(counts), size=8 if nine else 3)
    # Where the images are and how they are warped, which does not matter here.
    if nine:
        rng.integers(image_size, size=2, endpoint=True)
    else:
        rng.random(2)
    rng.random(WARP_NUMBERS)
    return int(counts[index] + counts[others].sum())
