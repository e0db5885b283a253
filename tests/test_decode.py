"""Decoding against the oracle and by hand."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle_detections as oracle
import pytest

from yolov7_jax import HeadConfig, decode

ONE_CLASS = HeadConfig(1, cases.P5.strides, cases.P5.anchors)


def anchors_before_cells(lead):
    """Where (level, anchor, row, column) finds its predictions in (level, row, column, anchor)."""
    orders, start = [], 0
    for level in lead:
        places = start + np.arange(level[0, ..., 0].size).reshape(level.shape[1:4])
        orders.append(np.moveaxis(places, 2, 0).reshape(-1))
        start += places.size
    return np.concatenate(orders)


@pytest.mark.parametrize("head", [cases.P5, ONE_CLASS], ids=["3 classes", "1 class"])
def test_predictions_are_the_oracles(head):
    lead = cases.random_levels(np.random.default_rng(0), head, (2, 3), 2)
    found = jax.jit(lambda lead: decode(lead, head))(lead)
    boxes, objectness, scores = oracle.decode(lead, head)
    order = anchors_before_cells(lead)
    np.testing.assert_allclose(found.boxes_xyxy, boxes[:, order], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found.objectness, objectness[:, order], rtol=1e-5)
    np.testing.assert_allclose(found.scores, scores[:, order], rtol=1e-5)


def test_cells_stand_in_level_anchor_row_column_order():
    lead = tuple(
        np.zeros((1, *shape, 3, 8), np.float32) for shape in cases.grid_shapes(cases.P5, (1, 2))
    )
    places = [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0), (2, 0, 0, 1)]
    indices = [0, 1, 8, 32, 96, 96 + 24 + 1]  # levels of 3 x 4 x 8, 3 x 2 x 4 and 3 x 1 x 2
    for value, (level, anchor, row, column) in enumerate(places, start=1):
        lead[level][0, row, column, anchor, 4] = value
    objectness = np.asarray(decode(lead, cases.P5).objectness[0])
    assert np.argsort(-objectness)[: len(places)].tolist() == indices[::-1]


def test_zero_logits_decode_to_anchors_at_cell_centres():
    head = HeadConfig(2, (16,), (((20.0, 30.0),),))
    found = decode([np.zeros((1, 2, 3, 1, 7), np.float32)], head)
    np.testing.assert_allclose(found.boxes_xyxy[0, 0], [8 - 10, 8 - 15, 8 + 10, 8 + 15])
    np.testing.assert_allclose(found.boxes_xyxy[0, 5], [40 - 10, 24 - 15, 40 + 10, 24 + 15])
    np.testing.assert_allclose(found.scores, 0.25)


def test_saturated_logits_reach_half_a_cell_out_and_four_anchors_wide():
    head = HeadConfig(2, (16,), (((20.0, 30.0),),))
    lead = np.full((1, 1, 1, 1, 7), 1000.0, np.float32)
    for value, centre, size in ((1000.0, 24, (80, 120)), (-1000.0, -8, (0, 0))):
        lead[:] = value
        x1, y1, x2, y2 = decode([lead], head).boxes_xyxy[0, 0]
        np.testing.assert_allclose([(x1 + x2) / 2, (y1 + y2) / 2], centre)
        np.testing.assert_allclose([x2 - x1, y2 - y1], size)


def test_score_of_one_class_is_the_objectness_alone():
    lead = cases.random_levels(np.random.default_rng(1), ONE_CLASS, (1, 1), 1)
    found = decode(lead, ONE_CLASS)
    np.testing.assert_array_equal(found.scores[..., 0], found.objectness)


def test_bf16_logits_are_decoded_in_float32():
    lead = cases.random_levels(np.random.default_rng(2), cases.P5, (1, 1), 1)
    half = [jnp.asarray(level, jnp.bfloat16) for level in lead]
    found = decode(half, cases.P5)
    wanted = decode([np.asarray(level, np.float32) for level in half], cases.P5)
    assert found.boxes_xyxy.dtype == jnp.float32
    np.testing.assert_array_equal(found.boxes_xyxy, wanted.boxes_xyxy)
    np.testing.assert_array_equal(found.scores, wanted.scores)


def test_outputs_of_another_head_are_refused():
    lead = cases.random_levels(np.random.default_rng(0), cases.P5, (1, 1), 1)
    with pytest.raises(ValueError, match=r"lead has 2 levels; the head has 3"):
        decode(lead[:2], cases.P5)
    with pytest.raises(ValueError, match=r"lead\[0\] has shape .*, 3, 6\] was wanted"):
        decode(lead, ONE_CLASS)
