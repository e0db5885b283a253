import dataclasses

import cv2
import numpy as np
import pytest

from yolov7_jax.data.dataset import Polygons
from yolov7_jax.training.augment_config import AugmentConfig
from yolov7_jax.training.pipeline.colour import random_hsv
from yolov7_jax.training.pipeline.plan import Sample

STILL = AugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0)


def sample_of(image):
    return Sample(image, np.ones((1, 4), np.float32), np.zeros(1, np.int32), Polygons.none(1))


def test_without_limits_the_sample_is_the_same_object_and_with_them_the_image_is_new():
    image = np.full((4, 4, 3), (200, 100, 50), np.uint8)
    sample = sample_of(image.copy())
    assert random_hsv(sample, STILL, np.random.default_rng(0)) is sample
    assert not np.array_equal(
        random_hsv(sample, AugmentConfig(), np.random.default_rng(0)).image, image
    )
    np.testing.assert_array_equal(sample.image, image)


def test_the_same_numbers_are_drawn_whatever_the_limits():
    states = []
    for config in (STILL, AugmentConfig()):
        rng = np.random.default_rng(0)
        random_hsv(sample_of(np.zeros((2, 2, 3), np.uint8)), config, rng)
        states.append(rng.random())
    assert states[0] == states[1]


def test_grey_stays_grey_and_nothing_else_changes():
    grey = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    sample = sample_of(grey.copy())
    config = dataclasses.replace(STILL, hsv_h=0.5, hsv_s=0.7)
    result = random_hsv(sample, config, np.random.default_rng(0))
    np.testing.assert_array_equal(result.image, grey)
    np.testing.assert_array_equal(sample.image, grey)
    assert result.boxes_xyxy is sample.boxes_xyxy
    assert result.polygons is sample.polygons


@pytest.mark.parametrize("field", ["hsv_s", "hsv_v"])
def test_gains_are_uniform_over_their_range_and_clipped(field):
    hsv = np.full((1, 1, 3), (60, 150, 150), np.uint8)
    sample = sample_of(np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8))
    config = dataclasses.replace(STILL, **{field: 0.8})
    channel = 1 if field == "hsv_s" else 2
    values = []
    for seed in range(1500):
        image = random_hsv(sample, config, np.random.default_rng(seed)).image
        values.append(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[0, 0, channel])
    gains = np.sort(np.asarray(values) / 150)
    even = np.minimum(0.2 + 1.6 * (np.arange(1500) + 0.5) / 1500, 255 / 150)
    assert np.abs(gains - even).max() < 0.09  # 1.6 x 0.05, and rounding
    assert gains[-1] == 255 / 150


@pytest.mark.parametrize("limit", [0.1, 1.0])
def test_hue_wraps_around(limit):
    hsv = np.full((1, 1, 3), (170, 255, 255), np.uint8)
    sample = sample_of(np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8))
    config = dataclasses.replace(STILL, hsv_h=limit)
    wrapped = 0
    for seed in range(300):
        image = random_hsv(sample, config, np.random.default_rng(seed)).image
        found = int(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[0, 0, 0])
        gain = 1 + np.random.default_rng(seed).uniform(-1, 1, 3)[0] * limit
        distance = abs(found - 170 * gain % 180)
        assert min(distance, 180 - distance) <= 1.5
        wrapped += 170 * gain > 180
    assert wrapped > 50
