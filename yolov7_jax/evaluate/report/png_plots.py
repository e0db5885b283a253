"""Charts as images, for places that show no HTML."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from yolov7_jax.evaluate.report.svg_charts import UNIT, Line, ticks

Image = UInt8[np.ndarray, "h w 3"]

WIDTH, HEIGHT = 900, 600
LEFT, RIGHT, TOP, BOTTOM = 70, 250, 50, 60  # margins; the legend is at the right
INK, FAINT, RULE = (28, 36, 48), (92, 102, 117), (213, 218, 225)  # RGB, those of the page
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


def unit_plot(
    title: str, lines: Sequence[Line], *, x_name: str, y_name: str, mark: float | None = None
) -> Image:
    """Returns lines whose points lie in [0, 1] x [0, 1].

    Args:
      title: of the image.
      lines: as many as colours, or fewer; those without points are left out.
      x_name: what the horizontal axis is.
      y_name: what the other is.
      mark: where a line stands upright.
    """
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + x * (right - LEFT), bottom - y * (bottom - TOP)

    for value in ticks(*UNIT, 6):
        (x, y), label = place(value, value), f"{value:.1f}"
        _segment(image, [(x, TOP), (x, bottom)], RULE, 1)
        _segment(image, [(LEFT, y), (right, y)], RULE, 1)
        _text(image, label, x - _width(label) / 2, bottom + 22, FAINT)
        _text(image, label, LEFT - 8 - _width(label), y + 5, FAINT)
    if mark is not None:
        x, _ = place(mark, 0)
        _segment(image, [(x, TOP), (x, bottom)], FAINT, 2)
    drawn = [line for line in lines if line.points]
    for number, line in enumerate(drawn):
        colour = COLOURS[number % len(COLOURS)]
        _segment(image, [place(*point) for point in line.points], colour, 4 if line.bold else 2)
        y = TOP + 12 + 26 * number
        _segment(image, [(right + 16, y), (right + 40, y)], colour, 4 if line.bold else 2)
        _text(image, _cut(line.name, RIGHT - 60), right + 48, y + 5, INK)
    _text(image, _cut(title, WIDTH - LEFT - 20, TITLE), LEFT, 32, INK, TITLE)
    middle = (LEFT + right - _width(x_name)) / 2
    _text(image, x_name, middle, HEIGHT - 14, FAINT)
    upright = _upright(y_name)
    top = (TOP + bottom - len(upright)) // 2
    image[top : top + len(upright), 8 : 8 + upright.shape[1]] = upright
    return image


def matrix_plot(
    title: str,
    names: Sequence[str],
    matrix: Int64[np.ndarray, "c c"],
    *,
    row_name: str,
    column_name: str,
) -> Image:
    """Returns counts as cells coloured by their shares of a row, the diagonal otherwise.

    Args:
      title: of the image.
      names: of rows and columns alike.
      matrix: the counts; written into the cells where there are at most 20 rows.
      row_name: what rows are.
      column_name: what columns are.
    """
    count = len(names)
    numbered = count <= MOST_WITH_NUMBERS
    cell = CELL if numbered else SMALL_CELL
    size = TEXT if numbered else SMALL_CELL - 1
    shown = [_cut(name, NAME_WIDTH, size) for name in names]
    widest = max(_width(name, size) for name in shown) + 10
    left, top = 30 + widest, 76 + widest
    side = count * cell
    told = f"rows: {row_name}; columns: {column_name}"
    width = max(left + side + 24, 40 + _width(title, TITLE), 40 + _width(told))
    image = np.full((top + side + 16, width, 3), 255, np.uint8)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    for row in range(count):
        base = top + row * cell
        _text(image, shown[row], left - 6 - _width(shown[row], size), base + cell * 0.68, INK, size)
        upright = _upright(shown[row], size, INK)
        x = left + row * cell + (cell - upright.shape[1]) // 2
        image[top - 6 - len(upright) : top - 6, x : x + upright.shape[1]] = upright
        for column in range(count):
            corner = left + column * cell
            # The root makes the few per cent visible that matter most here.
            strength = 0.8 * math.sqrt(shares[row, column])
            colour = _blend(HIT if row == column else MISS, strength)
            image[base : base + cell, corner : corner + cell] = colour
            if numbered and matrix[row, column]:
                label = str(matrix[row, column])
                size_here = TEXT if len(label) < 5 else TEXT * 4 // len(label)
                x = corner + (cell - _width(label, size_here)) / 2
                _text(image, label, x, base + cell * 0.64, INK, size_here)
    for number in range(count + 1):
        at = number * cell
        _segment(image, [(left + at, top), (left + at, top + side)], RULE, 1)
        _segment(image, [(left, top + at), (left + side, top + at)], RULE, 1)
    _text(image, title, 12, 30, INK, TITLE)
    _text(image, told, 12, 54, FAINT)
    return image


def _segment(
    image: Image,
    points: Sequence[tuple[float, float]],
    colour: tuple[int, int, int],
    thickness: int,
) -> None:
    fixed = (np.asarray(points, np.float64) * (1 << SHIFT)).round().astype(np.int32)
    cv2.polylines(image, [fixed], False, colour, thickness, cv2.LINE_AA, SHIFT)


def _text(
    image: Image,
    text: str,
    x: float,
    y: float,
    colour: tuple[int, int, int],
    size: int = TEXT,
) -> None:
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


def _upright(text: str, size: int = TEXT, colour: tuple[int, int, int] = FAINT) -> Image:
    """Returns a text that reads from below to above."""
    line = np.full((round(1.4 * size), _width(text, size) + 4, 3), 255, np.uint8)
    _text(line, text, 0, round(1.1 * size), colour, size)
    return cv2.rotate(line, cv2.ROTATE_90_COUNTERCLOCKWISE).astype(np.uint8)


def _blend(colour: tuple[int, int, int], strength: float) -> list[int]:
    return [round(255 + strength * (value - 255)) for value in colour]
