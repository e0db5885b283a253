"""Tables and charts about detections: by class, by score, by kind of fault, class by class."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from yolov7_jax.evaluate.coco_ap import CocoAp
from yolov7_jax.evaluate.curves import RECALLS, SCORES, Curves, class_mean
from yolov7_jax.evaluate.matching import Kind
from yolov7_jax.evaluate.report.charts import UNIT, Line, line_chart
from yolov7_jax.evaluate.report.html import Element, bar, faint, node, number, table
from yolov7_jax.evaluate.report.report_images import kind_name
from yolov7_jax.evaluate.report.results import Results

MOST_LINES = 8  # with more classes, only the best and the worst have a line
SCORE_STEP = 5  # every fifth score threshold is drawn
MOST_WITH_NUMBERS = 20  # classes in a matrix with numbers in its cells
MOST_IN_MATRIX = 100
MOST_CONFUSIONS = 12
BACKGROUND = "background"
STRONGEST = 0.8  # opacity of a cell's colour: numbers must be readable on it


def class_table(names: Sequence[str], accuracy: CocoAp, curves: Curves) -> Element:
    """Returns accuracy by class, the best first, those without objects last."""
    best = curves.best
    rows = [
        [
            names[label],
            str(curves.objects[label]),
            bar(accuracy.class_ap[label]),
            bar(accuracy.class_ap50[label]),
            bar(curves.precision[label, best]),
            bar(curves.recall[label, best]),
            bar(curves.f1[label, best]),
        ]
        for label in by_ap50(accuracy)
    ]
    head = ["class", "objects", "AP", "AP50", "precision", "recall", "F1"]
    return node("div", {"class": "scroll"}, table(head, rows))


def by_ap50(accuracy: CocoAp) -> list[int]:
    """Returns the classes, the best first, undefined ones last."""
    return np.argsort(-accuracy.class_ap50, kind="stable").tolist()  # NaN comes last


def recall_lines(names: Sequence[str], accuracy: CocoAp, curves: Curves) -> list[Line]:
    """Returns precision over recall: the mean, and the classes if they are few.

    Of many, those are the three best and the three worst; none where there is no object to find.
    """
    defined = [label for label in by_ap50(accuracy) if curves.objects[label]]
    if not defined:
        return []
    chosen = defined if len(defined) < MOST_LINES else [*defined[:3], *defined[-3:]]
    mean = curves.precision_at_recall[defined].mean(0)
    lines = [_line(f"mean of {len(defined)} classes", RECALLS, mean, bold=True)]
    return lines + [
        _line(names[label], RECALLS, curves.precision_at_recall[label]) for label in chosen
    ]


def score_lines(curves: Curves) -> list[Line]:
    """Returns the means of F1, precision and recall over the score threshold."""
    scores = SCORES[::SCORE_STEP]
    return [
        _line("F1", scores, class_mean(curves.f1[:, ::SCORE_STEP]), bold=True),
        _line("precision", scores, class_mean(curves.precision[:, ::SCORE_STEP])),
        _line("recall", scores, class_mean(curves.recall[:, ::SCORE_STEP])),
    ]


def accuracy_charts(names: Sequence[str], accuracy: CocoAp, curves: Curves) -> list[Element]:
    """Returns precision over recall, and precision, recall and F1 over the score threshold."""
    lines = recall_lines(names, accuracy, curves)
    if not lines:
        return []
    few = (curves.objects > 0).sum() < MOST_LINES
    over_recall = line_chart(
        "Precision over recall" + ("" if few else ": the three best and the three worst classes"),
        lines,
        x_name="recall",
        x_range=UNIT,
        y_range=UNIT,
    )
    over_score = line_chart(
        f"Means over the score threshold; best F1 at {curves.best_score:.3f}",
        score_lines(curves),
        x_name="score",
        x_range=UNIT,
        y_range=UNIT,
        mark=curves.best_score,
    )
    return [over_recall, over_score]


def _line(name: str, x: np.ndarray, y: np.ndarray, *, bold: bool = False) -> Line:
    points = zip(x.tolist(), y.tolist(), strict=True)
    return Line(name, [point for point in points if math.isfinite(point[1])], bold)


def fault_tables(results: Results) -> Element:
    """Returns what became of the objects, and what the detections are."""
    hits, all_objects = int(results.found.sum()), int(results.real.sum())
    objects = _shares("objects", [("found", hits), ("missed", all_objects - hits)])
    counts = np.bincount(results.matches.kinds[results.shown], minlength=len(Kind))
    kinds = [(kind_name(kind), int(counts[kind])) for kind in Kind if kind != Kind.IGNORED]
    return node("div", {"class": "columns"}, objects, _shares("detections", kinds))


def _shares(name: str, counts: list[tuple[str, int]]) -> Element:
    whole = sum(count for _, count in counts)
    rows = [[what, str(count), bar(count / whole if whole else math.nan)] for what, count in counts]
    return table([name, "count", "share"], rows)


def confused_classes(matrix: Int64[np.ndarray, "c+1 c+1"]) -> Int64[np.ndarray, " k"]:
    """Returns which rows of a matrix are shown: of more than 100 classes the most confused ones.

    The background, which is the last, is always among them.
    """
    background = len(matrix) - 1
    if background <= MOST_IN_MATRIX:
        return np.arange(background + 1)
    mistakes = _mistakes(matrix)
    confused = np.argsort(-(mistakes.sum(0) + mistakes.sum(1)), kind="stable")
    return np.append(np.sort(confused[confused != background][:MOST_IN_MATRIX]), background)


def _mistakes(matrix: Int64[np.ndarray, "c+1 c+1"]) -> Int64[np.ndarray, "c+1 c+1"]:
    """Returns how often classes were taken for one another."""
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    mistakes[-1], mistakes[:, -1] = 0, 0
    return mistakes


def confusion_parts(names: Sequence[str], matrix: Int64[np.ndarray, "c+1 c+1"]) -> list[Element]:
    """Returns the matrix as a table that is coloured by shares, and the most frequent confusions.

    Of more than 100 classes, those with the most confusions are shown.
    """
    background = len(names)
    labels = [*names, BACKGROUND]
    mistakes = _mistakes(matrix)
    rows, columns = np.unravel_index(np.argsort(-mistakes, axis=None, kind="stable"), matrix.shape)
    pairs = [
        [
            f"{labels[row]} taken for {labels[column]}",
            str(mistakes[row, column]),
            bar(mistakes[row, column] / matrix[row].sum()),
        ]
        for row, column in zip(rows[:MOST_CONFUSIONS], columns[:MOST_CONFUSIONS], strict=True)
        if mistakes[row, column]
    ]
    parts = []
    shown = confused_classes(matrix)
    if len(shown) < background + 1:
        text = f"The {MOST_IN_MATRIX} classes with the most confusions, of {background}."
        parts.append(faint(text))
    parts.append(node("div", {"class": "scroll"}, _matrix_table(labels, matrix, shown)))
    if pairs:
        parts += [
            node("h3", {}, "Most frequent confusions"),
            table(["object taken for another", "count", "share of its class"], pairs),
        ]
    return parts


def _matrix_table(
    labels: Sequence[str], matrix: Int64[np.ndarray, "c+1 c+1"], shown: Int64[np.ndarray, " k"]
) -> Element:
    dense = len(shown) > MOST_WITH_NUMBERS + 1
    heads = [_matrix_head(labels[int(column)]) for column in shown]
    corner = node("th", {"aria-label": "true class in rows, detected class in columns"})
    rows = []
    for row in shown:
        total = int(matrix[row].sum())
        cells = [
            _matrix_cell(labels, int(row), int(column), int(matrix[row, column]), total, dense)
            for column in shown
        ]
        rows.append(node("tr", {}, _matrix_head(labels[int(row)]), *cells))
    return node(
        "table",
        {"class": "matrix dense" if dense else "matrix"},
        node("thead", {}, node("tr", {}, corner, *heads)),
        node("tbody", {}, *rows),
    )


def _matrix_head(name: str) -> Element:
    return node("th", {"title": name}, name)


def _matrix_cell(
    labels: Sequence[str], row: int, column: int, count: int, total: int, dense: bool
) -> Element:
    if not count:
        return node("td", {})
    share = count / total
    kind = "hit" if row == column else "miss"
    # The root makes the few per cent visible that matter most here.
    style = f"--v:{STRONGEST * math.sqrt(share):.2f}"
    title = f"{labels[row]} as {labels[column]}: {count}, {number(share)} of the row"
    text = "" if dense else str(count)
    return node("td", {"class": kind, "style": style, "title": title}, text)
