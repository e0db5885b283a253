import dataclasses

import numpy as np
import pytest
from drawn import (
    BACKGROUND,
    COLOURS,
    DrawnImages,
    empty_images,
    objects_in_pixels,
    rectangles,
    seen_box,
    stars,
)

from yolov7_jax.data.dataset import Polygons
from yolov7_jax.training.augment_config import AugmentConfig
from yolov7_jax.training.pipeline.copy_paste import copy_paste, paste_in
from yolov7_jax.training.pipeline.geometry import covered_share
from yolov7_jax.training.pipeline.mixup import mixup
from yolov7_jax.training.pipeline.mosaic import letterbox_scene, mosaic4
from yolov7_jax.training.pipeline.plan import PASTE_PLACES, Sample
from yolov7_jax.training.pipeline.render import render

SIZE = 160
COPY_ALL = AugmentConfig(copy_paste=1.0)


def blank(size=SIZE, value=BACKGROUND, count=0):
    boxes = np.asarray([[0, 0, size, size]] * count, np.float32).reshape(-1, 4)
    image = np.full((size, size, 3), value, np.uint8)
    return Sample(image, boxes, np.arange(count, dtype=np.int32), Polygons.none(count))


def test_mixup_keeps_all_objects_of_both():
    rng = np.random.default_rng(0)
    first, second = (render(letterbox_scene(stars(rng), i, 140), stars(rng), 140) for i in (1, 2))
    mixed = mixup(first, second, rng)
    assert mixed.labels.tolist() == [1, 2]
    assert len(mixed.polygons.part_offsets) == 3
    np.testing.assert_array_equal(mixed.boxes_xyxy[1], second.boxes_xyxy[0])
    low = np.minimum(first.image, second.image)
    high = np.maximum(first.image, second.image)
    assert (mixed.image >= low).all()
    assert (mixed.image <= high).all()


def test_mixup_ratio_is_beta_8_8():
    rng = np.random.default_rng(0)
    white, black = blank(1, 255), blank(1, 0)
    ratios = np.sort([mixup(white, black, rng).image[0, 0, 0] / 255 for _ in range(4000)])
    # The distribution function by integrating the density x^7 (1 - x)^7.
    grid = np.linspace(0, 1, 10_001)
    cumulative = np.cumsum((grid * (1 - grid)) ** 7)
    expected = np.interp(ratios, grid, cumulative / cumulative[-1])
    assert np.abs(expected - (np.arange(4000) + 0.5) / 4000).max() < 0.03
    assert abs(ratios.var() - 1 / 68) < 0.001


def test_copy_paste_mirrors_objects_about_the_middle():
    # Pixel for pixel what flipping the scene and cutting the object out would give.
    images = stars(np.random.default_rng(1), 1, size=60)
    scene = letterbox_scene(images, 0, 60)
    box = scene.boxes_xyxy[0]
    copied = copy_paste(scene, COPY_ALL, np.random.default_rng(0))
    assert len(copied.labels) == 1  # its mirror image covers the object itself

    corner = scene._replace(size=(200, 60))
    copied = copy_paste(corner, COPY_ALL, np.random.default_rng(0))
    assert copied.labels.tolist() == [0, 0]
    np.testing.assert_allclose(copied.boxes_xyxy[1], [200 - box[2], box[1], 200 - box[0], box[3]])
    image = render(copied, images, 60).image
    np.testing.assert_allclose(
        seen_box(image[:, 100:], 0) + np.asarray([100, 0, 100, 0]), copied.boxes_xyxy[1], atol=1.5
    )
    coloured = (image == COLOURS[0]).all(2)
    mirrored = coloured[:, ::-1]
    assert (coloured[:, 140:] != mirrored[:, 140:]).mean() < 0.02
    assert (image[:, 100:][~coloured[:, 100:]] == 114).mean() > 0.9  # no background comes along


def test_copies_never_cover_30_percent_of_another_box():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scene = mosaic4(stars(rng), [0, 1, 2, 3], SIZE, rng)
        copied = copy_paste(scene, COPY_ALL, rng)
        first = len(scene.labels)
        for row in range(first, len(copied.labels)):
            assert (covered_share(copied.boxes_xyxy[:row], copied.boxes_xyxy[row]) < 0.3).all()
        assert (copied.boxes_xyxy[:first] == scene.boxes_xyxy).all()
        assert len(copied.polygons.part_offsets) == len(copied.labels) + 1
        images_of = [copied.tiles[tile].image for tile in copied.tile.tolist()]
        assert images_of == copied.labels.tolist()


def test_the_share_of_objects_that_copy_paste_draws_is_the_configured_one():
    objects = objects_in_pixels(
        [[x, 10 * row, x + 2, 10 * row + 2] for row in range(10) for x in range(0, 40, 4)],
        range(100),
        [
            [[(x, 10 * row), (x + 2, 10 * row), (x, 10 * row + 2)]]
            for row in range(10)
            for x in range(0, 40, 4)
        ],
        (100, 100),
    )
    images = DrawnImages([np.zeros((100, 100, 3), np.uint8)], [objects])
    scene = letterbox_scene(images, 0, 100)
    config = dataclasses.replace(COPY_ALL, copy_paste=0.3)
    copied = copy_paste(scene, config, np.random.default_rng(0))
    assert len(copied.labels) == 130
    assert len(set(copied.labels[100:].tolist())) == 30
    assert copy_paste(scene, AugmentConfig(), np.random.default_rng(0)) is scene


def test_objects_without_an_outline_are_not_copied():
    rng = np.random.default_rng(0)
    scene = mosaic4(rectangles(rng), [0, 1, 2, 3], SIZE, rng)
    assert copy_paste(scene, COPY_ALL, rng) is scene


def test_pasted_boxes_are_on_their_objects():
    checked = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        images = stars(rng)
        sample = paste_in(blank(), images, SIZE, rng)
        for row, (box, label) in enumerate(
            zip(sample.boxes_xyxy, sample.labels.tolist(), strict=True)
        ):
            around = box + np.asarray((-4, -4, 4, 4), np.float32)
            others = np.delete(sample.boxes_xyxy, row, axis=0)
            if covered_share(others, around).any() or (box[2:] - box[:2]).min() < 12:
                continue
            x0, y0, x1, y1 = np.clip(around, 0, SIZE).astype(int).tolist()
            seen = seen_box(sample.image[y0:y1, x0:x1], label) + np.asarray([x0, y0, x0, y0])
            np.testing.assert_allclose(box, seen, atol=2)
            checked += 1
    assert checked > 25


def test_pasted_objects_never_cover_30_percent_of_another_and_lie_inside():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        sample = paste_in(blank(), stars(rng), SIZE, rng)
        boxes = sample.boxes_xyxy
        for row in range(1, len(boxes)):
            assert (covered_share(boxes[:row], boxes[row]) < 0.3).all()
        assert (boxes >= -1e-3).all()
        assert (boxes <= SIZE + 1e-3).all()
        assert len(boxes) <= 20
        assert len(sample.polygons.part_offsets) == len(boxes) + 1
        assert sample.boxes_xyxy.dtype == np.float32
        assert sample.labels.dtype == np.int32


def test_a_box_over_the_whole_sample_allows_only_small_cut_outs():
    rng = np.random.default_rng(0)
    sample = paste_in(blank(count=1), stars(rng), SIZE, rng)
    assert len(sample.labels) > 5
    areas = (sample.boxes_xyxy[1:, 2:] - sample.boxes_xyxy[1:, :2]).prod(1)
    assert areas.max() < 0.3 * SIZE**2


def test_a_fifth_of_the_places_stays_empty_and_sides_follow_the_ladder():
    outline = [(0, 0), (100, 0), (100, 100), (0, 100)]
    objects = objects_in_pixels([[0, 0, 100, 100]], [0], [[outline]], (100, 100))
    images = DrawnImages([np.zeros((100, 100, 3), np.uint8)], [objects])
    rng, filled, sides = np.random.default_rng(0), [], []
    for _ in range(150):
        boxes = paste_in(blank(1000, count=0), images, 100, rng).boxes_xyxy
        filled.append(len(boxes))
        sides.extend((boxes[:, 2] - boxes[:, 0]).tolist())
    places = sum(count for count, _ in PASTE_PLACES)
    assert places == 20
    assert [side for _, side in PASTE_PLACES] == [0.75, 0.5, 0.25, 0.125, 0.0625]
    # Some more are left out because they cover another.
    assert 0.55 * places < np.mean(filled) <= 0.8 * places
    assert max(sides) < 750
    assert max(sides) > 400
    assert min(sides) > 2


def test_nothing_is_pasted_where_there_are_no_outlines_and_the_input_is_not_changed():
    rng = np.random.default_rng(0)
    sample = blank(count=2)
    for images in (rectangles(rng), empty_images([(9, 9)] * 3)):
        result = paste_in(sample, images, SIZE, rng)
        assert result.labels.tolist() == [0, 1]
        np.testing.assert_array_equal(result.image, sample.image)
        assert images.asked == []
    before = sample.image.copy()
    pasted = paste_in(sample, stars(rng), SIZE, rng)
    assert not np.array_equal(pasted.image, before)
    np.testing.assert_array_equal(sample.image, before)


@pytest.mark.parametrize("outline", [[(5, 5)], [(5, 5), (5, 5), (5, 5)], [(5, 5), (30, 5)]])
def test_outlines_without_an_area_are_left_out(outline):
    objects = objects_in_pixels([[5, 5, 6, 6]], [0], [[outline]], (50, 50))
    images = DrawnImages([np.zeros((50, 50, 3), np.uint8)], [objects])
    sample = paste_in(blank(), images, SIZE, np.random.default_rng(0))
    assert len(sample.labels) == 0
