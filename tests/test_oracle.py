"""The oracle reproduces every stored measurement, and what can be worked out by hand."""

import dataclasses
import functools
import json
import pathlib
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import golden_loss
import numpy as np
import oracle
import pytest

from yolov7_jax.config import HeadConfig, LossConfig

GOLDEN = pathlib.Path(__file__).parent / "golden"
NMS_CASES = sorted(path.stem for path in (GOLDEN / "nms").glob("*.npz"))


class Case(NamedTuple):
    stored: dict[str, np.ndarray]
    head: HeadConfig
    config: LossConfig
    rows: np.ndarray
    lead: list[np.ndarray]
    auxiliary: list[np.ndarray]
    gradients: list[np.ndarray]
    assigner: Callable[..., list[oracle.Match]]
    top_k: int


@functools.cache
def load(name: str) -> Case:
    case = golden_loss.load(name)
    return Case(
        case.file,
        case.head,
        case.config,
        case.rows,
        list(case.outputs.lead),
        list(case.outputs.auxiliary),
        list(case.gradients()),
        oracle.assign_ota if case.ota else oracle.assign_anchor,
        20 if case.outputs.auxiliary else 10,
    )


@functools.cache
def fixed_of(name: str) -> list[oracle.Fixed]:
    case = load(name)
    return oracle.fix(
        case.lead,
        case.rows,
        case.head,
        case.config,
        assigner=case.assigner,
        auxiliary=case.auxiliary,
    )


@pytest.mark.parametrize("name", golden_loss.NAMES)
def test_matches_are_the_measured_ones(name):
    case = load(name)
    for prefix, fixed in zip(("", "aux_"), fixed_of(name), strict=False):
        for level, matches in enumerate(fixed.matches):
            ours = Counter()
            for match in matches:
                objects = oracle.objects_of(case.rows, match.image)
                place = (match.image, match.anchor, match.row, match.column)
                if case.assigner is oracle.assign_anchor:
                    place += (int(objects[match.object, 1]),)
                    what = oracle.relative_box(match, objects, case.lead[level].shape)
                else:
                    what = objects[match.object].tolist()
                ours[place, tuple(what)] += 1
            target = "tbox_" if case.assigner is oracle.assign_anchor else "match_target_"
            theirs = Counter(
                (tuple(place), tuple(row))
                for place, row in zip(
                    case.stored[f"{prefix}match_{level}"].tolist(),
                    case.stored[f"{prefix}{target}{level}"].tolist(),
                    strict=True,
                )
            )
            assert ours == theirs


@pytest.mark.parametrize("name", golden_loss.NAMES)
def test_loss_is_the_measured_one(name):
    case = load(name)
    loss = oracle.loss_of_fixed(
        case.lead,
        case.rows,
        case.head,
        case.config,
        fixed_of(name),
        auxiliary=case.auxiliary,
    )
    np.testing.assert_allclose(loss[:4], case.stored["loss"], rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(
        loss.num_matched, [len(case.stored[f"match_{n}"]) for n in range(case.head.num_levels)]
    )


@pytest.mark.parametrize("name", golden_loss.NAMES)
def test_gradients_are_the_measured_ones_at_matched_and_other_cells(name):
    case = load(name)
    rng = np.random.default_rng(0)
    entries = []
    for number, fixed in enumerate(fixed_of(name)):
        for level, matches in enumerate(fixed.matches):
            for match in [matches[n] for n in rng.permutation(len(matches))[:1]]:
                place = (match.image, match.row, match.column, match.anchor)
                for field in {*range(6), rng.integers(case.head.num_fields)}:
                    entries.append((number * case.head.num_levels + level, *place, int(field)))
    entries += [
        (level, *(int(rng.integers(size)) for size in array.shape[:4]), 4)
        for level, array in enumerate((*case.lead, *case.auxiliary))
    ]
    balance = case.stored["balance_steps"][-2] if "balance_steps" in case.stored else None
    ours = oracle.gradient(
        case.lead,
        case.rows,
        case.head,
        case.config,
        entries,
        fixed_of(name),
        auxiliary=case.auxiliary,
        balance=balance,
    )
    largest = max(np.abs(array).max() for array in case.gradients)
    theirs = [case.gradients[level][tuple(place)] for level, *place in entries]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * largest)


def test_autobalance_takes_the_measured_steps():
    case = load("ota_autobalance")
    balance = oracle.BALANCE[3]
    for loss, after in zip(case.stored["loss_steps"], case.stored["balance_steps"], strict=True):
        ours = oracle.loss_of_fixed(
            case.lead,
            case.rows,
            case.head,
            case.config,
            fixed_of("ota_autobalance"),
            balance=balance,
        )
        balance = oracle.update_balance(balance, ours.obj_per_level, case.head)
        np.testing.assert_allclose(ours[:4], loss, rtol=1e-5)
        np.testing.assert_allclose(balance, after, rtol=1e-9)


@pytest.mark.parametrize("name", NMS_CASES)
def test_nms_keeps_the_measured_detections(name):
    stored = dict(np.load(GOLDEN / "nms" / f"{name}.npz"))
    meta = json.loads(bytes(stored["meta"]))
    prediction = stored["prediction"]
    centre, half, objectness = prediction[..., :2], prediction[..., 2:4] / 2, prediction[..., 4]
    class_scores = prediction[..., 5:] if prediction.shape[-1] > 6 else np.ones_like(half[..., :1])
    detections = oracle.nms(
        np.concatenate([centre - half, centre + half], -1),
        objectness,
        objectness[..., None] * class_scores,
        score_threshold=meta["conf_thres"],
        iou_threshold=meta["iou_thres"],
        multi_label=meta.get("multi_label", False),
        class_agnostic=meta.get("agnostic", False),
        classes=meta.get("classes"),
    )
    for image, ours in enumerate(detections):
        theirs = stored[f"detections_{image}"]
        assert len(ours) == len(theirs)
        np.testing.assert_allclose(np.reshape(ours, (-1, 6)), theirs, rtol=1e-6, atol=1e-4)


ONE_LEVEL = HeadConfig(2, (16,), (((20.0, 30.0), (30.0, 20.0)),))


def zero_logits(head: HeadConfig, *cells: tuple[int, int], batch: int = 1) -> list[np.ndarray]:
    return [
        np.zeros((batch, *shape, head.num_anchors, head.num_fields), np.float32) for shape in cells
    ]


def test_candidates_stand_in_level_direction_anchor_object_order():
    # At (2.25, 1.75) of 4 x 4 cells the nearer neighbours are the left and the lower one.
    rows = np.array([[0, 1, 2.25 / 4, 1.75 / 4, 24 / 64, 24 / 64]] * 2, np.float32)
    (found,) = oracle.candidates(rows, ONE_LEVEL, [(1, 4, 4)], 4.0, 0.5)
    cells = ((1, 2), (1, 1), (2, 2))
    assert found == [
        oracle.Match(0, 0, anchor, *cell, index)
        for cell in cells
        for anchor in (0, 1)
        for index in (0, 1)
    ]


def test_a_radius_of_one_cell_takes_every_neighbour_inside_the_grid():
    rows = np.array([[0, 0, 0.6 / 4, 1.3 / 4, 24 / 64, 24 / 64]], np.float32)
    (found,) = oracle.candidates(rows, ONE_LEVEL, [(1, 4, 4)], 4.0, 1.0)
    cells = {(match.row, match.column) for match in found}
    assert cells == {(1, 0), (0, 0), (1, 1), (2, 0)}


def test_of_identical_objects_the_first_takes_every_candidate_claimed_by_both():
    rows = np.array([[0, 1, 0.4, 0.6, 0.4, 0.4]] * 2, np.float32)
    lead = zero_logits(ONE_LEVEL, (4, 4))
    matches = oracle.assign_ota(lead, rows, ONE_LEVEL, LossConfig())
    assert matches
    assert {match.object for match in matches} == {0}
    own = LossConfig(restrict_to_own_candidates=True)
    matches = oracle.assign_ota(lead, rows, ONE_LEVEL, own)
    assert Counter(match.object for match in matches) == {0: len(matches) / 2, 1: len(matches) / 2}


def test_restricted_objects_match_nothing_but_candidates_of_their_own():
    case = load("ota_crowd")
    own = dataclasses.replace(case.config, restrict_to_own_candidates=True)
    produced = set(oracle.assign_anchor(case.lead, case.rows, case.head, own))
    assert set(oracle.assign_ota(case.lead, case.rows, case.head, own)) <= produced
    everything = set(oracle.assign_ota(case.lead, case.rows, case.head, case.config))
    assert not everything <= produced


def test_rounding_below_the_margin_changes_no_match():
    case = load("ota_crowd")
    margin = oracle.ota_margin(case.lead, case.rows, case.head, case.config)
    assert 1e-4 < margin < 0.1
    rng = np.random.default_rng(0)
    moved = [level + margin / 100 * rng.uniform(-1, 1, level.shape) for level in case.lead]
    before, after = (
        oracle.assign_ota(lead, case.rows, case.head, case.config) for lead in (case.lead, moved)
    )
    assert before == after


@pytest.mark.parametrize("logit", [-80.0, 80.0])
@pytest.mark.parametrize("box", [(0.5, 0.5, 0, 0), (1.5, -0.5, 0.3, 0.3), (0.5, 0.5, 0.3, 1e-7)])
def test_loss_is_finite_for_saturated_logits_and_odd_boxes(logit, box):
    rows = np.array([[0, 1, *box], [0, 0, 0.5, 0.5, 0.4, 0.4]], np.float32)
    lead = [level + np.float32(logit) for level in zero_logits(ONE_LEVEL, (4, 4), batch=2)]
    found = oracle.loss(lead, rows, ONE_LEVEL, LossConfig(), balance=[1.0])
    assert np.isfinite(found.total)
    assert found.num_matched[0] > 0


def test_zero_logits_decode_to_anchors_at_cell_centres():
    boxes, objectness, scores = oracle.decode(zero_logits(ONE_LEVEL, (2, 3)), ONE_LEVEL)
    assert boxes.shape == (1, 12, 4)
    np.testing.assert_allclose(boxes[0, 0], [8 - 10, 8 - 15, 8 + 10, 8 + 15])
    np.testing.assert_allclose(boxes[0, 3], [24 - 15, 8 - 10, 24 + 15, 8 + 10])  # next column
    np.testing.assert_allclose(boxes[0, 6], [8 - 10, 24 - 15, 8 + 10, 24 + 15])  # next row
    np.testing.assert_allclose(objectness, 0.5)
    np.testing.assert_allclose(scores, 0.25)


def test_equal_scores_go_to_the_lower_index_and_the_limits_hold():
    boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [40, 0, 50, 10]]], float)
    scores = np.array([[[0.5], [0.5], [0.5], [0.9]]])
    nms = functools.partial(
        oracle.nms, boxes, scores[..., 0], scores, score_threshold=0.1, iou_threshold=0.5
    )
    (all_of_them,) = nms()
    assert [one[0] for one in all_of_them] == [40, 0, 20]
    assert all_of_them[1][3] == 10
    (two,) = nms(max_detections=2)
    assert two == all_of_them[:2]
    (of_three,) = nms(max_candidates=3)
    assert of_three == all_of_them[:2]
