"""Outlines that do not fit the boxes of their objects."""

import numpy as np
import pytest
from data_sets import coco_content, write_coco

from yolov7_jax.data.faults import summarize
from yolov7_jax.data.layouts import open_source
from yolov7_jax.data.scan import scan_source

SQUARE = [4, 2, 24, 2, 24, 12, 4, 12]


def scan_with(folder, change):
    """Scans the data set after a change of its content."""
    content = coco_content()
    change(content)
    path = write_coco(folder, content)
    return scan_source(open_source(path, "train"), path, "train")


@pytest.mark.parametrize(
    ("outline", "told"),
    [
        ([0.1, 0.1, 0.6, 0.1, 0.6, 0.6], "0.5 x 0.5 pixels at x 0.1, y 0.1"),  # not in pixels
        ([50, 30, 60, 30, 60, 40], "0 x 0 pixels at x 40, y 20"),  # outside
        ([30, 1, 39, 1, 39, 9], "9 x 8 pixels at x 30, y 1"),  # elsewhere
        ([4, 2, 4, 12, 4, 7], "0 x 10 pixels at x 4, y 2"),  # without an area
    ],
)
def test_an_outline_that_does_not_fit_its_box_is_left_out_and_the_box_kept(tmp_path, outline, told):
    def spoil(content):
        for annotation in content["annotations"]:
            annotation["segmentation"] = [SQUARE]
        content["annotations"][0]["segmentation"] = [outline]
        content["annotations"][2]["segmentation"] = [[1, 3, 9, 3, 9, 23], [2, 3, 9, 3, 9, 9]]

    found = scan_with(tmp_path, spoil)
    assert [fault.reason for fault in found.faults] == [
        f"annotation 1: the outline is {told}, cut off at the image's border; "
        "it does not fit the box of 20 x 10 pixels at x 4, y 2 in an image of 40 x 20"
    ]
    assert summarize(found.faults) == "1 outline left out, box kept"
    assert found.dataset.labels.tolist() == [1, 0, 0]
    polygons = found.dataset.polygons
    assert polygons.part_offsets.tolist() == [0, 0, 1, 3]
    assert polygons.point_offsets.tolist() == [0, 4, 7, 10]
    np.testing.assert_allclose(polygons.points[0], [0.1, 0.1])


def test_an_outline_of_the_visible_part_of_an_object_is_kept(tmp_path):
    def cover(content):
        content["annotations"][0]["segmentation"] = [[4, 2, 10, 2, 10, 6, 4, 6]]

    found = scan_with(tmp_path, cover)
    assert not found.faults
    assert found.dataset.polygons.part_offsets.tolist() == [0, 1, 1, 1]
