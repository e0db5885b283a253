"""The weights of the levels in the objectness loss, and how they follow it."""

import cases
import numpy as np
import pytest

from yolov7_jax import HeadConfig, LossConfig, Outputs, detection_loss, pad_targets, update_balance


def test_heads_without_a_usual_balance_must_be_given_one_and_autobalance_needs_stride_16():
    head = HeadConfig(2, (8,), (((20.0, 30.0),),))
    lead = cases.random_levels(np.random.default_rng(0), head, (2, 2), 1)
    with pytest.raises(ValueError, match=r"balance has no default for 1 levels"):
        detection_loss(Outputs(lead), pad_targets(np.zeros((0, 6)), 1, 1), head, LossConfig())
    with pytest.raises(ValueError, match=r"level of stride 16; got \(8,\)"):
        update_balance((1.0,), np.ones(1), head)


def test_balance_stays_finite_when_a_level_has_no_loss_left():
    balance = update_balance((4.0, 1.0, 0.4), np.array([0.1, 0.0, 0.0], np.float32), cases.P5)
    assert np.isfinite(balance).all()
    assert balance[1] == 1
