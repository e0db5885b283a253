import cv2
import numpy as np
import pytest
from drawn import (
    COLOURS,
    DrawnImages,
    empty_images,
    objects_in_pixels,
    rectangles,
    seen_box,
    stars,
)

from yolov7_jax.data.images import fitted_size, resize
from yolov7_jax.training.augment_config import AugmentConfig
from yolov7_jax.training.pipeline.geometry import warp_points
from yolov7_jax.training.pipeline.mosaic import (
    letterbox_scene,
    mosaic4,
    mosaic9,
    take_objects,
)
from yolov7_jax.training.pipeline.perspective import random_perspective, warp_scene
from yolov7_jax.training.pipeline.plan import plan_sample
from yolov7_jax.training.pipeline.render import render

SIZE = 128
STILL = AugmentConfig(translate=0, scale=0)
NINE = list(range(9))


def places(scene):
    """Where the whole images of a scene are: x0 y0 x1 y1, beyond its edges too."""
    found = []
    for tile in scene.tiles:
        scale_x, scale_y = tile.matrix[0, 0], tile.matrix[1, 1]
        left, top = tile.matrix[:2, 2]
        found.append((left, top, scale_x, scale_y))
    return np.asarray(found)


def assert_boxes_on_colours(sample, cut_atol=2.0):
    """The box of each object is that of its colour, which appears nowhere else.

    Where the edge of the sample cuts a slanted side, the tip is thinner than a pixel.
    """
    for box, label in zip(sample.boxes_xyxy, sample.labels.tolist(), strict=True):
        seen = seen_box(sample.image, label)
        whole = (box > 0.01).all() and (box < len(sample.image) - 0.01).all()
        np.testing.assert_allclose(box, seen, atol=2 if whole else cut_atol)


def test_four_images_meet_in_one_point_and_fill_their_quarters():
    images, centres = rectangles(np.random.default_rng(0)), []
    for seed in range(50):
        scene = mosaic4(images, [0, 1, 2, 3], SIZE, np.random.default_rng(seed))
        towards_middle = [(2, 3), (0, 3), (2, 1), (0, 1)]  # of each region: right, bottom ...
        meeting = set()
        for tile, (x, y) in zip(scene.tiles, towards_middle, strict=True):
            corner = np.asarray((tile.region_xyxy[x], tile.region_xyxy[y]))
            meeting.add(tuple(warp_points(corner, tile.matrix).round(6).tolist()))
        assert len(meeting) == 1
        centres.append(meeting.pop())
        assert scene.size == (2 * SIZE, 2 * SIZE)
        assert scene.labels.tolist() == sorted(scene.labels.tolist())
    assert np.min(centres) >= SIZE / 2
    assert np.max(centres) <= 1.5 * SIZE


def test_the_meeting_point_is_uniform_from_a_half_to_one_and_a_half():
    images = empty_images([(SIZE, SIZE)])
    points = np.stack(
        [
            mosaic4(images, [0] * 4, SIZE, np.random.default_rng(seed)).tiles[3].matrix[:2, 2]
            for seed in range(1500)
        ]
    )
    share = (np.sort(points, axis=0) + 0.5 - SIZE / 2) / SIZE
    even = (np.arange(1500) + 0.5)[:, None] / 1500
    assert np.abs(share - even).max() < 0.05  # Kolmogorov-Smirnov: 1.9 / sqrt(1500)
    assert np.abs(np.corrcoef(points.T)[0, 1]) < 0.1


@pytest.mark.parametrize("seed", range(10))
def test_nine_images_touch_and_never_overlap(seed):
    rng = np.random.default_rng(seed)
    images = empty_images(rng.integers(20, 200, (9, 2)).tolist())
    scene = mosaic9(images, NINE, SIZE, rng)
    count = np.zeros((6 * SIZE, 6 * SIZE), int)  # with a margin of 2s around the scene
    rectangle = []
    for index, (left, top, scale_x, scale_y) in enumerate(places(scene)):
        width, height = images.size(index)
        x0, y0 = round(left) + 2 * SIZE, round(top) + 2 * SIZE
        x1, y1 = x0 + round(width * scale_x), y0 + round(height * scale_y)
        assert max(x1 - x0, y1 - y0) == SIZE
        count[y0:y1, x0:x1] += 1
        rectangle.append((x0, y0, x1, y1))
    assert count.max() == 1
    beside = [(0, side) for side in (1, 3, 5, 7)] + [(side, side + 1) for side in (1, 3, 5, 7)]
    for this, other in beside:
        low = np.maximum(rectangle[this][:2], rectangle[other][:2])
        high = np.minimum(rectangle[this][2:], rectangle[other][2:])
        assert (high >= low).all()
    middle = places(scene)[0, :2]
    assert (middle >= 0).all()
    assert (middle <= SIZE).all()  # its corner is at (s, s), the window's in [0, s]


def test_one_mosaic_in_five_has_nine_images_and_the_first_is_the_one_asked_for():
    rng = np.random.default_rng(0)
    config = AugmentConfig(mosaic=1, mixup=0)
    mosaics = [plan_sample(5, 7, config, rng)[0] for _ in range(3000)]
    counts = np.asarray([len(images) for images in mosaics])
    assert set(counts.tolist()) == {4, 9}
    assert abs((counts == 9).mean() - 0.2) < 4 * np.sqrt(0.16 / 3000)
    assert {images[0] for images in mosaics} == {5}
    others = np.bincount([image for images in mosaics for image in images[1:]])
    assert len(others) == 7
    assert (np.abs(others / others.sum() - 1 / 7) < 5 * np.sqrt(0.122 / others.sum())).all()


def test_objects_are_cut_at_the_scene_and_gone_outside():
    size = (64, 64)
    objects = objects_in_pixels([[0, 0, 1, 1], [0, 0, 64, 64]], [0, 1], [[], []], size)
    images = DrawnImages([np.zeros((64, 64, 3), np.uint8)], [objects])
    scene = mosaic4(images, [0] * 4, 64, np.random.default_rng(3))  # cut on the left
    assert scene.boxes_xyxy.min() >= 0
    assert scene.boxes_xyxy.max() <= 128
    assert (scene.boxes_xyxy[:, 2:] > scene.boxes_xyxy[:, :2]).all()
    assert (scene.labels == 1).sum() == 4
    assert (scene.labels == 0).sum() < 4


def test_a_letterboxed_scene_has_the_image_in_its_middle():
    for size in ((200, 100), (30, 60), (1, 1), (10_000, 3), (3, 10_000)):
        images = empty_images([size])
        sample = render(letterbox_scene(images, 0, 64), images, 64)
        width, height = fitted_size(size, (64, 64), enlarge=True)
        left, top = (64 - width) // 2, (64 - height) // 2
        expected = np.full((64, 64, 3), 114, np.uint8)
        expected[top : top + height, left : left + width] = 40
        np.testing.assert_array_equal(sample.image, expected)


@pytest.mark.parametrize("outlined", [False, True])
@pytest.mark.parametrize("indices", [[0, 1, 2, 3], NINE])
@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(scale=0.5, translate=0.2),
        AugmentConfig(scale=0.9, translate=0.2),
        AugmentConfig(scale=0.3, degrees=30, shear=10),
        AugmentConfig(scale=0.3, perspective=0.001),
    ],
    ids=["zoomed", "zoomed far", "turned", "perspective"],
)
def test_boxes_stay_on_their_colours(config, indices, outlined):
    seen = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        images = rectangles(rng, outlined=outlined)
        mosaic = mosaic4 if len(indices) == 4 else mosaic9
        scene = mosaic(images, indices, SIZE, rng)
        sample = render(random_perspective(scene, SIZE, config, rng), images, SIZE)
        turned = bool(config.degrees or config.perspective)
        if turned and not outlined:
            # The hull of a box that was cut before it turned reaches beyond what shows of it.
            uncut = (scene.boxes_xyxy > 0).all(1) & (scene.boxes_xyxy < 2 * SIZE).all(1)
            whole = (sample.boxes_xyxy > 0).all(1) & (sample.boxes_xyxy < SIZE).all(1)
            keep = whole & np.isin(sample.labels, scene.labels[uncut])
            sample = sample._replace(boxes_xyxy=sample.boxes_xyxy[keep], labels=sample.labels[keep])
        assert_boxes_on_colours(sample, cut_atol=8 if turned else 2)
        seen += len(sample.labels)
    assert seen >= 6


def test_outlines_follow_any_shape_and_what_is_cut_off_it():
    seen = 0
    config = AugmentConfig(scale=0.4, degrees=25, shear=10, translate=0.3)
    for seed in range(25):
        rng = np.random.default_rng(seed)
        images = stars(rng)
        scene = random_perspective(mosaic4(images, [0, 1, 2, 3], SIZE, rng), SIZE, config, rng)
        sample = render(scene, images, SIZE)
        assert_boxes_on_colours(sample, cut_atol=8)
        seen += len(sample.labels)
    assert seen > 40


def plain_way(images, scene, places_wh, matrix, size):
    """Resizes the images, puts them on a canvas, and warps that."""
    side = scene.size[0]
    canvas = np.full((3 * side, 3 * side, 3), 114, np.uint8)
    border = np.full((3 * side, 3 * side), 0, np.uint8)
    for tile, (width, height) in zip(scene.tiles, places_wh, strict=True):
        left, top = (round(value) + side for value in tile.matrix[:2, 2])
        canvas[top : top + height, left : left + width] = resize(
            images.images[tile.image], width, height
        )
        cv2.rectangle(border, (left, top), (left + width - 1, top + height - 1), 255, 3)
    canvas, border = (array[side : 2 * side, side : 2 * side] for array in (canvas, border))
    cv2.rectangle(border, (0, 0), (side - 1, side - 1), 255, 3)
    half = np.asarray([(1, 0, 0.5), (0, 1, 0.5), (0, 0, 1)])
    centred = np.linalg.inv(half) @ matrix @ half
    image = cv2.warpPerspective(canvas, centred, (size, size), borderValue=(114,) * 3)
    borders = cv2.warpPerspective(border, centred, (size, size))
    return image, cv2.dilate(borders, np.ones((3, 3), np.uint8)) > 0


def smooth_images(rng, count):
    images = []
    for _ in range(count):
        width, height = rng.integers(90, 200, 2).tolist()
        coarse = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
        images.append(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    return DrawnImages(images, [objects_in_pixels([], [], [], (1, 1))] * count)


@pytest.mark.parametrize("zoom", [0.25, 0.45, 0.7, 1.0, 1.9])
@pytest.mark.parametrize("angle", [0, 17])
def test_pixels_are_those_of_a_canvas_that_is_warped(zoom, angle):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        images = smooth_images(rng, 9)
        mosaic, indices = (mosaic4, [0, 1, 2, 3]) if seed % 2 else (mosaic9, NINE)
        scene = mosaic(images, indices, SIZE, rng)
        matrix = np.eye(3)
        matrix[:2] = cv2.getRotationMatrix2D((SIZE, SIZE), angle, zoom)
        matrix[:2, 2] += rng.uniform(-0.7, -0.3, 2) * SIZE
        sample = render(warp_scene(scene, matrix, zoom, SIZE), images, SIZE)
        fitted = [fitted_size(images.size(i), (SIZE, SIZE), enlarge=True) for i in indices]
        expected, borders = plain_way(images, scene, fitted, matrix, SIZE)
        difference = np.abs(sample.image.astype(int) - expected).max(2)
        assert (~borders).mean() > 0.2
        assert difference[~borders].max() <= (12 if zoom > 0.5 else 24)
        assert difference[~borders].mean() < 1.5


def test_images_that_do_not_show_are_not_decoded():
    images = rectangles(np.random.default_rng(0))
    scene = mosaic4(images, [0, 1, 2, 3], SIZE, np.random.default_rng(0))
    corner = scene.tiles[3].matrix[:2, 2]
    matrix = np.diag((2.0, 2.0, 1.0))
    matrix[:2, 2] = -2 * corner  # the meeting point becomes the origin
    render(warp_scene(scene, matrix, 2.0, SIZE), images, SIZE)
    assert images.asked == [(3, 0)]


def test_images_that_shrink_are_asked_for_smaller_but_never_by_more_than_they_shrink():
    images = empty_images([(SIZE, SIZE), (SIZE // 2, SIZE // 2), (4 * SIZE, SIZE)])
    for zoom, wanted in ((1.0, 0), (0.51, 0), (0.5, 1), (0.26, 1), (0.24, 2), (0.12, 3)):
        images.asked.clear()
        for index in range(3):
            scene = letterbox_scene(images, index, SIZE)
            matrix = np.diag((zoom, zoom, 1.0))
            render(warp_scene(scene, matrix, zoom, SIZE), images, SIZE)
        # The second is enlarged by two at first.
        assert images.asked == [(0, wanted), (1, max(0, wanted - 1)), (2, wanted)]


def test_fine_detail_does_not_alias_however_far_it_shrinks():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 200
    images = DrawnImages([stripes], [objects_in_pixels([], [], [], (256, 256))])
    for zoom in (0.4, 0.11, 0.02):
        scene = letterbox_scene(images, 0, 256)
        sample = render(warp_scene(scene, np.diag((zoom, zoom, 1.0)), zoom, 256), images, 256)
        side = int(256 * zoom) - 1
        assert np.abs(sample.image[1:side, 1:side].astype(int) - 100).max() <= 2


def one_box(box, side):
    objects = objects_in_pixels([box], [0], [[]], (side, side))
    return letterbox_scene(DrawnImages([np.zeros((side, side, 3), np.uint8)], [objects]), 0, side)


def test_zoom_and_shift_are_uniform_over_their_ranges():
    scene = one_box([45, 45, 55, 55], 100)
    config = AugmentConfig(translate=0.2, scale=0.4)
    boxes = np.concatenate(
        [
            random_perspective(scene, 100, config, np.random.default_rng(seed)).boxes_xyxy
            for seed in range(1500)
        ]
    )
    even = (np.arange(1500) + 0.5) / 1500
    zoom = (np.sort(boxes[:, 2] - boxes[:, 0]) / 10 - 0.6) / 0.9  # from 0.6 to 1.5
    assert np.abs(zoom - even).max() < 0.05
    shift = np.sort((boxes[:, :2] + boxes[:, 2:]) / 2 / 100, axis=0)
    assert np.abs((shift - 0.3) / 0.4 - even[:, None]).max() < 0.05


def test_shear_widens_the_hull_of_a_box_by_up_to_its_tangent():
    scene = one_box([90, 90, 110, 110], 200)
    config = AugmentConfig(translate=0, scale=0, shear=30)
    ratios = []
    for seed in range(200):
        box = random_perspective(scene, 200, config, np.random.default_rng(seed)).boxes_xyxy[0]
        ratios.append((box[2] - box[0]) / (box[3] - box[1]))
    limit = 1 + np.tan(np.radians(30))
    assert 0.9 * limit < max(ratios) <= limit
    assert 1 / limit <= min(ratios) < 1.1 / limit


def test_a_box_that_only_became_smaller_is_kept():
    scene = one_box([25, 25, 75, 75], 100)
    config = AugmentConfig(translate=0, scale=0.9)
    for seed in range(100):  # areas down to a hundredth, all of it visible
        result = random_perspective(scene, 100, config, np.random.default_rng(seed))
        assert len(result.labels) == 1


def test_perspective_never_folds_a_scene_over():
    images = rectangles(np.random.default_rng(0))
    config = AugmentConfig(perspective=0.001, degrees=180, shear=20)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scene = mosaic4(images, [0, 1, 2, 3], 1000, rng)  # 0.001 reaches past the horizon here
        sample = render(random_perspective(scene, 200, config, rng), images, 1000)
        assert np.isfinite(sample.boxes_xyxy).all()
        assert sample.boxes_xyxy.min(initial=0) >= 0
        assert sample.boxes_xyxy.max(initial=0) <= 200


def test_taking_objects_keeps_all_their_fields_together():
    images = stars(np.random.default_rng(0))
    scene = mosaic9(images, NINE, SIZE, np.random.default_rng(1))
    keep = scene.labels % 2 == 0
    taken = take_objects(scene, keep)
    assert (taken.labels % 2 == 0).all()
    assert len(taken.labels) == len(taken.boxes_xyxy) == len(taken.tile) == keep.sum()
    sample = render(taken, images, SIZE)
    for label in taken.labels.tolist():
        assert [scene.tiles[tile].image for tile in taken.tile[taken.labels == label]] == [label]
    assert len(sample.polygons.part_offsets) == keep.sum() + 1
    assert COLOURS.shape == (9, 3)
