"""Matches, loss and gradients against stored measurements."""

import contextlib

import golden_loss
import numpy as np
import oracle
import pytest
from golden_loss import assert_is_the_measured, described, evaluate, load, measured_matches
from hasty import hastily


@pytest.mark.parametrize("name", golden_loss.NAMES)
def test_matches_loss_and_gradients_are_the_measured_ones(name):
    case = load(name)
    # A fused multiply-add, as the compiler makes by default, may place an object in another cell.
    with contextlib.nullcontext() if "edges" in name else hastily():
        assert_is_the_measured(case, evaluate(case))


@pytest.mark.parametrize("name", golden_loss.NAMES)
def test_the_oracle_finds_the_measured_matches_and_losses(name):
    case = load(name)
    assigner = oracle.assign_ota if case.ota else oracle.assign_anchor
    lead, auxiliary = case.outputs
    given = (lead, case.rows, case.head, case.config)
    fixed = oracle.fix(*given, assigner=assigner, auxiliary=auxiliary)
    for prefix, of_head in zip(("", "aux_"), fixed, strict=False):
        ours = described(case, [match for level in of_head.matches for match in level])
        assert ours == measured_matches(case, prefix)
    loss = oracle.loss_of_fixed(*given, fixed, auxiliary=auxiliary)
    np.testing.assert_allclose(loss[:4], case.file["loss"], rtol=1e-5, atol=1e-9)


def test_rounding_below_the_margin_changes_no_match_of_the_oracle():
    case = load("ota_crowd")
    given = (case.rows, case.head, case.config)
    margin = oracle.ota_margin(case.outputs.lead, *given)
    assert 1e-4 < margin < 0.1
    rng = np.random.default_rng(0)
    moved = [level + margin / 100 * rng.uniform(-1, 1, level.shape) for level in case.outputs.lead]
    assert oracle.assign_ota(case.outputs.lead, *given) == oracle.assign_ota(moved, *given)
