"""Matches, loss and gradients against stored measurements, in every form; the oracle too."""

import cases
import golden_loss
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from golden_loss import assert_is_the_measured, described, evaluate, load, measured_matches

from yolov7_jax import pad_targets, update_balance

# Compiled again for another number of objects: the ones whose padding could matter most.
PADDED = ("ota_no_targets", "ota_edges", "aux_ota_crowd", "anchor_edges", "anchor_one_class")
EAGER = ("ota_edges", "anchor_wide")  # one by one, operations take long to compile


@pytest.mark.parametrize("name", golden_loss.NAMES)
def test_matches_loss_and_gradients_are_the_measured_ones(name):
    case = load(name)
    assert_is_the_measured(case, evaluate(case, as_users_do="edges" in name))


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


@pytest.mark.parametrize("name", PADDED)
def test_64_rows_of_padding_leave_the_measured_results(name):
    case = load(name)
    assert_is_the_measured(case, evaluate(case, more_objects=64))


@pytest.mark.parametrize("name", EAGER)
def test_results_without_jit_are_the_measured_ones(name):
    case = load(name)
    assert_is_the_measured(case, evaluate(case, jitted=False))


def test_autobalance_takes_the_measured_steps():
    case = load("ota_autobalance")
    targets = pad_targets(case.rows, case.batch, case.fewest_objects)
    run = cases.evaluator(case.head, case.config)
    balance = jnp.array(oracle.BALANCE[3])
    for loss, after in zip(case.file["loss_steps"], case.file["balance_steps"], strict=True):
        found = run(case.outputs, targets, balance)
        np.testing.assert_allclose([found.total, *found.terms[:3]], loss, rtol=1e-5)
        balance = update_balance(balance, found.terms.obj_per_level, case.head)
        np.testing.assert_allclose(balance, after, rtol=1e-6)
