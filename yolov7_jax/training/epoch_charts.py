"""Charts over the epochs of whatever numbers the records of a run hold."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yolov7_jax.evaluate.report.line_charts import Line, LineChart, fitted_chart

EPOCH, STEP = "epoch", "step"
SPLITS = ("train", "val")  # their losses of one name share a chart
ACCURACY = re.compile(r"a[pr]\d*(_(small|medium|large))?")
ACCURACY_TITLE, LOSSES_TITLE, REST_TITLE = "Accuracy", "Losses", "Speed and the rest"
WORDS = {  # for names that people do not use
    "class_ap": "AP by class",
    "class_ap50": "AP50 by class",
    "data_wait": "waiting for data",
    "gradient_norm": "gradient norm",
    "images_per_second": "images per second",
    "step_seconds": "seconds per step",
}
MOST_LINES = 8  # of a group of numbers; larger groups (a number for each class) have no chart


def epoch_charts(records: Sequence[Mapping[str, Any]]) -> dict[str, list[LineChart]]:
    """Returns charts of all numbers in the records, by heading.

    Numbers named "train/..." and "val/..." that have the last part of their name in common share a
    chart, and so do others that have the first part in common; accuracies share one.

    Args:
      records: by epoch. A number may be missing or None in some; both leave a gap.
    """
    headings: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = {
        ACCURACY_TITLE: {},
        LOSSES_TITLE: {},
        REST_TITLE: {},
    }
    for place, record in enumerate(records, 1):
        epoch = float(record.get(EPOCH, place))
        for name, value in _numbers(record):
            heading, chart, line = _place(name)
            lines = headings[heading].setdefault(chart, {})
            lines.setdefault(line, []).append((epoch, value))
    return {
        heading: [
            fitted_chart(
                title,
                [Line(name, points, note=f"{points[-1][1]:.4g}") for name, points in lines.items()],
                EPOCH,
            )
            for title, lines in charts.items()
        ]
        for heading, charts in headings.items()
        if charts
    }


def finite_values(records: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Returns the epochs in which a number is defined, and the number."""
    return [
        (record.get(EPOCH, place), record[name])
        for place, record in enumerate(records, 1)
        if _is_number(record.get(name))
    ]


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields the finite numbers of a record, those of small groups as "group/name"."""
    for name, value in record.items():
        if name in (EPOCH, STEP):
            continue
        if isinstance(value, Mapping):
            if len(value) <= MOST_LINES:
                for inner, number in value.items():
                    if _is_number(number):
                        yield f"{name}/{inner}", float(number)
        elif _is_number(value):
            yield name, float(value)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _place(name: str) -> tuple[str, str, str]:
    """Returns heading, chart and line of a number."""
    first, _, rest = name.partition("/")
    if not rest:
        if ACCURACY.fullmatch(name):
            return ACCURACY_TITLE, "all classes", name
        return REST_TITLE, WORDS.get(name, name), WORDS.get(name, name)
    if first in SPLITS:
        before, _, last = name.rpartition("/")
        return LOSSES_TITLE, last, before
    heading = ACCURACY_TITLE if ACCURACY.fullmatch(first.removeprefix("class_")) else REST_TITLE
    return heading, WORDS.get(first, first), rest
