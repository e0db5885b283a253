"""Line charts in pixels: what macros.html draws as SVG, and png_plots as an image."""

import math
from collections.abc import Sequence
from typing import NamedTuple


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


class PlacedLine(NamedTuple):
    """A `Line` in pixels: x and y of every point, and what its dot tells."""

    name: str
    note: str
    bold: bool
    places: list[tuple[float, float, str]]


class LineChart(NamedTuple):
    """A chart in pixels, with the text of its ticks."""

    title: str
    x_name: str
    lines: list[PlacedLine]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    mark: float | None

    WIDTH, HEIGHT = 380, 210
    LEFT, RIGHT, TOP, BOTTOM = 46, 370, 8, 180  # where the axes end


UNIT = (0.0, 1.0)


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    mark: float | None = None,
) -> LineChart:
    """Places lines on axes.

    Args:
      title: of the chart.
      lines: at least one point among them.
      x_name: what the horizontal axis is.
      x_range: the lowest and highest x shown; what the points need if not given.
      y_range: likewise.
      mark: where a dashed line stands upright.
    """
    xs, ys = zip(*(point for line in lines for point in line.points), strict=True)
    x_low, x_high = x_range or (min(xs), max(xs))
    y_low, y_high = y_range or _widened(min(ys), max(ys))

    def place_x(value: float) -> float:
        share = (value - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return LineChart.LEFT + share * (LineChart.RIGHT - LineChart.LEFT)

    def place_y(value: float) -> float:
        share = (value - y_low) / (y_high - y_low)
        return LineChart.BOTTOM - share * (LineChart.BOTTOM - LineChart.TOP)

    def place(line: Line) -> PlacedLine:
        places = [
            (place_x(x), place_y(y), f"{line.name}: {y:.4g} ({x_name} {x:.4g})")
            for x, y in line.points
        ]
        return PlacedLine(line.name, line.note, line.bold, places)

    x_ticks = ticks(x_low, x_high, 7, integer=x_high - x_low >= 2)
    return LineChart(
        title,
        x_name,
        [place(line) for line in lines],
        [(place_x(value), f"{value:.6g}") for value in x_ticks],
        [(place_y(value), f"{value:.4g}") for value in ticks(y_low, y_high, 5)],
        None if mark is None else place_x(mark),
    )


def ticks(low: float, high: float, most: int, *, integer: bool = False) -> list[float]:
    """Returns round numbers in a range, evenly spaced, at most so many."""
    if high <= low:
        return [low]
    raw = (high - low) / max(most - 1, 1)
    size = 10.0 ** math.floor(math.log10(raw))
    steps = [size * factor for factor in (1, 2, 2.5, 5, 10, 20)]
    if integer:
        steps = [step for step in steps if step.is_integer()]
    step = next(step for step in steps if step >= raw * 0.999999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    """Returns a range with some room above, from 0 where that is near."""
    if low == high:
        return min(0.0, 2 * low), max(0.0, 2 * low) or 1.0
    if 0 < low < (high - low) / 2:
        low = 0.0
    return low, high + (high - low) * 0.04
