"""Masks in run lengths become outlines that cover what the masks cover."""

import cv2
import numpy as np
import pytest
from data_sets import scan_coco
from pycocotools import mask as oracle

from yolov7_jax.data.mask_outline import MOST_PARTS, MOST_PIXELS, trace_mask


def compressed(mask):
    encoded = oracle.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def uncompressed(mask):
    column_by_column = np.concatenate([[0], np.asarray(mask, np.uint8).T.ravel()])
    ends = np.flatnonzero(np.diff(column_by_column, append=2))
    return {"size": list(np.shape(mask)), "counts": np.diff(ends, prepend=0).tolist()}


def drawn(*pixels, shape=(10, 12)):
    mask = np.zeros(shape, np.uint8)
    for row, column in pixels:
        mask[row, column] = 1
    return mask


def boxes_of(parts):
    return sorted([*part.min(0).tolist(), *part.max(0).tolist()] for part in parts)


@pytest.mark.parametrize("encode", [compressed, uncompressed])
def test_corners_lie_on_the_borders_of_pixels(encode):
    mask = drawn(shape=(20, 40))
    mask[2:12, 4:24] = 1
    outline = trace_mask(encode(mask))
    assert outline.size == (40, 20)
    (part,) = outline.parts
    assert sorted(part.tolist()) == [[4, 2], [4, 12], [24, 2], [24, 12]]


@pytest.mark.parametrize(
    ("mask", "boxes"),
    [
        (drawn((0, 0)), [[0, 0, 1, 1]]),
        (drawn((9, 11)), [[11, 9, 12, 10]]),
        (drawn((0, 0), (0, 1), (0, 2)), [[0, 0, 3, 1]]),
        (drawn((3, 4), (4, 5)), [[4, 3, 6, 5]]),  # corners that touch are one part
        (drawn((3, 4), (6, 4)), [[4, 3, 5, 4], [4, 6, 5, 7]]),
        (np.ones((10, 12)), [[0, 0, 12, 10]]),
    ],
)
def test_parts_of_few_pixels_have_their_box(mask, boxes):
    assert boxes_of(trace_mask(compressed(mask)).parts) == boxes
    assert boxes_of(trace_mask(uncompressed(mask)).parts) == boxes


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of the oracle
def test_the_outline_has_the_box_of_its_mask_and_few_corners_beside_its_border():
    rng = np.random.default_rng(0)
    corners = []
    for _ in range(30):
        mask = drawn(shape=(120, 160))
        middle, axes = rng.integers(50, 70, 2).tolist(), rng.integers(8, 45, 2).tolist()
        cv2.ellipse(mask, middle, axes, int(rng.integers(180)), 0, 360, 1, -1)
        parts = trace_mask(compressed(mask)).parts
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert boxes_of(parts) == [box]
        encoded = oracle.frPyObjects([part.ravel().tolist() for part in parts], *mask.shape)
        again = oracle.decode(oracle.merge(encoded))
        assert (again & mask).sum() > 0.9 * (again | mask).sum()
        corners += map(len, parts)
    assert max(corners) < 60


def test_holes_are_filled():
    mask = np.ones((10, 12))
    mask[3:6, 3:6] = 0
    assert boxes_of(trace_mask(compressed(mask)).parts) == [[0, 0, 12, 10]]


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({}, "a mask must have its height and width as size, got None"),
        ({"size": [2]}, r"a mask must have its height and width as size, got \[2\]"),
        ({"size": [2.5, 2]}, "as size, got"),
        ({"size": [0, 9], "counts": []}, f"a mask must have 1 to {MOST_PIXELS} pixels, got 9 x 0"),
        ({"size": [2**20, 2**40], "counts": [5]}, "a mask must have 1 to"),
        ({"size": [2, 2], "counts": [1, 9]}, "run lengths cannot be decoded: .* exceed h.w=4"),
        ({"size": [2, 2], "counts": [1, -1]}, "run lengths cannot be decoded"),
        ({"size": [2, 2], "counts": {"a": 1}}, "run lengths cannot be decoded"),
        ({"size": [2, 2]}, "run lengths cannot be decoded"),
        ({"size": [2, 2], "counts": "é\0"}, "run lengths cannot be decoded"),
        ({"size": [2, 2], "counts": [4]}, "a mask must have a pixel that is set"),
        ({"size": [2, 2], "counts": []}, "a mask must have a pixel that is set"),
        ({"size": [300, 300], "counts": [1, 1] * 20_000}, f"at most {MOST_PARTS} separate parts"),
    ],
)
def test_what_is_no_mask_of_an_object_is_refused_with_the_reason(segmentation, reason):
    with pytest.raises(ValueError, match=reason):
        trace_mask(segmentation)


def scan_with(folder, segmentations, crowds=(0, 0, 0)):
    """Scans objects of 20 x 10 and 40 x 20 pixels in one image and of 8 x 20 in another."""

    def change(content):
        triples = zip(content["annotations"], segmentations, crowds, strict=True)
        for annotation, segmentation, crowd in triples:
            annotation["segmentation"], annotation["iscrowd"] = segmentation, crowd

    return scan_coco(folder, change)


def filled(shape, box):
    mask = np.zeros(shape, np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


FIRST, SECOND = filled((20, 40), (4, 2, 24, 12)), filled((20, 40), (0, 0, 40, 20))
THIRD = filled((24, 16), (1, 3, 9, 23))


@pytest.mark.parametrize("encode", [compressed, uncompressed])
def test_objects_have_the_outlines_of_their_masks_and_crowds_have_none(tmp_path, encode):
    masks = [encode(mask) for mask in (FIRST, SECOND, THIRD)]
    found = scan_with(tmp_path, masks, crowds=(1, 0, 0))
    assert not found.faults
    assert found.dataset.crowd.tolist() == [True, False, False]
    polygons = found.dataset.polygons
    assert polygons.part_offsets.tolist() == [0, 0, 1, 2]
    assert polygons.points[:4].min(0).tolist() == [0, 0]
    assert polygons.points[:4].max(0).tolist() == [1, 1]
    np.testing.assert_allclose(polygons.points[4:].min(0) * (16, 24), [1, 3], rtol=1e-6)
    np.testing.assert_allclose(polygons.points[4:].max(0) * (16, 24), [9, 23], rtol=1e-6)
    assert found.notes == ("2 masks in run lengths (RLE): outlines are traced, without holes",)
    again = scan_with(tmp_path, masks, crowds=(1, 0, 0))
    assert again.notes == found.notes  # from the cache


def test_a_mask_that_cannot_be_used_costs_the_outline_and_not_the_box(tmp_path):
    small = compressed(filled((10, 20), (2, 1, 12, 6)))
    found = scan_with(tmp_path, [small, {"counts": "x"}, uncompressed(THIRD)])
    assert [fault.reason for fault in found.faults] == [
        "annotation 2: a mask must have its height and width as size, got None",
        "annotation 1: the mask is of 20 x 10 pixels, and its image of 40 x 20",
    ]
    assert found.dataset.labels.tolist() == [1, 0, 0]
    assert found.dataset.polygons.part_offsets.tolist() == [0, 0, 0, 1]
    assert found.notes == ("2 masks in run lengths (RLE): outlines are traced, without holes",)
