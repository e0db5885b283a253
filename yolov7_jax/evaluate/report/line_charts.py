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


class LineChart(NamedTuple):
    """Lines on axes, and where they stand in pixels.

    Attributes:
      title: of the chart.
      lines: at least one point among them.
      x_name: what the horizontal axis is.
      x_range, y_range: the lowest and highest number on the axes.
      mark: the x where a dashed line stands upright.
    """

    title: str
    lines: Sequence[Line]
    x_name: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    mark: float | None = None

    WIDTH, HEIGHT = 380, 210
    LEFT, RIGHT, TOP, BOTTOM = 46, 370, 8, 180  # where the axes end

    def x(self, value: float) -> float:
        """Returns where a number stands on the horizontal axis."""
        low, high = self.x_range
        share = (value - low) / (high - low) if high > low else 0.5
        return self.LEFT + share * (self.RIGHT - self.LEFT)

    def y(self, value: float) -> float:
        """Returns where a number stands on the vertical axis."""
        low, high = self.y_range
        return self.BOTTOM - (value - low) / (high - low) * (self.BOTTOM - self.TOP)

    def x_ticks(self) -> list[float]:
        """Returns numbers that are written at the horizontal axis."""
        low, high = self.x_range
        return ticks(low, high, 7, integer=high - low >= 2)

    def y_ticks(self) -> list[float]:
        """Returns numbers that are written at the vertical axis."""
        return ticks(*self.y_range, 5)


def fitted_chart(title: str, lines: Sequence[Line], x_name: str) -> LineChart:
    """Returns a chart whose axes show what the points need, with some room above."""
    xs, ys = zip(*(point for line in lines for point in line.points), strict=True)
    low, high = min(ys), max(ys)
    if low == high:
        low, high = min(0.0, 2 * low), max(0.0, 2 * low) or 1.0
    else:
        low = 0.0 if 0 < low < (high - low) / 2 else low
        high += (high - low) * 0.04
    return LineChart(title, lines, x_name, (min(xs), max(xs)), (low, high))


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
