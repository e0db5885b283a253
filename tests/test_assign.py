"""Candidates and their assignment in cases that can be worked out by hand, and in crowds."""

import functools

import cases
import numpy as np
import oracle
import pytest

from yolov7_jax import HeadConfig, LossConfig, assign_anchor, assign_ota, pad_targets

# One level of 4 rows and 8 columns of 16 pixels. Zero logits predict the anchor at the middle of
# its cell, so that IoUs are simple fractions.
STRIDE, GRID = 16, (4, 8)
TWO_SHAPES = HeadConfig(2, (STRIDE,), (((20.0, 30.0), (30.0, 20.0)),))
ONE_SQUARE = HeadConfig(2, (STRIDE,), (((32.0, 32.0),),))
TWO_SQUARES = HeadConfig(2, (STRIDE,), (((32.0, 32.0), (32.0, 32.0)),))
OWN = LossConfig(restrict_to_own_candidates=True)


def row(x, y, w=24, h=24, *, label=1, image=0):
    """An object: centre in cells, size in pixels."""
    rows, columns = GRID
    return image, label, x / columns, y / rows, w / (columns * STRIDE), h / (rows * STRIDE)


def matches_of(assigner, head, rows, *, config=None, radius=0.5, num_rows=3):
    lead = (np.zeros((2, *GRID, head.num_anchors, head.num_fields), np.float32),)
    targets = pad_targets(np.array(rows, np.float32), 2, num_rows)
    run = cases.matcher(head, config or LossConfig(), assigner, radius)
    return cases.match_list(run(lead, targets))


@pytest.mark.parametrize(
    ("centre", "radius", "cells"),
    [
        # The own cell, and the nearer neighbour on each axis.
        ((2.25, 1.75), 0.5, [(1, 2), (1, 1), (2, 2)]),
        ((2.75, 1.25), 0.5, [(1, 2), (0, 2), (1, 3)]),
        ((2.5, 1.5), 0.5, [(1, 2)]),
        ((2.5, 1.75), 0.5, [(1, 2), (2, 2)]),
        # On two grid lines there are five: the neighbours behind them are half a cell back; those
        # ahead, half a cell on, are the own cell.
        ((2, 2), 0.5, [(2, 2), (2, 1), (1, 2), (2, 2), (2, 2)]),
        # Inside the grid alone.
        ((0.25, 1.5), 0.5, [(1, 0)]),
        ((7.75, 1.5), 0.5, [(1, 7)]),
        ((1, 1.5), 0.5, [(1, 1), (1, 1)]),  # not beyond 1, so nothing to the left
        ((7, 1.5), 0.5, [(1, 7), (1, 6)]),
        ((2.5, 3.75), 0.5, [(3, 2)]),
        ((0, 0), 0.5, [(0, 0)] * 3),
        ((8, 4), 0.5, [(3, 7)] * 3),
        ((-0.25, 1.5), 0.5, [(1, 0), (1, 0)]),  # outside: clipped
        # A radius of one cell takes every neighbour inside the grid.
        ((2.5, 1.5), 1.0, [(1, 2), (1, 1), (0, 2), (1, 3), (2, 2)]),
        ((0.5, 1.25), 1.0, [(1, 0), (0, 0), (1, 1), (2, 0)]),
        ((7.5, 3.5), 1.0, [(3, 7), (3, 6), (2, 7)]),
    ],
)
def test_candidates_are_the_own_cell_and_neighbours_within_the_radius(centre, radius, cells):
    matches = matches_of(assign_anchor, TWO_SHAPES, [row(*centre)], radius=radius)
    assert [(match.row, match.column) for match in matches if match.anchor == 0] == cells


@pytest.mark.parametrize(
    ("size", "anchors"),
    [
        ((24, 24), [0, 1]),
        ((79, 24), [0, 1]),
        ((80, 24), [1]),  # 80 = 4 * 20
        ((24, 80), [0]),
        ((24, 5), []),  # 20 = 4 * 5
        ((24, 5.5), [1]),
        ((120, 24), []),
    ],
)
def test_an_anchor_fits_when_no_side_is_four_times_the_other(size, anchors):
    matches = matches_of(assign_anchor, TWO_SHAPES, [row(2.5, 1.5, *size)])
    assert [match.anchor for match in matches] == anchors


def test_anchor_threshold_is_that_of_the_configuration():
    for threshold, num in ((4.0, 1), (4.1, 2), (2.0, 0)):
        config = LossConfig(anchor_threshold=threshold)
        matches = matches_of(assign_anchor, TWO_SHAPES, [row(2.5, 1.5, 80, 24)], config=config)
        assert len(matches) == num


def test_candidates_stand_in_direction_anchor_object_order():
    rows = [row(2.25, 1.75, label=0), row(5.25, 2.75, image=0), row(1.5, 1.5, image=1)]
    found = matches_of(assign_anchor, TWO_SHAPES, rows)
    cells = (((1, 2), (2, 5)), ((1, 1), (2, 4)), ((2, 2), (3, 5)))
    wanted = [
        oracle.Match(0, 0, anchor, *cell, index)
        for direction in cells
        for anchor in (0, 1)
        for index, cell in enumerate(direction)
    ]
    assert found == [*wanted, *(oracle.Match(1, 0, anchor, 1, 1, 0) for anchor in (0, 1))]


# ------------------------------------------------------------------ the fine choice


def test_an_object_claims_as_many_candidates_as_its_best_ious_add_up_to():
    # 4 pixels beside its own cell's middle, IoU 896 / 1152; 12 beside the left one's, 640 / 1408.
    one = matches_of(assign_ota, ONE_SQUARE, [row(2.25, 1.5, 32, 32)])
    assert one == [oracle.Match(0, 0, 0, 1, 2, 0)]  # 1.23
    two = matches_of(assign_ota, TWO_SQUARES, [row(2.25, 1.5, 32, 32)])
    assert two == [oracle.Match(0, 0, anchor, 1, 2, 0) for anchor in (0, 1)]  # 2.46


def test_only_the_largest_ious_are_summed():
    assigner = functools.partial(assign_ota, top_k=1)
    assert len(matches_of(assigner, TWO_SQUARES, [row(2.25, 1.5, 32, 32)])) == 1


def test_an_object_of_little_overlap_still_claims_one_candidate():
    (match,) = matches_of(assign_ota, TWO_SQUARES, [row(2.25, 1.75, 9, 9)])
    assert (match.row, match.column) == (1, 2)


def test_equal_costs_go_to_the_earlier_candidate():
    # On a line between two cells: own, left and right (its own cell again) have IoU 0.6 each with
    # both anchors, 3.6 together. Three of the six are claimed.
    matches = matches_of(assign_ota, TWO_SQUARES, [row(2, 1.5, 32, 32)])
    assert [(m.row, m.column, m.anchor) for m in matches] == [(1, 2, 0), (1, 2, 1), (1, 1, 0)]


FLAT = row(1.5, 1.5, 32, 13)  # IoU 0.406 with the prediction of its cell
FLATTER = row(1.5, 1.5, 32, 12)  # 0.375
BESIDE = row(2.25, 1.5, 32, 28)  # 0.412 there; 0.690 in its own cell, all that it claims


def test_a_candidate_claimed_once_goes_to_its_claimant_though_it_costs_another_less():
    matches = matches_of(assign_ota, ONE_SQUARE, [FLAT, BESIDE])
    assert [(m.column, m.object) for m in matches] == [(1, 0), (2, 1)]


def test_a_candidate_claimed_twice_goes_to_the_cheapest_of_all_objects_claimant_or_not():
    matches = matches_of(assign_ota, ONE_SQUARE, [FLAT, FLATTER, BESIDE])
    assert [(m.column, m.object) for m in matches] == [(1, 2), (2, 2)]


def test_restricted_objects_match_only_candidates_that_they_produced():
    matches = matches_of(assign_ota, ONE_SQUARE, [FLAT, FLATTER, BESIDE], config=OWN)
    assert [(m.column, m.object) for m in matches] == [(1, 0), (1, 1), (2, 2)]


def test_of_identical_objects_the_first_takes_what_both_claim():
    twice = [row(2.25, 1.5, 32, 32)] * 2
    matches = matches_of(assign_ota, TWO_SQUARES, twice)
    assert matches
    assert {match.object for match in matches} == {0}
    assert {m.object for m in matches_of(assign_ota, TWO_SQUARES, twice, config=OWN)} == {0, 1}


def test_the_class_decides_between_objects_of_one_box():
    lead = np.zeros((2, *GRID, 1, 7), np.float32)
    lead[..., 6] = 3.0
    targets = pad_targets(np.array([row(2.5, 1.5, 32, 32, label=c) for c in (0, 1)]), 2, 3)
    found = cases.matcher(ONE_SQUARE, LossConfig(), assign_ota)((lead,), targets)
    assert [match.object for match in cases.match_list(found)] == [1, 1]


def test_images_without_candidates_match_nothing_and_disturb_no_other():
    too_long = row(2.5, 1.5, 128, 4)
    alone = matches_of(assign_ota, ONE_SQUARE, [row(4.25, 2.5, 32, 32, image=1)])
    both = matches_of(assign_ota, ONE_SQUARE, [too_long, row(4.25, 2.5, 32, 32, image=1)])
    assert alone == both
    assert {match.image for match in both} == {1}
    assert matches_of(assign_ota, ONE_SQUARE, np.zeros((0, 6))) == []


def test_an_object_without_candidates_of_its_own_may_claim_anothers():
    # No anchor fits the long one, but it covers the square one's left neighbour and costs least
    # there.
    rows = [row(2.25, 1.5, 24, 24), row(0, 1.5, 100, 32)]
    config = LossConfig(anchor_threshold=3.0)
    matches = matches_of(assign_ota, TWO_SQUARES, rows, config=config)
    assert [(m.column, m.anchor, m.object) for m in matches] == [(2, 0, 0), (1, 0, 1)]
    own = LossConfig(anchor_threshold=3.0, restrict_to_own_candidates=True)
    matches = matches_of(assign_ota, TWO_SQUARES, rows, config=own)
    assert [(m.column, m.anchor, m.object) for m in matches] == [(2, 0, 0)]


# ------------------------------------------------------------------ crowds

CROWD_HEAD = HeadConfig(2, (8, 16, 32), (((24.0, 24.0), (20.0, 28.0), (28.0, 20.0)),) * 3)


@functools.cache
def crowd(seed):
    """Two images; the first has many times the candidates of a chunk, half of them twice."""
    rng = np.random.default_rng(seed)
    lead = cases.random_levels(rng, CROWD_HEAD, (2, 3), 2)
    rows = cases.random_rows(rng, 2, (64, 5))
    rows[32:64] = rows[:32]  # true ties: the same objects again
    return lead, rows


@pytest.mark.parametrize("config", [LossConfig(), OWN], ids=["any", "own"])
@pytest.mark.parametrize("seed", range(2))
def test_crowds_are_assigned_as_the_oracle_does_ties_included(seed, config):
    lead, rows = crowd(seed)
    targets = pad_targets(rows, 2, 64)
    assert len(oracle.assign_anchor(lead, rows, CROWD_HEAD, config)) > 1024
    found = cases.match_list(cases.matcher(CROWD_HEAD, config, assign_ota)(lead, targets))
    assert found == oracle.assign_ota(lead, rows, CROWD_HEAD, config)


def test_candidates_of_crowds_are_the_oracles_in_its_order():
    lead, rows = crowd(0)
    run = cases.matcher(CROWD_HEAD, LossConfig(), assign_anchor)
    found = cases.match_list(run(lead, pad_targets(rows, 2, 64)))
    assert found == oracle.assign_anchor(lead, rows, CROWD_HEAD, LossConfig())


def test_one_cell_chosen_by_two_objects_makes_two_candidates():
    matches = matches_of(assign_anchor, ONE_SQUARE, [row(2.5, 1.5), row(2.5, 1.5)])
    assert [(m.row, m.column, m.object) for m in matches] == [(1, 2, 0), (1, 2, 1)]


@pytest.mark.parametrize("assigner", [assign_anchor, assign_ota])
def test_fields_are_in_range_also_where_nothing_is_matched(assigner):
    lead, rows = crowd(0)
    targets = cases.garbage(pad_targets(rows, 2, 64))
    found = cases.matcher(CROWD_HEAD, LossConfig(), assigner)(lead, targets)
    for name, limit in (("object", 64), ("level", 3), ("anchor", 3), ("row", 8), ("column", 12)):
        field = np.asarray(getattr(found, name))
        assert 0 <= field.min() <= field.max() < limit
