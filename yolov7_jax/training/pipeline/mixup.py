"""Mixup: two samples blended into one."""

import cv2
import numpy as np

from yolov7_jax.training.pipeline.plan import Sample

MIXUP_BETA = 8.0  # both parameters of the ratio's distribution: mostly about a half


def mixup(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Blends two samples of the same size, in a ratio of Beta(8, 8); all objects are kept."""
    ratio = rng.beta(MIXUP_BETA, MIXUP_BETA)
    image = cv2.addWeighted(sample.image, ratio, other.image, 1 - ratio, 0)
    blended = sample._replace(image=np.asarray(image, np.uint8))
    return blended.with_objects(other.boxes_xyxy, other.labels, other.polygons)
