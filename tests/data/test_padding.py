"""Objects of a batch in arrays of few lengths."""

import numpy as np

from yolov7_jax.data.padding import stack_targets


def test_targets_are_padded_to_a_short_ladder_and_keep_every_object():
    for count, length in ((0, 8), (1, 8), (8, 8), (9, 16), (100, 128), (513, 1024)):
        boxes = np.tile(np.asarray([[8, 16, 24, 64]], np.float32), (count, 1))
        targets = stack_targets(
            [boxes, boxes[:0]],
            [np.arange(count, dtype=np.int32), np.zeros(0, np.int32)],
            (64, 64),
            0,
        )
        assert targets.boxes.shape == (2, length, 4)
        assert targets.valid.sum(1).tolist() == [count, 0]
        assert targets.labels[0][targets.valid[0]].tolist() == list(range(count))
        np.testing.assert_allclose(
            targets.boxes[targets.valid], np.tile([[0.25, 0.625, 0.25, 0.75]], (count, 1))
        )


def test_batches_with_few_objects_are_padded_like_usual_ones():
    boxes = np.asarray([[8, 16, 24, 64]], np.float32)
    targets = stack_targets([boxes], [np.zeros(1, np.int32)], (64, 64), 20)
    assert targets.boxes.shape == (1, 32, 4)
    assert targets.valid.sum() == 1
