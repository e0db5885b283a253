import cv2
import numpy as np
import pytest

from yolov7_jax.data.dataset import Polygons
from yolov7_jax.training.pipeline.geometry import (
    clip_convex,
    concatenate_polygons,
    corners_of,
    covered_share,
    has_outline,
    hull_of,
    keeps_enough,
    outline_of,
    visible_hulls,
    warp_points,
)

SQUARE = np.asarray([(0, 0), (100, 0), (100, 100), (0, 100)], np.float64)


def one(*parts):
    return Polygons.pack([[np.asarray(part, np.float64) for part in parts]])


BENT = [(-40, -40), (60, -40), (60, -20), (-20, -20), (-20, 50), (60, 50), (60, 70), (-40, 70)]
NEAR, FAR = [(10, 10), (20, 10), (20, 20)], [(200, 50), (300, 50), (250, 80)]


@pytest.mark.parametrize(
    ("parts", "hull"),
    [
        ([[(10, 20), (70, 30), (40, 90)]], [10, 20, 70, 90]),  # inside the region
        # The left corner is cut off at x = 0, where the edges are at y = 40 and y = 60.
        ([[(-10, 50), (40, 0), (90, 50), (40, 100)]], [0, 0, 90, 100]),
        ([[(-50, 50), (-50, 10), (20, 30)]], [0, 30 - 20 * 2 / 7, 20, 30 + 20 * 2 / 7]),  # its tip
        ([[(-10, -20), (130, -10), (120, 140), (-15, 130)]], [0, 0, 100, 100]),  # around it
        ([[(-20, -50), (120, -50), (120, 30), (-20, 30)]], [0, 0, 100, 30]),  # its lower edge
        # One arm of a C is in the region, whose corner its spine only bends around.
        ([BENT], [0, 50, 60, 70]),
        ([NEAR, FAR], [10, 10, 20, 20]),  # a part outside does not count
        ([FAR], [0, 0, 0, 0]),
    ],
)
def test_the_hull_is_that_of_what_lies_in_the_region(parts, hull):
    np.testing.assert_allclose(visible_hulls(one(*parts), SQUARE), [hull], atol=1e-4)


def test_objects_without_corners_have_no_hull_and_disturb_no_other():
    polygons = Polygons.pack(
        [
            [],
            [np.asarray([(-10, 10), (20, 10), (20, 20)])],
            [np.zeros((0, 2))],
            [np.zeros((0, 2)), np.asarray([(90, 90), (190, 90), (190, 190)]), np.zeros((0, 2))],
        ]
    )
    hulls = visible_hulls(polygons, SQUARE)
    np.testing.assert_allclose(
        hulls, [[0] * 4, [0, 10, 20, 20], [0] * 4, [90, 90, 100, 100]], atol=1e-4
    )
    assert has_outline(polygons).tolist() == [False, True, False, True]
    assert visible_hulls(Polygons.none(3), SQUARE).tolist() == [[0] * 4] * 3
    assert visible_hulls(Polygons.none(0), SQUARE).shape == (0, 4)


@pytest.mark.parametrize("seed", range(8))
def test_hulls_agree_with_filled_pixels_for_any_star_and_convex_region(seed):
    rng = np.random.default_rng(seed)
    size, objects = 400, []
    for _ in range(12):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        radii = rng.uniform(20, 160, 9)
        centre = rng.uniform(0, size, 2)
        objects.append([centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]])
    angle = rng.uniform(0, np.pi / 2) + np.arange(4) * np.pi / 2
    region = size / 2 + np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(80, 220)
    region = clip_convex(region if seed % 2 else region[::-1], size, size)
    inside = np.zeros((size, size), np.uint8)
    cv2.fillPoly(inside, [np.round((region - 0.5) * 256).astype(np.int32)], 1, shift=8)
    hulls = visible_hulls(Polygons.pack(objects), region)
    visible = 0
    for (outline,), hull in zip(objects, hulls, strict=True):
        mask = np.zeros((size, size), np.uint8)
        cv2.fillPoly(mask, [np.round((outline - 0.5) * 256).astype(np.int32)], 1, shift=8)
        rows, columns = np.nonzero(mask & inside)
        if len(rows) < 30:
            continue
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(hull, seen, atol=4)  # OpenCV fattens acute tips
        visible += 1
    assert visible >= 4


def test_clipping_a_convex_region():
    assert clip_convex(SQUARE + 200, 100, 100).shape == (0, 2)
    assert hull_of(clip_convex(SQUARE - 30, 100, 100)).tolist() == [0, 0, 70, 70]
    diamond = np.asarray([(50, -20), (120, 50), (50, 120), (-20, 50)], np.float64)
    clipped = clip_convex(diamond, 100, 100)
    assert len(clipped) == 8
    assert hull_of(clipped).tolist() == [0, 0, 100, 100]


def test_warped_points_are_divided_by_their_depth():
    matrix = np.asarray([(2, 0, 1), (0, 4, 0), (0.5, 0, 1)])
    np.testing.assert_allclose(warp_points(np.asarray([(2.0, 3.0)]), matrix), [(2.5, 6)])
    assert corners_of(np.asarray([1, 2, 3, 4])).tolist() == [[1, 2], [3, 2], [3, 4], [1, 4]]


def test_outlines_survive_being_joined_and_taken_apart():
    rng = np.random.default_rng(0)
    objects = [[rng.uniform(size=(n, 2)) for n in parts] for parts in ([3], [], [4, 5], [6], [])]
    joined = concatenate_polygons([Polygons.pack(objects[:2]), Polygons.pack(objects[2:])])
    for row, parts in enumerate(objects):
        for found, part in zip(outline_of(joined, row), parts, strict=True):
            np.testing.assert_array_equal(found, part.astype(np.float32))
    keep = np.asarray([False, True, True, False, True])
    for chosen in (keep, np.flatnonzero(keep), np.asarray([4, 2, 1, 2]), np.zeros(0, np.int64)):
        expected = Polygons.pack([objects[row] for row in np.arange(len(objects))[chosen]])
        for found, wanted in zip(joined.take(chosen), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
            assert found.dtype == wanted.dtype


def test_small_thin_and_mostly_hidden_boxes_are_dropped():
    before = np.asarray([[0, 0, 10, 10]] * 5, np.float32)
    after = [[0, 0, 10, 2], [0, 0, 2.1, 10], [0, 0, 3, 3.3], [0, 0, 3, 3.4], [0, 0, 10, 10]]
    after = np.asarray(after, np.float32)
    assert keeps_enough(before, after, np.zeros(5, bool)).tolist() == [
        False,  # not over 2 pixels
        True,
        False,  # 9.9 of 100 are left
        True,
        True,
    ]
    long = np.asarray([[0, 0, 100, 5], [0, 0, 99, 5]], np.float32)
    assert keeps_enough(long, long, np.zeros(2, bool)).tolist() == [False, True]
    assert keeps_enough(long[:0], long[:0], np.zeros(0, bool)).shape == (0,)


def test_an_outlined_object_may_lose_all_but_a_hundredth():
    before = np.asarray([[0, 0, 30, 30]] * 3, np.float32)
    after = np.asarray([[0, 0, 3, 3], [0, 0, 3, 3.1], [0, 0, 3, 3.1]], np.float32)
    outlined = np.asarray([True, True, False])
    assert keeps_enough(before, after, outlined).tolist() == [False, True, False]


def test_covered_share_counts_the_covered_box_alone():
    boxes = np.asarray([[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 4, 4]], np.float32)
    shares = covered_share(boxes, np.asarray([0, 0, 5, 100]))
    np.testing.assert_allclose(shares, [0.5, 0, 1])
