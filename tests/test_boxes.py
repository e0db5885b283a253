"""IoU and CIoU by hand, against the oracle, and where their gradients could break."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from yolov7_jax.boxes import ciou, cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh


def test_conversions_are_inverse_and_leave_leading_axes_alone():
    boxes_cxcywh = jnp.array([[[10.0, 20.0, 4.0, 6.0]], [[0.0, 0.0, 0.0, 2.0]]])
    boxes_xyxy = cxcywh_to_xyxy(boxes_cxcywh)
    np.testing.assert_array_equal(boxes_xyxy[0, 0], [8, 17, 12, 23])
    np.testing.assert_array_equal(xyxy_to_cxcywh(boxes_xyxy), boxes_cxcywh)


def test_iou_by_hand():
    a = jnp.array([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 2.0, 2.0]])
    b = jnp.array(
        [
            [0.0, 0.0, 4.0, 4.0],  # the same
            [2.0, 1.0, 6.0, 5.0],  # 2 x 3 shared
            [4.0, 0.0, 8.0, 4.0],  # touching
            [9.0, 9.0, 10.0, 10.0],  # apart on both axes: two negative sides make no overlap
            [1.0, 1.0, 3.0, 2.0],  # inside
            [2.0, 2.0, 2.0, 2.0],  # a point
        ]
    )
    wanted = [[1, 6 / 26, 0, 0, 2 / 16, 0], [0] * 6]
    np.testing.assert_allclose(pairwise_iou(a, b), wanted, rtol=1e-6)


def test_iou_of_tiny_boxes_has_no_epsilon():
    box = jnp.array([[0.0, 0.0, 1e-6, 1e-6]])
    np.testing.assert_allclose(pairwise_iou(box, box), [[1.0]])


def test_ciou_by_hand():
    # 2 x 2 and 2 x 2, one apart: IoU 2 / 6; hull 3 x 2; no difference of aspect.
    found = ciou(jnp.array([0.0, 0.0, 2.0, 2.0]), jnp.array([1.0, 0.0, 2.0, 2.0]))
    np.testing.assert_allclose(found, 2 / 6 - 1 / 13, rtol=1e-5)
    # Concentric 4 x 1 and 1 x 4: IoU 1 / 7 and v = 4 / pi^2 (atan 4 - atan 1/4)^2.
    v = 4 / np.pi**2 * (np.arctan(4) - np.arctan(0.25)) ** 2
    found = ciou(jnp.array([0.0, 0.0, 4.0, 1.0]), jnp.array([0.0, 0.0, 1.0, 4.0]))
    np.testing.assert_allclose(found, 1 / 7 - v * v / (v - 1 / 7 + 1), rtol=1e-5)


def test_ciou_of_random_boxes_is_the_oracles():
    rng = np.random.default_rng(0)
    a, b = (
        np.concatenate([rng.normal(0, 1, (50, 2)), rng.uniform(0.1, 4, (50, 2))], -1).astype("f4")
        for _ in range(2)
    )
    wanted = [oracle.ciou(x, y)[0] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ciou(a, b), wanted, rtol=0, atol=2e-6)


def test_ciou_holds_alpha_fast_in_its_gradient():
    a, b = np.array([0.3, 0.1, 2.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.7])
    alpha = oracle.ciou(a, b)[1]
    steps = 1e-6 * np.eye(4)
    slopes = [
        (oracle.ciou(a + step, b, alpha)[0] - oracle.ciou(a - step, b, alpha)[0]) / 2e-6
        for step in steps
    ]
    np.testing.assert_allclose(jax.grad(ciou)(jnp.array(a), jnp.array(b)), slopes, rtol=1e-4)


EMPTY = (0.5, 0.5, 0.0, 0.0)


@pytest.mark.parametrize(
    "pair",
    [
        (EMPTY, EMPTY),
        ((1.0, 1.0, 2.0, 2.0), EMPTY),
        (EMPTY, (1.0, 1.0, 2.0, 2.0)),
        ((1.0, 1.0, 2.0, 2.0), (1.0, 1.0, 2.0, 2.0)),  # on top of each other
        ((1.0, 1.0, 2.0, 2.0), (3.0, 1.0, 2.0, 2.0)),  # touching
        ((1.0, 1.0, 2.0, 0.0), (1.0, 1.0, 0.0, 2.0)),  # crossing lines
        ((0.0, 0.0, 1.0, 1.0), (1e9, -1e9, 1.0, 1.0)),
        ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 1e9, 1e9)),
        ((0.5, 0.5, 1e-20, 1e-20), (0.5, 0.5, 5.0, 5.0)),
    ],
)
def test_gradient_of_ciou_is_finite(pair):
    value, gradient = jax.value_and_grad(ciou)(*(jnp.array(box) for box in pair))
    chex.assert_tree_all_finite((value, gradient))
    assert value <= 1 + 1e-6
