"""Draws the objects of the demo data set: fish, cars, mushrooms, boats and houses.

Every class is told by its parts and their arrangement. Colours, patterns, proportions and light
are random within each class, so none of them gives it away.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

Rgb = tuple[int, int, int]

_SUBPIXEL_BITS = 4  # OpenCV draws at 1/16 pixel, which keeps small objects smooth


class Sprite(NamedTuple):
    """One drawn object.

    Attributes:
      image: 8-bit RGB.
      alpha: how much of each pixel it covers, in [0, 1].
    """

    image: UInt8[np.ndarray, "h w 3"]
    alpha: Float32[np.ndarray, "h w"]


class Canvas:
    """A square to draw on, in coordinates from -1 to 1 with y downwards."""

    def __init__(self, side: int, ground: Rgb):
        self.side = side
        self.image = np.full((side, side, 3), ground, np.uint8)
        self.alpha = np.zeros((side, side), np.uint8)

    def _pixels(self, values) -> np.ndarray:
        half = self.side / 2
        scaled = (np.asarray(values, np.float64) + 1) * half * (1 << _SUBPIXEL_BITS)
        return np.round(scaled).astype(np.int32)

    def polygon(self, points, colour: Rgb) -> None:
        """Fills a polygon."""
        corners = self._pixels(points)[:, None]
        for layer, value in ((self.image, colour), (self.alpha, 255)):
            cv2.fillPoly(layer, [corners], value, cv2.LINE_AA, _SUBPIXEL_BITS)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Rgb, *, arc=(0, 360)
    ) -> None:
        """Fills an ellipse, or the segment of it between two angles in degrees, clockwise."""
        angles = np.radians(np.linspace(arc[0], arc[1], 40))
        self.polygon(np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1), colour)

    def line(self, points, colour: Rgb, width: float) -> None:
        """Draws a line of a width in the canvas' own units."""
        corners = self._pixels(points)[:, None]
        thickness = max(1, round(width * self.side / 2))
        for layer, value in ((self.image, colour), (self.alpha, 255)):
            cv2.polylines(layer, [corners], False, value, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)


def random_colour(rng: np.random.Generator, saturation=(0.35, 0.95), value=(0.45, 1.0)) -> Rgb:
    """Returns an RGB colour of any hue."""
    hue, s, v = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    weights = np.clip(np.abs((hue + np.asarray((0, 4, 2))) % 6 - 3) - 1, 0, 1)
    red, green, blue = (255 * v * (1 - s + s * weights)).astype(int).tolist()
    return red, green, blue


def shade(colour: Rgb, factor: float) -> Rgb:
    """Returns a darker (factor < 1) or lighter colour."""
    red, green, blue = (min(255, max(0, round(part * factor))) for part in colour)
    return red, green, blue


def _pattern(canvas: Canvas, rng: np.random.Generator, colour: Rgb) -> None:
    """Stripes, dots or nothing over all of the canvas."""
    kind = rng.integers(4)
    if kind == 0:
        tilt = rng.uniform(-0.4, 0.4)
        for x in np.arange(-1.2, 1.2, rng.uniform(0.2, 0.4)):
            canvas.line(((x - tilt, -1), (x + tilt, 1)), colour, rng.uniform(0.05, 0.12))
    elif kind == 1:
        for x, y in rng.uniform(-0.9, 0.9, (int(rng.integers(10, 25)), 2)):
            radius = rng.uniform(0.04, 0.09)
            canvas.ellipse(x, y, radius, radius, colour)
    elif kind == 2:
        y = rng.uniform(-0.1, 0.2)
        canvas.polygon(((-1, y), (1, y - 0.05), (1, 1), (-1, 1)), colour)


def draw_fish(canvas: Canvas, rng: np.random.Generator) -> None:
    """An oval body with a tail, two fins and an eye."""
    body, fin = random_colour(rng), random_colour(rng)
    height = rng.uniform(0.26, 0.46)
    tail = rng.uniform(0.28, 0.48)
    notch = rng.uniform(-0.75, -0.62)
    canvas.polygon(((-0.45, 0), (-0.95, -tail), (notch, 0), (-0.95, tail)), fin)
    back = rng.uniform(0.15, 0.3)
    canvas.polygon(((-0.35, -0.7 * height), (-0.2, -height - back), (0.35, -0.8 * height)), fin)
    canvas.polygon(((-0.15, 0.8 * height), (-0.25, height + 0.6 * back), (0.2, 0.8 * height)), fin)

    def flank(layer: Canvas) -> None:
        layer.ellipse(0.12, 0, 0.7, height, body)

    flank(canvas)
    _within(canvas, flank, lambda: _pattern(canvas, rng, random_colour(rng)))
    canvas.line(((0.42, -0.6 * height), (0.34, 0), (0.42, 0.6 * height)), shade(body, 0.6), 0.04)
    canvas.polygon(((0.1, 0.02), (-0.15, 0.2 * height), (-0.1, 0.6 * height)), shade(fin, 0.85))
    canvas.ellipse(0.58, -0.25 * height, 0.09, 0.09, (245, 245, 240))
    canvas.ellipse(0.6, -0.25 * height, 0.05, 0.05, (20, 20, 25))


def draw_car(canvas: Canvas, rng: np.random.Generator) -> None:
    """A body with a cabin, windows, lamps and two wheels."""
    paint = random_colour(rng)
    glass = shade(random_colour(rng, (0.05, 0.3), (0.6, 0.95)), rng.choice((0.35, 1.0)))
    roof, floor = rng.uniform(-0.55, -0.38), 0.25
    rear, front = rng.uniform(-0.85, -0.5), rng.uniform(0.15, 0.4)
    belt = rng.uniform(-0.12, -0.02)
    canvas.polygon(
        ((rear - 0.08, belt), (rear + 0.12, roof), (front - 0.1, roof), (front + 0.2, belt)),
        paint,
    )
    bonnet = belt + rng.uniform(0.0, 0.1)
    canvas.polygon(
        (
            (-0.95, belt + 0.04),
            (-0.88, belt),
            (front + 0.2, belt),
            (0.86, bonnet + 0.04),
            (0.96, bonnet + 0.14),
            (0.95, floor),
            (-0.95, floor),
        ),
        paint,
    )
    middle = rng.uniform(0.35, 0.6) * (front - rear) + rear
    sill, top = belt - 0.02, roof + 0.07
    canvas.polygon(
        ((rear + 0.03, sill), (rear + 0.16, top), (middle - 0.03, top), (middle - 0.03, sill)),
        glass,
    )
    canvas.polygon(
        ((middle + 0.03, sill), (middle + 0.03, top), (front - 0.12, top), (front + 0.11, sill)),
        glass,
    )
    canvas.line(((-0.93, 0.12), (0.93, 0.12)), shade(paint, 0.7), 0.04)
    canvas.ellipse(0.88, bonnet + 0.14, 0.06, 0.05, (250, 240, 190))
    canvas.ellipse(-0.9, belt + 0.12, 0.05, 0.05, (200, 40, 40))
    radius = rng.uniform(0.19, 0.25)
    hub = shade((210, 210, 215), rng.uniform(0.6, 1.0))
    for x in (rng.uniform(-0.6, -0.5), rng.uniform(0.5, 0.6)):
        canvas.ellipse(x, floor, radius, radius, (28, 28, 32))
        canvas.ellipse(x, floor, 0.5 * radius, 0.5 * radius, hub)


def draw_mushroom(canvas: Canvas, rng: np.random.Generator) -> None:
    """A domed cap, spotted as a rule, on a stem."""
    cap = random_colour(rng)
    stem = random_colour(rng, (0.02, 0.3), (0.6, 0.95))
    width, height = rng.uniform(0.65, 0.92), rng.uniform(0.55, 0.85)
    brim = rng.uniform(-0.1, 0.15)
    top, foot = rng.uniform(0.14, 0.24), rng.uniform(0.2, 0.36)
    end = rng.uniform(0.75, 0.92)
    canvas.polygon(((-top, brim), (top, brim), (foot, end), (-foot, end)), stem)
    canvas.ellipse(0, end, foot, 0.08, stem)
    canvas.polygon(
        ((0.3 * top, brim), (top, brim), (foot, end), (0.4 * foot, end)), shade(stem, 0.8)
    )
    canvas.ellipse(0, brim, width, 0.13, shade(stem, 0.65))

    def dome(layer: Canvas) -> None:
        layer.ellipse(0, brim, width, height, cap, arc=(180, 360))

    def spots() -> None:
        spot = random_colour(rng, (0.0, 0.25), (0.8, 1.0))
        for x in np.linspace(-0.8, 0.8, int(rng.integers(4, 7))) * width:
            radius = rng.uniform(0.06, 0.15)
            canvas.ellipse(x, brim - rng.uniform(0.1, 0.75) * height, radius, 0.8 * radius, spot)

    dome(canvas)
    if rng.random() < 0.8:
        _within(canvas, dome, spots)


def draw_boat(canvas: Canvas, rng: np.random.Generator) -> None:
    """A hull with a mast, a main sail and a smaller one before it."""
    hull, sail = random_colour(rng), random_colour(rng, (0.0, 0.7), (0.7, 1.0))
    jib = sail if rng.random() < 0.5 else random_colour(rng, (0.0, 0.7), (0.7, 1.0))
    deck, keel = rng.uniform(0.38, 0.5), rng.uniform(0.72, 0.88)
    mast = rng.uniform(-0.2, 0.1)
    wood = shade((120, 85, 50), rng.uniform(0.6, 1.3))
    canvas.line(((mast, deck), (mast, -0.92)), wood, 0.06)
    boom = deck - rng.uniform(0.06, 0.16)

    def main_sail(layer: Canvas) -> None:
        layer.polygon(((mast - 0.04, -0.88), (mast - 0.04, boom), (-0.82, boom)), sail)

    main_sail(canvas)
    if rng.random() < 0.5:
        _within(canvas, main_sail, lambda: _pattern(canvas, rng, random_colour(rng)))
    head = rng.uniform(-0.8, -0.5)
    canvas.polygon(((mast + 0.05, head), (mast + 0.05, boom), (0.8, boom)), jib)
    canvas.polygon(((-0.9, deck), (0.95, deck), (0.62, keel), (-0.68, keel)), hull)
    stripe = deck + 0.35 * (keel - deck)
    canvas.line(((-0.8, stripe), (0.8, stripe)), random_colour(rng, (0.0, 0.5)), 0.06)
    if rng.random() < 0.5:
        canvas.polygon(((mast, -0.95), (mast + 0.25, -0.88), (mast, -0.8)), random_colour(rng))


def draw_house(canvas: Canvas, rng: np.random.Generator) -> None:
    """Walls under a pitched roof, with a door, windows and a chimney as a rule."""
    wall = random_colour(rng, (0.05, 0.6), (0.6, 1.0))
    roof, door = random_colour(rng), random_colour(rng, value=(0.3, 0.7))
    half = rng.uniform(0.55, 0.78)
    eaves, base = rng.uniform(-0.25, -0.02), rng.uniform(0.65, 0.85)
    ridge = rng.uniform(-0.9, -0.65)
    flat = rng.choice((0.0, rng.uniform(0.2, 0.5)))
    if rng.random() < 0.7:
        x = rng.choice((-0.4, 0.4)) * half
        canvas.polygon(
            ((x - 0.1, -0.92), (x + 0.1, -0.92), (x + 0.1, eaves), (x - 0.1, eaves)),
            shade(wall, 0.55),
        )
    canvas.polygon(((-half, eaves), (half, eaves), (half, base), (-half, base)), wall)
    overhang = half + rng.uniform(0.08, 0.18)
    canvas.polygon(((-overhang, eaves), (-flat, ridge), (flat, ridge), (overhang, eaves)), roof)
    canvas.line(((-overhang, eaves), (overhang, eaves)), shade(roof, 0.65), 0.05)
    place = rng.choice((-0.5, 0.0, 0.5)) * half
    sill = eaves + 0.35 * (base - eaves)
    canvas.polygon(
        ((place - 0.13, sill), (place + 0.13, sill), (place + 0.13, base), (place - 0.13, base)),
        door,
    )
    glass = shade(random_colour(rng, (0.1, 0.5), (0.7, 1.0)), rng.choice((0.5, 1.0)))
    for x in (-0.55 * half, 0.0, 0.55 * half):
        if abs(x - place) < 0.25:
            continue
        top, bottom = eaves + 0.12, eaves + 0.12 + 0.4 * (base - eaves)
        canvas.polygon(
            ((x - 0.13, top), (x + 0.13, top), (x + 0.13, bottom), (x - 0.13, bottom)), glass
        )
        canvas.line(((x, top), (x, bottom)), shade(wall, 0.6), 0.03)
        canvas.line(
            ((x - 0.13, (top + bottom) / 2), (x + 0.13, (top + bottom) / 2)), shade(wall, 0.6), 0.03
        )


DRAWERS: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    "fish": draw_fish,
    "car": draw_car,
    "mushroom": draw_mushroom,
    "boat": draw_boat,
    "house": draw_house,
}


def _within(canvas: Canvas, outline: Callable[[Canvas], None], paint: Callable[[], None]) -> None:
    """Runs `paint`, and undoes what it did outside `outline`."""
    mask = Canvas(canvas.side, (0, 0, 0))
    outline(mask)
    image, alpha = canvas.image.copy(), canvas.alpha.copy()
    paint()
    weight = (mask.alpha / np.float32(255))[..., None]
    canvas.image[:] = np.round(weight * canvas.image + (1 - weight) * image).astype(np.uint8)
    canvas.alpha[:] = alpha


def draw_sprite(name: str, size: float, rng: np.random.Generator) -> Sprite:
    """Draws one object of a class.

    Args:
      name: a key of `DRAWERS`.
      size: about how many pixels its longer side shall have.
      rng: decides its looks: colours, proportions, light, rotation and mirroring.

    Returns:
      The object, cut tightly.
    """
    side = max(48, round(2.2 * size))  # drawn at about twice the size, then averaged down
    canvas = Canvas(side, random_colour(rng))
    DRAWERS[name](canvas, rng)
    image = _light(canvas, rng)
    angle = np.radians(np.clip(rng.normal(0, 10), -30, 30))
    zoom = size / (0.9 * side) * np.exp(rng.uniform(-0.12, 0.12, 2))
    mirror = rng.choice((-1.0, 1.0))
    turn = np.asarray(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
    matrix = np.zeros((2, 3))
    matrix[:, :2] = turn @ np.diag(zoom * (mirror, 1.0))
    out = int(np.ceil(1.8 * size)) + 4
    matrix[:, 2] = out / 2 - matrix[:, :2] @ (side / 2, side / 2)
    image = cv2.warpAffine(image, matrix, (out, out), borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(canvas.alpha, matrix, (out, out)) / np.float32(255)
    rows = np.flatnonzero((alpha > 0.5).any(1))
    columns = np.flatnonzero((alpha > 0.5).any(0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Sprite(np.asarray(image[window], np.uint8), alpha[window])


def _light(canvas: Canvas, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Adds a gradient of light, an uneven surface and, half the time, a dark outline."""
    axis = np.linspace(-1, 1, canvas.side, dtype=np.float32)
    direction, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.4)
    light = 1 + strength * (
        axis[None] * np.float32(np.cos(direction)) + axis[:, None] * np.float32(np.sin(direction))
    )
    grain = rng.normal(0, rng.uniform(0.02, 0.1), (16, 16)).astype(np.float32)
    light += cv2.resize(grain, (canvas.side, canvas.side), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        width = max(1, round(0.03 * canvas.side))
        kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
        edge = (canvas.alpha > 0) & (cv2.erode(canvas.alpha, kernel) < 128)
        light[edge] *= np.float32(rng.uniform(0.25, 0.6))
    return np.clip(canvas.image * light[..., None], 0, 255).astype(np.uint8)
