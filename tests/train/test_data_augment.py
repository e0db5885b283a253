import dataclasses

import numpy as np
import pytest

from train.data.augment import (
    AugmentConfig,
    Sample,
    fit_longer_side,
    keeps_enough,
    letterbox_sample,
    mosaic4,
    random_flips,
    random_hsv,
    random_perspective,
    train_sample,
)

STILL = AugmentConfig(mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0, flipud=0)


def blob(rng, width=160, height=120, label=0):
    """One white box on black, 3 to 9 tenths of each side."""
    x0, y0 = rng.uniform(0, 0.3, 2) * (width, height)
    x1, y1 = rng.uniform(0.6, 0.9, 2) * (width, height)
    box = np.round([x0, y0, x1, y1]).astype(int)
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return Sample(image, box[None].astype(np.float32), np.asarray([label], np.int32))


def white_box(image):
    white = image.min(2) > 200
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    return np.asarray([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(fliplr=1, flipud=1, hsv_v=0, hsv_s=0),
        AugmentConfig(degrees=30, shear=10, translate=0.1),
        AugmentConfig(perspective=0.0005, translate=0.1),
    ],
)
def test_boxes_follow_the_pixels_through_warps_and_flips(config):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sample = letterbox_sample(blob(rng), 192)
        sample = random_flips(random_perspective(sample, 192, config, rng), config, rng)
        if len(sample.labels):
            seen, box = white_box(sample.image), sample.boxes_xyxy[0]
            # The hull of a turned box touches its corners, so it is exactly what is seen.
            np.testing.assert_allclose(box, seen, atol=2.5)


def test_no_variation_is_the_letterboxed_picture_enlarged_by_half_a_tenth():
    sample = blob(np.random.default_rng(0), 100, 100)
    config = dataclasses.replace(STILL)
    zooms = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        result = train_sample(lambda _: sample, 0, 1, 100, config, rng)
        side = result.boxes_xyxy[0, 2:] - result.boxes_xyxy[0, :2]
        zooms.append(side[0] / (sample.boxes_xyxy[0, 2] - sample.boxes_xyxy[0, 0]))
        centre = (sample.boxes_xyxy[0, :2] + sample.boxes_xyxy[0, 2:]) / 2 - 50
        moved = (result.boxes_xyxy[0, :2] + result.boxes_xyxy[0, 2:]) / 2 - 50
        np.testing.assert_allclose(moved, centre * zooms[-1], atol=1e-3)
    assert 1 <= min(zooms) < 1.01  # uniform in [1 - scale, 1.1 + scale]
    assert 1.09 < max(zooms) <= 1.1


def test_zoom_and_shift_cover_their_ranges():
    size = 100
    image = np.zeros((size, size, 3), np.uint8)
    sample = Sample(image, np.asarray([[45, 45, 55, 55]], np.float32), np.zeros(1, np.int32))
    config = AugmentConfig(translate=0.2, scale=0.4)
    boxes = np.concatenate(
        [
            random_perspective(sample, size, config, np.random.default_rng(seed)).boxes_xyxy
            for seed in range(400)
        ]
    )
    zoom = (boxes[:, 2] - boxes[:, 0]) / 10
    shift = (boxes[:, :2] + boxes[:, 2:]) / 2 / size - 0.5
    assert 0.6 <= zoom.min() < 0.62
    assert 1.48 < zoom.max() <= 1.5 + 1e-5
    assert -0.2 <= shift.min() < -0.19
    assert 0.19 < shift.max() <= 0.2


def test_shear_widens_the_hull_of_a_box_by_up_to_its_tangent():
    sample = Sample(
        np.zeros((200, 200, 3), np.uint8),
        np.asarray([[90, 90, 110, 110]], np.float32),
        np.zeros(1, np.int32),
    )
    config = AugmentConfig(translate=0, scale=0, shear=30)
    ratios = []
    for seed in range(200):
        box = random_perspective(sample, 200, config, np.random.default_rng(seed)).boxes_xyxy[0]
        ratios.append((box[2] - box[0]) / (box[3] - box[1]))
    limit = 1 + np.tan(np.radians(30))
    assert 0.9 * limit < max(ratios) <= limit
    assert 1 / limit <= min(ratios) < 1.1 / limit


def test_a_box_that_only_became_smaller_is_kept():
    sample = Sample(
        np.zeros((100, 100, 3), np.uint8),
        np.asarray([[25, 25, 75, 75]], np.float32),
        np.zeros(1, np.int32),
    )
    config = AugmentConfig(translate=0, scale=0.9)
    for seed in range(100):  # areas down to a hundredth, all of it visible
        result = random_perspective(sample, 100, config, np.random.default_rng(seed))
        assert len(result.labels) == 1


def test_mosaic_shows_each_tile_in_its_quarter_with_its_own_boxes():
    size = 64
    tiles = []
    for label in range(4):
        image = np.full((size, size, 3), 50 * label, np.uint8)
        box = np.asarray([[0, 0, size, size]], np.float32)
        tiles.append(Sample(image, box, np.asarray([label], np.int32)))
    centres = []
    for seed in range(50):
        canvas = mosaic4(tiles, size, np.random.default_rng(seed))
        assert canvas.image.shape == (2 * size, 2 * size, 3)
        assert canvas.labels.tolist() == [0, 1, 2, 3]
        for label, box in enumerate(canvas.boxes_xyxy.astype(int)):
            assert (canvas.image[box[1] : box[3], box[0] : box[2]] == 50 * label).all()
        assert (canvas.boxes_xyxy[0, 2:] == canvas.boxes_xyxy[3, :2]).all()
        centres.append(canvas.boxes_xyxy[0, 2:])
        covered = (canvas.boxes_xyxy[:, 2:] - canvas.boxes_xyxy[:, :2]).prod(1).sum()
        assert (canvas.image == 114).all(2).sum() == 4 * size**2 - covered
    assert np.min(centres) >= size / 2
    assert np.max(centres) <= 1.5 * size
    assert np.ptp(centres) > 0.8 * size


def test_mosaic_drops_what_lies_outside_the_canvas_and_clips_the_rest():
    size = 64
    image = np.zeros((size, size, 3), np.uint8)
    boxes = np.asarray([[0, 0, 1, 1], [0, 0, 64, 64]], np.float32)
    tile = Sample(image, boxes, np.asarray([0, 1], np.int32))
    canvas = mosaic4([tile] * 4, size, np.random.default_rng(3))  # cuts the tiles on the left
    assert canvas.boxes_xyxy.min() >= 0
    assert canvas.boxes_xyxy.max() <= 2 * size
    assert (canvas.boxes_xyxy[:, 2:] > canvas.boxes_xyxy[:, :2]).all()
    assert (canvas.labels == 1).sum() == 4
    assert (canvas.labels == 0).sum() < 4


def test_a_mosaic_holds_the_sample_itself_and_only_pictures_of_the_data_set():
    asked = []

    def load(index):
        asked.append(index)
        return blob(np.random.default_rng(index), label=index)

    for seed in range(30):
        asked.clear()
        train_sample(load, 5, 7, 96, AugmentConfig(), np.random.default_rng(seed))
        assert len(asked) == 4
        assert asked[0] == 5
        assert set(asked) <= set(range(7))


def test_small_thin_and_mostly_hidden_boxes_are_dropped():
    before = np.asarray([[0, 0, 10, 10]] * 5, np.float32)
    after = [[0, 0, 10, 2], [0, 0, 2.1, 10], [0, 0, 3, 3.3], [0, 0, 3, 3.4], [0, 0, 10, 10]]
    assert keeps_enough(before, np.asarray(after, np.float32)).tolist() == [
        False,  # not over 2 pixels
        True,
        False,  # 9.9 of 100 are left
        True,
        True,
    ]
    long = np.asarray([[0, 0, 100, 5], [0, 0, 99, 5]], np.float32)
    assert keeps_enough(long, long).tolist() == [False, True]
    assert keeps_enough(long[:0], long[:0]).shape == (0,)


def test_hsv_keeps_grey_grey_and_leaves_boxes_alone():
    grey = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    sample = Sample(grey, np.ones((1, 4), np.float32), np.zeros(1, np.int32))
    config = dataclasses.replace(STILL, hsv_h=0.5, hsv_s=0.7)
    result = random_hsv(sample, config, np.random.default_rng(0))
    np.testing.assert_array_equal(result.image, grey)
    assert result.boxes_xyxy is sample.boxes_xyxy


def test_hsv_gains_stay_in_their_range():
    image = np.full((4, 4, 3), (100, 100, 100), np.uint8)
    sample = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int32))
    config = dataclasses.replace(STILL, hsv_v=0.4)
    values = [
        random_hsv(sample, config, np.random.default_rng(seed)).image[0, 0, 0]
        for seed in range(300)
    ]
    assert 60 <= min(values) <= 62
    assert 138 <= max(values) <= 140


def test_two_flips_are_none():
    rng = np.random.default_rng(0)
    sample, both = blob(rng), dataclasses.replace(STILL, fliplr=1, flipud=1)
    once = random_flips(sample, both, rng)
    assert not np.array_equal(once.boxes_xyxy, sample.boxes_xyxy)
    twice = random_flips(once, both, rng)
    np.testing.assert_array_equal(twice.image, sample.image)
    np.testing.assert_allclose(twice.boxes_xyxy, sample.boxes_xyxy)


def test_longer_side_is_the_training_size_and_boxes_scale_along():
    result = fit_longer_side(blob(np.random.default_rng(0), 160, 120), 320)
    assert result.image.shape == (240, 320, 3)
    np.testing.assert_allclose(result.boxes_xyxy[0], white_box(result.image), atol=1.5)


def test_pictures_without_objects_pass_through():
    empty = Sample(
        np.zeros((50, 70, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
    )
    for mosaic in (0.0, 1.0):
        config = AugmentConfig(mosaic=mosaic, degrees=5, fliplr=1, flipud=1)
        result = train_sample(lambda _: empty, 0, 1, 64, config, np.random.default_rng(0))
        assert result.image.shape == (64, 64, 3)
        assert result.boxes_xyxy.shape == (0, 4)


def test_values_out_of_range_are_named_together():
    with pytest.raises(ValueError, match=r"mosaic \(=2\) must be .* 1; scale \(=1\.5\) must be"):
        AugmentConfig(mosaic=2, scale=1.5)
