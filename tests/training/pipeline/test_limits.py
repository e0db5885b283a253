"""Batch sizes that devices cannot share, or that an epoch cannot fill."""

import pytest

from yolov7_jax.errors import UserError
from yolov7_jax.training.pipeline.batch_limits import check_batch_size


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((6, 100, 4), r"\(=6\) must be a multiple of 4, the number of devices; 4 would do"),
        ((16, 7, 1), r"\(=16\) must be at most 7, the number of training images; 7 would do"),
        (
            (18, 15, 4, 4),
            r"\(=18\) must be a multiple of 4, the number of devices on 4 hosts and at most 15, "
            r"the number of training images; 12 would do",
        ),
        ((2, 100, 4), "4 would do"),
        ((4, 3, 4, 4), "at most 3, .*; there are fewer images than devices"),
    ],
)
def test_batches_that_cannot_be_shared_are_refused_in_one_message(numbers, message):
    with pytest.raises(UserError, match=message):
        check_batch_size(*numbers)


def test_batches_that_can_be_shared_are_accepted():
    check_batch_size(8, 8, 8, 4)
    check_batch_size(1, 1, 1)
