"""Charts as images, for places that show no HTML.

Drawn by OpenCV, whose font has the letters of most scripts, for the names of classes.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from yolov7_jax.evaluate.report.line_charts import LineChart

Image = UInt8[np.ndarray, "h w 3"]
Colour = tuple[int, int, int]  # RGB

ZOOM = 2.2  # of charts against their size on a page
TITLE_HEIGHT, LEGEND_WIDTH = 44, 250
INK, FAINT, RULE = (28, 36, 48), (92, 102, 117), (213, 218, 225)  # those of the page
COLOURS = (
    (31, 111, 208),
    (217, 72, 15),
    (43, 138, 62),
    (156, 54, 181),
    (11, 114, 133),
    (176, 137, 0),
    (194, 37, 92),
    (95, 107, 122),
)
HIT, MISS = (66, 133, 244), (240, 130, 40)
TEXT, TITLE = 15, 20  # pixels
SHIFT = 4  # bits behind the point in the coordinates of lines
CELL = 40  # pixels; of matrices with numbers
SMALL_CELL = 12
MOST_WITH_NUMBERS = 20
NAME_WIDTH = 150
AXES = "rows: what objects are; columns: what they were detected as"


def chart_plot(chart: LineChart) -> Image:
    """Returns a chart with its legend at the right."""
    size = round(chart.HEIGHT * ZOOM) + TITLE_HEIGHT, round(chart.WIDTH * ZOOM) + LEGEND_WIDTH
    image = np.full((*size, 3), 255, np.uint8)

    def segment(points: Sequence[tuple[float, float]], colour: Colour, thickness: int) -> None:
        zoomed = [(x * ZOOM, y * ZOOM + TITLE_HEIGHT) for x, y in points]
        _segment(image, zoomed, colour, thickness)

    left, right, top, bottom = chart.LEFT, chart.RIGHT, chart.TOP, chart.BOTTOM
    for value in chart.y_ticks():
        y, label = chart.y(value), f"{value:.4g}"
        segment([(left, y), (right, y)], RULE, 1)
        _text(image, label, left * ZOOM - 8 - _width(label), y * ZOOM + TITLE_HEIGHT + 5, FAINT)
    for value in chart.x_ticks():
        x, label = chart.x(value), f"{value:.6g}"
        segment([(x, top), (x, bottom)], RULE, 1)
        y = bottom * ZOOM + TITLE_HEIGHT + 22
        _text(image, label, x * ZOOM - _width(label) / 2, y, FAINT)
    if chart.mark is not None:
        x = chart.x(chart.mark)
        segment([(x, top), (x, bottom)], FAINT, 2)
    legend = right * ZOOM + 16
    for number, line in enumerate(chart.lines):
        colour, thickness = COLOURS[number % len(COLOURS)], 4 if line.bold else 2
        segment([(chart.x(x), chart.y(y)) for x, y in line.points], colour, thickness)
        y = TITLE_HEIGHT + top * ZOOM + 12 + 26 * number
        _segment(image, [(legend, y), (legend + 24, y)], colour, thickness)
        _text(image, _cut(line.name, LEGEND_WIDTH - 50), legend + 32, y + 5, INK)
    _text(image, _cut(chart.title, size[1] - 30, TITLE), left * ZOOM, 30, INK, TITLE)
    middle = (left + right) * ZOOM / 2
    _text(image, chart.x_name, middle - _width(chart.x_name) / 2, size[0] - 10, FAINT)
    return image


def matrix_plot(title: str, names: Sequence[str], matrix: Int64[np.ndarray, "c c"]) -> Image:
    """Returns a confusion matrix as cells coloured by their shares of a row.

    Args:
      title: of the image.
      names: of rows and columns alike.
      matrix: the counts; written into the cells where there are at most 20 rows.
    """
    numbered = len(names) <= MOST_WITH_NUMBERS
    cell, size = (CELL, TEXT) if numbered else (SMALL_CELL, SMALL_CELL - 1)
    shown = [_cut(name, NAME_WIDTH, size) for name in names]
    widest = max(_width(name, size) for name in shown) + 10
    left, top, side = 30 + widest, 76 + widest, len(names) * cell
    width = max(left + side + 24, 40 + _width(title, TITLE), 40 + _width(AXES))
    image = np.full((top + side + 16, width, 3), 255, np.uint8)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    # The root makes the few per cent visible that matter most here.
    strength = 0.8 * np.sqrt(shares)[..., None]
    colours = np.where(np.eye(len(names), dtype=bool)[..., None], HIT, MISS)
    cells = (255 + strength * (colours - 255)).round().astype(np.uint8)
    image[top : top + side, left : left + side] = cells.repeat(cell, 0).repeat(cell, 1)
    for number, name in enumerate(shown):
        at = number * cell
        y = top + at + cell * 0.68
        _text(image, name, left - 6 - _width(name, size), y, INK, size)
        upright = _upright(name, size)
        x = left + at + (cell - upright.shape[1]) // 2
        image[top - 6 - len(upright) : top - 6, x : x + upright.shape[1]] = upright
    for row, column in np.argwhere(matrix) if numbered else ():
        label = str(matrix[row, column])
        fitting = TEXT if len(label) < 5 else TEXT * 4 // len(label)
        x = left + column * cell + (cell - _width(label, fitting)) / 2
        _text(image, label, x, top + row * cell + cell * 0.64, INK, fitting)
    for at in range(0, side + 1, cell):
        _segment(image, [(left + at, top), (left + at, top + side)], RULE, 1)
        _segment(image, [(left, top + at), (left + side, top + at)], RULE, 1)
    _text(image, title, 12, 30, INK, TITLE)
    _text(image, AXES, 12, 54, FAINT)
    return image


def _segment(
    image: Image, points: Sequence[tuple[float, float]], colour: Colour, thickness: int
) -> None:
    fixed = (np.asarray(points, np.float64) * (1 << SHIFT)).round().astype(np.int32)
    cv2.polylines(image, [fixed], False, colour, thickness, cv2.LINE_AA, SHIFT)


def _text(image: Image, text: str, x: float, y: float, colour: Colour, size: int = TEXT) -> None:
    """Writes a text; (x, y) is the left end of its base line."""
    cv2.putText(image, text, (round(x), round(y)), colour, cv2.FontFace("sans"), size)


def _width(text: str, size: int = TEXT) -> int:
    _, _, width, _ = cv2.getTextSize((1 << 14, 1 << 14), text, (0, 0), cv2.FontFace("sans"), size)
    return width


def _cut(text: str, width: int, size: int = TEXT) -> str:
    """Returns as much of a text as has room."""
    if _width(text, size) <= width:
        return text
    while text and _width(text + "...", size) > width:
        text = text[:-1]
    return text + "..."


def _upright(text: str, size: int) -> Image:
    """Returns a text that reads from below to above."""
    line = np.full((round(1.4 * size), _width(text, size) + 4, 3), 255, np.uint8)
    _text(line, text, 0, round(1.1 * size), INK, size)
    return cv2.rotate(line, cv2.ROTATE_90_COUNTERCLOCKWISE).astype(np.uint8)
