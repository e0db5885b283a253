"""Random changes of colour."""

import cv2
import numpy as np

from yolov7_jax.training.augment_config import AugmentConfig
from yolov7_jax.training.pipeline.plan import Sample

HUES = 180  # OpenCV's 8-bit hue counts half degrees


def random_hsv(sample: Sample, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """Multiplies hue, saturation and value by random gains; hue wraps around.

    Args:
      sample: an image.
      config: the largest relative changes: each gain is 1 + uniform(-1, 1) times that.
      rng: source of the gains.
    """
    limits = np.asarray((config.hsv_h, config.hsv_s, config.hsv_v))
    gains = 1 + rng.uniform(-1, 1, 3) * limits
    if not limits.any():
        return sample
    levels = np.arange(256)
    tables = (
        (levels * gains[0]) % HUES,
        np.clip(levels * gains[1], 0, 255),
        np.clip(levels * gains[2], 0, 255),
    )
    image = cv2.cvtColor(sample.image, cv2.COLOR_RGB2HSV)
    # OpenCV looks three planes up in two thirds of the time of one image of three channels.
    planes = cv2.split(image)
    for plane, table in zip(planes, tables, strict=True):
        cv2.LUT(plane, table.astype(np.uint8), dst=plane)
    cv2.merge(planes, dst=image)
    # In place: fresh memory for every step would cost as much time as the steps.
    cv2.cvtColor(image, cv2.COLOR_HSV2RGB, dst=image)
    return sample._replace(image=np.asarray(image, np.uint8))
