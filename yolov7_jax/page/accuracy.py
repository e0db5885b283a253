"""Tables and charts about detections: by class, by score, by kind of fault, class by class."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from yolov7_jax.curves import RECALLS, SCORES, Curves
from yolov7_jax.matching import Kind
from yolov7_jax.metrics import CocoAp
from yolov7_jax.page.charts import UNIT, Line, line_chart
from yolov7_jax.page.elements import Element, bar, faint, node, number, table
from yolov7_jax.page.pictures import kind_name
from yolov7_jax.page.results import Results

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


def accuracy_charts(names: Sequence[str], accuracy: CocoAp, curves: Curves) -> list[Element]:
    """Returns precision over recall, and precision, recall and F1 over the score threshold."""
    defined = [label for label in by_ap50(accuracy) if curves.objects[label]]
    if not defined:
        return []
    few = len(defined) <= MOST_LINES - 1
    chosen = defined if few else [*defined[:3], *defined[-3:]]
    mean = curves.precision_at_recall[defined].mean(0)
    lines = [_line(f"mean of {len(defined)} classes", RECALLS, mean, bold=True)]
    lines += [_line(names[label], RECALLS, curves.precision_at_recall[label]) for label in chosen]
    over_recall = line_chart(
        "Precision over recall" + ("" if few else ": the three best and the three worst classes"),
        lines,
        x_name="recall",
        x_range=UNIT,
        y_range=UNIT,
    )
    scores = SCORES[::SCORE_STEP]
    over_score = line_chart(
        f"Means over the score threshold; best F1 at {curves.best_score:.3f}",
        [
            _line("F1", scores, _mean(curves.f1[:, ::SCORE_STEP]), bold=True),
            _line("precision", scores, _mean(curves.precision[:, ::SCORE_STEP])),
            _line("recall", scores, _mean(curves.recall[:, ::SCORE_STEP])),
        ],
        x_name="score",
        x_range=UNIT,
        y_range=UNIT,
        mark=curves.best_score,
    )
    return [over_recall, over_score]


def _line(name: str, x: np.ndarray, y: np.ndarray, *, bold: bool = False) -> Line:
    points = zip(x.tolist(), y.tolist(), strict=True)
    return Line(name, [point for point in points if math.isfinite(point[1])], bold)


def _mean(values: Float64[np.ndarray, "c s"]) -> Float64[np.ndarray, " s"]:
    """Returns the mean over the classes that are defined; NaN where none is."""
    defined = ~np.isnan(values)
    count = defined.sum(0)
    total = np.where(defined, values, 0).sum(0)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


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


def confusion_parts(names: Sequence[str], matrix: Int64[np.ndarray, "c+1 c+1"]) -> list[Element]:
    """Returns the matrix as a table that is coloured by shares, and the most frequent confusions.

    Of more than 100 classes, those with the most confusions are shown.
    """
    background = len(names)
    labels = [*names, BACKGROUND]
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    mistakes[background], mistakes[:, background] = 0, 0
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
    shown = np.arange(background + 1)
    if background > MOST_IN_MATRIX:
        confused = np.argsort(-(mistakes.sum(0) + mistakes.sum(1)), kind="stable")
        shown = np.append(np.sort(confused[confused != background][:MOST_IN_MATRIX]), background)
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
