"""The measured losses with more padding, without jit, and with balances that move."""

import cases
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from golden_loss import assert_is_the_measured, evaluate, load
from hasty import hastily

from yolov7_jax import pad_targets, update_balance

# Compiled again for another number of objects: the ones whose padding could matter most.
PADDED = ("ota_no_targets", "ota_edges", "aux_ota_crowd", "anchor_edges", "anchor_one_class")
EAGER = ("ota_edges", "anchor_wide")  # one by one, operations take long to compile


@pytest.fixture(scope="module", autouse=True)
def compiled_hastily():
    with hastily():
        yield


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
