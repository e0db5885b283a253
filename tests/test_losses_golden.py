"""Matches, loss and gradients against stored measurements."""

import contextlib
import functools

import cases
import golden_loss
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hasty import hastily

from yolov7_jax import (
    assign_anchor,
    assign_ota,
    pad_targets,
    update_balance,
)

# Compiled again for another number of objects: the ones whose padding could matter most.
PADDED = ("ota_no_targets", "ota_edges", "aux_ota_crowd", "anchor_edges", "anchor_one_class")
EAGER = ("ota_edges", "anchor_wide")  # one by one, operations take long to compile

load = functools.cache(golden_loss.load)


@pytest.fixture(autouse=True)
def compiled_hastily(request):
    # But what a fused multiply-add could place in another cell, as the compiler does by default.
    with contextlib.nullcontext() if "edges" in request.node.name else hastily():
        yield


def evaluate(case, *, more_objects=0, jitted=True):
    assigner = assign_ota if case.ota else assign_anchor
    targets = pad_targets(case.rows, case.batch, case.fewest_objects + more_objects)
    run = cases.evaluator(case.head, case.config, assigner, jitted=jitted)
    if "balance_steps" not in case.file:
        return run(case.outputs, targets)
    # These gradients were measured in the last step.
    return run(case.outputs, targets, jnp.array(case.file["balance_steps"][-2], jnp.float32))


def described(case, matches):
    """Matches sorted, with their objects in the form that the file has: whole, or relative."""
    found = []
    for match in matches:
        objects = oracle.objects_of(case.rows, match.image)
        row = objects[match.object]
        if case.ota:
            what = row[1:]
        else:
            what = oracle.relative_box(match, objects, case.outputs.lead[match.level].shape)
            what = (row[1], *what)
        found.append(tuple(float(x) for x in (*match[:5], *what)))
    return sorted(found)


def measured_matches(case, prefix):
    """Sorted (image, level, anchor, row, column, class, box)."""
    found = []
    for level in range(case.head.num_levels):
        where = case.file[f"{prefix}match_{level}"]
        if case.ota:
            what = case.file[f"{prefix}match_target_{level}"][:, 1:]
        else:
            what = np.column_stack([where[:, 4], case.file[f"tbox_{level}"]])
        for (image, *place), row in zip(where[:, :4], what, strict=True):
            found.append(tuple(float(x) for x in (image, level, *place, *row)))
    return sorted(found)


def assert_is_the_measured(case, found):
    for prefix, assignment in zip(("", "aux_"), found.assignments, strict=False):
        ours = described(case, cases.match_list(assignment))
        assert ours == measured_matches(case, prefix)
    expected = case.file["loss"]
    if "loss_steps" in case.file:
        expected = case.file["loss_steps"][-1]
    ours = [found.total, *found.terms[:3]]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-9)
    gradients = (*found.gradients.lead, *found.gradients.auxiliary)
    assert cases.relative_error(gradients, case.gradients()) < 1e-5


@pytest.mark.parametrize("name", golden_loss.NAMES)
def test_matches_loss_and_gradients_are_the_measured_ones(name):
    case = load(name)
    assert_is_the_measured(case, evaluate(case))


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
