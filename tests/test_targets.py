"""Padding objects to static shapes, on the host."""

import numpy as np
import pytest

from yolov7_jax import pad_targets

ROWS = np.array(
    [
        [1, 3, 0.1, 0.2, 0.3, 0.4],
        [0, 2, 0.5, 0.5, 0.1, 0.1],
        [1, 0, 0.6, 0.7, 0.2, 0.1],
    ]
)


def test_objects_go_to_their_images_in_their_order():
    targets = pad_targets(ROWS, 3, 4)
    np.testing.assert_array_equal(targets.valid, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(targets.labels[1, :2], [3, 0])
    np.testing.assert_allclose(targets.boxes[1, :2], ROWS[[0, 2], 2:])
    np.testing.assert_allclose(targets.boxes[0, 0], ROWS[1, 2:])
    assert targets.boxes.shape == (3, 4, 4)


def test_types_are_those_of_the_loss_whatever_the_rows_are():
    for dtype in (np.float64, np.float32):
        targets = pad_targets(ROWS.astype(dtype), 2, 2)
        assert [field.dtype for field in targets] == [np.float32, np.int32, np.bool_]


@pytest.mark.parametrize("rows", [np.zeros((0, 6)), [], np.zeros(0)])
@pytest.mark.parametrize("max_objects", [0, 5])
def test_no_objects_leave_only_padding(rows, max_objects):
    targets = pad_targets(rows, 2, max_objects)
    assert targets.boxes.shape == (2, max_objects, 4)
    assert not targets.valid.any()


def test_exactly_as_many_objects_as_there_is_room_for_are_accepted():
    assert pad_targets(ROWS, 2, 2).valid.sum() == 3


@pytest.mark.parametrize(
    ("rows", "batch_size", "max_objects", "message"),
    [
        (ROWS, 2, 1, r"image 1 has 2 objects, more than max_objects \(=1\)"),
        (ROWS, 2, 0, r"image 1 has 2 objects, more than max_objects \(=0\)"),
        (ROWS, 1, 4, r"row 0 has image 1; an integer from 0 to 0"),
        (ROWS - [[1, 0, 0, 0, 0, 0]], 2, 4, r"row 1 has image -1"),
        (ROWS * [[1.5, 1, 1, 1, 1, 1]], 4, 4, r"row 0 has image 1.5"),
        (ROWS - [[0, 1, 0, 0, 0, 0]], 2, 4, r"row 2 has class -1"),
        (ROWS * [[1, 1.5, 1, 1, 1, 1]], 2, 4, r"row 0 has class 4.5"),
        (ROWS[:, :5], 2, 4, r"rows have shape \(3, 5\); \[n, 6\] was wanted"),
        (ROWS[0], 2, 4, r"rows have shape \(6,\)"),
        (ROWS * [[1, 1, np.nan, 1, 1, 1]], 2, 4, r"row 0 .* not finite"),
        (ROWS, 0, 4, r"batch_size \(=0\) must be at least 1"),
        (ROWS, 2, -1, r"max_objects \(=-1\)"),
        (ROWS * [[1, 1, 1, 1, -1, 1]], 2, 4, r"row 0 has width -0\.3 and height 0\.4"),
    ],
)
def test_wrong_rows_are_refused_with_what_is_wrong(rows, batch_size, max_objects, message):
    with pytest.raises(ValueError, match=message):
        pad_targets(rows, batch_size, max_objects)
