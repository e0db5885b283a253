"""What a training step learns from."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Num, UInt8

from yolov7_jax.types import Targets


class Batch(NamedTuple):
    """Images of one size, and the objects in them.

    Attributes:
      images: 8-bit RGB, or floats in [0, 1].
      targets: the objects, normalised by the sides of the images.
    """

    images: Num[Array, "b h w 3"] | UInt8[np.ndarray, "b h w 3"]
    targets: Targets
