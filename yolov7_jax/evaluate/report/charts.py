"""Line charts as SVG that takes its colours from the page."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from yolov7_jax.evaluate.report.html import Element, legend, node

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 30  # margins
COLOURS = 8  # in the page's style
MOST_POINTS = 60  # of a line that gets a dot with its number at every point


class Line(NamedTuple):
    """A line of a chart.

    Attributes:
      name: for the legend.
      points: x and y, by x; both finite.
      bold: whether it matters more than the others.
      note: what the legend tells beside the name.
    """

    name: str
    points: Sequence[tuple[float, float]]
    bold: bool = False
    note: str = ""


class Range(NamedTuple):
    """What an axis shows."""

    low: float
    high: float


UNIT = Range(0.0, 1.0)


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str,
    x_range: Range | None = None,
    y_range: Range | None = None,
    mark: float | None = None,
) -> Element:
    """Returns a figure.

    Args:
      title: of the figure.
      lines: at least one point among them.
      x_name: what the horizontal axis is.
      x_range: what the horizontal axis shows; what the points need if not given.
      y_range: likewise.
      mark: where a dashed line stands upright.
    """
    points = [point for line in lines for point in line.points]
    across = x_range or Range(min(x for x, _ in points), max(x for x, _ in points))
    up = y_range or _widened(min(y for _, y in points), max(y for _, y in points))
    children = _axes(across, up, x_name)
    if mark is not None:
        x = _x(mark, across)
        attributes = {"class": "mark", "x1": x, "x2": x, "y1": TOP, "y2": HEIGHT - BOTTOM}
        children.append(node("line", attributes))
    for index, line in enumerate(lines):
        children.append(_drawn(line, index, across, up, x_name))
    box = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": title}
    return node(
        "figure",
        {},
        node("figcaption", {}, node("b", {}, title)),
        node("svg", box, *children),
        legend(
            [
                (f"{line.name}: {line.note}" if line.note else line.name, _style(index), "")
                for index, line in enumerate(lines)
            ]
        ),
    )


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Returns round numbers in a range, evenly spaced, at most so many."""
    if high <= low:
        return [low]
    raw = (high - low) / max(most - 1, 1)
    size = 10.0 ** math.floor(math.log10(raw))
    steps = [size * factor for factor in (1, 2, 2.5, 5, 10, 20)]
    if whole:
        steps = [step for step in steps if step.is_integer()]
    step = next(step for step in steps if step >= raw * 0.999999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _widened(low: float, high: float) -> Range:
    """Returns a range with some room above, from 0 where that is near."""
    if low == high:
        return Range(min(0.0, 2 * low), max(0.0, 2 * low) or 1.0)
    if 0 < low < (high - low) / 2:
        low = 0.0
    return Range(low, high + (high - low) * 0.04)


def _x(value: float, across: Range) -> float:
    share = (value - across.low) / (across.high - across.low) if across.high > across.low else 0.5
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(value: float, up: Range) -> float:
    return HEIGHT - BOTTOM - (value - up.low) / (up.high - up.low) * (HEIGHT - TOP - BOTTOM)


def _style(index: int) -> str:
    return f"color:var(--line{index % COLOURS})"


def _axes(across: Range, up: Range, x_name: str) -> list[Element]:
    bottom = HEIGHT - BOTTOM
    children = []
    for value in ticks(up.low, up.high, 5):
        y = _y(value, up)
        line = {"class": "axis", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y}
        text = {"class": "tick", "x": LEFT - 5, "y": y + 3.5, "text-anchor": "end"}
        children += [node("line", line), node("text", text, f"{value:.4g}")]
    for value in ticks(across.low, across.high, 7, whole=across.high - across.low >= 2):
        place = {"class": "tick", "x": _x(value, across), "y": bottom + 13}
        children.append(node("text", place | {"text-anchor": "middle"}, f"{value:.6g}"))
    middle = {"class": "tick", "x": (LEFT + WIDTH - RIGHT) / 2, "y": HEIGHT - 4}
    children.append(node("text", middle | {"text-anchor": "middle"}, x_name))
    base = {"class": "axis", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": bottom, "y2": bottom}
    return [*children, node("line", base)]


def _drawn(line: Line, index: int, across: Range, up: Range, x_name: str) -> Element:
    places = [(_x(x, across), _y(y, up)) for x, y in line.points]
    children = []
    if len(places) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        kind = "line bold" if line.bold else "line"
        name = node("title", {}, line.name)
        children.append(node("polyline", {"class": kind, "points": path}, name))
    if len(places) <= MOST_POINTS:
        for (x, y), (real_x, real_y) in zip(places, line.points, strict=True):
            text = f"{line.name}: {real_y:.4g} ({x_name} {real_x:.4g})"
            dot = {"class": "point", "cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": 2.5}
            children.append(node("circle", dot, node("title", {}, text)))
    return node("g", {"style": _style(index)}, *children)
