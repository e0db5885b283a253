"""Accuracy by class, curves, kinds of fault and confusions, as pages and plots show them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from yolov7_jax.evaluate.curves import SCORES, class_mean
from yolov7_jax.evaluate.matching import DetectionKind
from yolov7_jax.evaluate.report.line_charts import Line, LineChart
from yolov7_jax.evaluate.report.matched_split import MatchedSplit
from yolov7_jax.evaluate.report.metrics_text import NUMBERS
from yolov7_jax.evaluate.report.pages import unit

MOST_LINES = 8  # with more classes, only the best and the worst have a line
RECALLS = np.linspace(0.0, 1.0, 101)  # where COCO reads precision
SCORE_STEP = 5  # every fifth score threshold is drawn
MOST_IN_MATRIX = 100
MOST_CONFUSIONS = 12
BACKGROUND = "background"
UNIT = (0.0, 1.0)
HEADLINES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
KINDS = [kind for kind in DetectionKind if kind != DetectionKind.IGNORED]

SECTIONS = {
    "classes": "Accuracy by class",
    "curves": "Precision and recall",
    "faults": "Faults",
    "confusion": "Confusion",
}


def accuracy_cards(split: MatchedSplit) -> dict[str, str]:
    """Returns the headline numbers by name."""
    values = {NUMBERS[field][0]: getattr(split.accuracy, field) for field in HEADLINES}
    values["best mean F1"] = split.class_metrics(None)["f1"]
    values["at score"] = split.curves.best_score
    return {name: unit(value) for name, value in values.items()}


def accuracy_values(split: MatchedSplit) -> dict[str, Any]:
    """Returns what the templates of `SECTIONS` show."""
    names, hits = split.dataset.names, int(split.found.sum())
    kinds = np.bincount(split.matches.kinds[split.shown], minlength=len(DetectionKind))
    return {
        "best_score": split.curves.best_score,
        "names": names,
        "kinds": [kind.label for kind in KINDS],
        "classes": [split.class_row(label) for label in split.by_ap50()],
        "curves": list(accuracy_charts(split).values()),
        "object_counts": {"found": hits, "missed": int(split.truth.to_find.sum()) - hits},
        "detection_counts": {kind.label: int(kinds[kind]) for kind in KINDS},
        "confusion": _confusion_values(names, split.confusion()),
    }


def accuracy_charts(split: MatchedSplit) -> dict[str, LineChart]:
    """Returns precision over recall, and precision, recall and F1 over the score threshold.

    Over recall, classes have lines of their own if they are few; of many, the three best and the
    three worst. There are no charts where there is no object to find.
    """
    curves = split.curves
    defined = [label for label in split.by_ap50() if curves.objects[label]]
    if not defined:
        return {}
    few = len(defined) < MOST_LINES
    precision = split.accuracy.class_precision
    mean = _line(f"mean of {len(defined)} classes", RECALLS, precision[defined].mean(0), bold=True)
    over_recall = [mean]
    for label in defined if few else [*defined[:3], *defined[-3:]]:
        name = split.dataset.names[label]
        over_recall.append(_line(name, RECALLS, precision[label]))
    which = "" if few else ": the three best and the three worst classes"
    means = {"F1": curves.f1, "precision": curves.precision, "recall": curves.recall}
    over_score = [
        _line(name, SCORES[::SCORE_STEP], class_mean(values[:, ::SCORE_STEP]), bold=name == "F1")
        for name, values in means.items()
    ]
    best = curves.best_score
    over_recall_title = f"Precision over recall at IoU 0.50{which}"
    over_score_title = f"Means over the score threshold at IoU 0.50; best F1 at {best:.3f}"
    return {
        "precision_recall": LineChart(over_recall_title, over_recall, "recall", UNIT, UNIT),
        "f1": LineChart(over_score_title, over_score, "score", UNIT, UNIT, mark=best),
    }


def most_confused(matrix: Int64[np.ndarray, "c+1 c+1"]) -> Int64[np.ndarray, " k"]:
    """Returns which rows of a matrix are shown: of more than 100 classes the most confused ones.

    The background, which is the last, is always among them.
    """
    background = len(matrix) - 1
    if background <= MOST_IN_MATRIX:
        return np.arange(background + 1)
    mistakes = _mistakes(matrix)
    confused = np.argsort(-(mistakes.sum(0) + mistakes.sum(1)), kind="stable")
    return np.append(np.sort(confused[confused != background][:MOST_IN_MATRIX]), background)


def _line(name: str, x: np.ndarray, y: np.ndarray, *, bold: bool = False) -> Line:
    points = zip(x.tolist(), y.tolist(), strict=True)
    return Line(name, [point for point in points if math.isfinite(point[1])], bold)


def _mistakes(matrix: Int64[np.ndarray, "c+1 c+1"]) -> Int64[np.ndarray, "c+1 c+1"]:
    """Returns how often classes were taken for one another."""
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    mistakes[-1], mistakes[:, -1] = 0, 0
    return mistakes


def _confusion_values(names: Sequence[str], matrix: Int64[np.ndarray, "c+1 c+1"]) -> dict[str, Any]:
    labels, shown, mistakes = [*names, BACKGROUND], most_confused(matrix), _mistakes(matrix)
    rows, columns = np.unravel_index(np.argsort(-mistakes, axis=None, kind="stable"), matrix.shape)
    return {
        "num_classes": len(names),
        "labels": [labels[row] for row in shown],
        "rows": [
            (labels[row], int(matrix[row].sum()), matrix[row, shown].tolist()) for row in shown
        ],
        "pairs": [
            (labels[row], labels[column], count, count / matrix[row].sum())
            for row, column in zip(rows[:MOST_CONFUSIONS], columns[:MOST_CONFUSIONS], strict=True)
            if (count := int(mistakes[row, column]))
        ],
    }
