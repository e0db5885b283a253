"""Which numbers of the records share a chart, and what stands at the axes."""

import math

import numpy as np
import pytest

from yolov7_jax.evaluate.report.line_charts import ticks
from yolov7_jax.training.epoch_charts import epoch_charts


def lines(records):
    """Points by chart and line."""
    return {
        chart.title: {line.name: line.points for line in chart.lines}
        for charts in epoch_charts(records).values()
        for chart in charts
    }


def test_losses_of_both_splits_share_a_chart_and_groups_share_another():
    names = ("train/ota/box", "val/ota/box", "train/ota/obj", "lr/kernel", "lr/bias", "data_wait")
    points = [(1, 0.5), (2, 1.0), (3, 1.5)]
    records = [{"epoch": epoch} | dict.fromkeys(names, value) for epoch, value in points]
    assert lines(records) == {
        "box": {"train/ota": points, "val/ota": points},
        "obj": {"train/ota": points},
        "lr": {"kernel": points, "bias": points},
        "waiting for data": {"waiting for data": points},
    }


def test_accuracies_share_a_chart_and_what_is_no_number_has_none():
    record = {"epoch": 1, "step": 5, "ap": 0.1, "ap50": 0.2, "note": "text", "ok": True}
    record["class_ap"] = {"cat": 0.1, "dog": None}
    record["class_ap50"] = {str(label): 0.5 for label in range(80)}
    assert lines([record]) == {
        "all classes": {"ap": [(1, 0.1)], "ap50": [(1, 0.2)]},
        "AP by class": {"cat": [(1, 0.1)]},
    }


def test_undefined_numbers_are_left_out():
    records = [{"ap": value} for value in (None, 0.25, math.nan, 0.75)]
    assert lines(records) == {"all classes": {"ap": [(2, 0.25), (4, 0.75)]}}


@pytest.mark.parametrize("high", [1e-6, 0.1, 1, 7, 299, 123456.0])
@pytest.mark.parametrize("most", [5, 7])
def test_ticks_are_even_inside_of_the_range_and_not_too_many(high, most):
    for low in (0.0, -high / 3, high * 0.9):
        values = ticks(low, high, most)
        assert 2 <= len(values) <= most
        assert low - 1e-9 * high <= values[0] <= values[-1] <= high * (1 + 1e-9)
        if len(values) > 2:
            np.testing.assert_allclose(np.diff(values), values[1] - values[0])


def test_epochs_are_marked_at_whole_numbers():
    for last in range(3, 400):
        values = ticks(1, last, 7, integer=True)
        assert all(value == round(value) for value in values)
        assert len(values) >= 2
