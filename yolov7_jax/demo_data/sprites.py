"""Draws the objects of the demo data set: fish, cars, mushrooms, boats and houses.

Every class is told by its parts and their arrangement. Colours, patterns, proportions and light
are random within each class, so none of them gives it away.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

Points = Float64[np.ndarray, "corners 2"] | Sequence[tuple[float, float]]
Rgb = tuple[int, int, int]

_SUBPIXEL_BITS = 4  # OpenCV draws at 1/16 pixel, which keeps small objects smooth
_WARP = 0.07  # standard deviation of each coefficient of an object's random deformation


class Sprite(NamedTuple):
    """One drawn object.

    Attributes:
      image: 8-bit RGB.
      alpha: how much of each pixel it covers, in [0, 1].
    """

    image: UInt8[np.ndarray, "h w 3"]
    alpha: Float32[np.ndarray, "h w"]


class Part(NamedTuple):
    """A polygon of an object.

    Attributes:
      paint: parts with the same name have the same random colour; or that colour itself.
      points: corners, in coordinates from -1 to 1 with y downwards.
      shade: makes the colour darker (< 1) or lighter.
      pattern: what may be drawn over it.
      probability: of being there at all.
    """

    paint: str | Rgb
    points: Points
    shade: float = 1.0
    pattern: Literal["none", "any", "dots"] = "none"
    probability: float = 1.0


def random_colour(rng: np.random.Generator, saturation=(0.1, 0.95), value=(0.45, 1.0)) -> Rgb:
    """Returns an RGB colour of any hue."""
    hue, s, v = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    weights = np.clip(np.abs((hue + np.asarray((0, 4, 2))) % 6 - 3) - 1, 0, 1)
    red, green, blue = (255 * v * (1 - s + s * weights)).astype(int).tolist()
    return red, green, blue


def shade(colour: Rgb, factor: float) -> Rgb:
    """Returns a darker (factor < 1) or lighter colour."""
    red, green, blue = (min(255, max(0, round(part * factor))) for part in colour)
    return red, green, blue


def fill(layer: np.ndarray, points: Points, colour: Rgb | int) -> None:
    """Fills a polygon, given in pixels, in place and with smooth edges."""
    corners = np.round(np.asarray(points) * (1 << _SUBPIXEL_BITS)).astype(np.int32)[:, None]
    cv2.fillPoly(layer, [corners], colour, cv2.LINE_AA, _SUBPIXEL_BITS)  # type: ignore[arg-type]


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return np.asarray(((x0, y0), (x1, y0), (x1, y1), (x0, y1)))


def _ellipse(x: float, y: float, rx: float, ry: float, start: float = 0) -> Points:
    """Returns corners from an angle in degrees, clockwise to 360; 180 gives the upper half."""
    angles = np.radians(np.linspace(start, 360, 24))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1)


_BLACK, _WHITE = (25, 25, 30), (240, 240, 235)
PARTS: dict[str, tuple[Part, ...]] = {
    "fish": (
        Part("fin", ((-0.45, 0), (-0.95, -0.38), (-0.7, 0), (-0.95, 0.38))),
        Part("fin", ((-0.35, -0.25), (-0.2, -0.58), (0.35, -0.28))),
        Part("fin", ((-0.15, 0.28), (-0.25, 0.5), (0.2, 0.28))),
        Part("body", _ellipse(0.12, 0, 0.7, 0.36), pattern="any"),
        Part("body", ((0.44, -0.22), (0.34, 0), (0.44, 0.22), (0.38, 0)), 0.6),
        Part("fin", ((0.1, 0.02), (-0.15, 0.08), (-0.1, 0.22)), 0.85),
        Part(_WHITE, _ellipse(0.58, -0.09, 0.09, 0.09)),
        Part(_BLACK, _ellipse(0.6, -0.09, 0.05, 0.05)),
    ),
    "car": (
        Part("paint", ((-0.75, -0.05), (-0.55, -0.46), (0.2, -0.46), (0.5, -0.05))),
        Part("paint", ((-0.95, -0.06), (0.5, -0.08), (0.9, 0), (0.96, 0.25), (-0.95, 0.25))),
        Part("glass", ((-0.65, -0.08), (-0.5, -0.38), (-0.22, -0.38), (-0.22, -0.08))),
        Part("glass", ((-0.14, -0.08), (-0.14, -0.38), (0.16, -0.38), (0.38, -0.08))),
        Part("paint", _box(-0.93, 0.1, 0.93, 0.14), 0.7),
        Part((250, 240, 190), _ellipse(0.88, 0.07, 0.06, 0.05)),
        Part((200, 40, 40), _ellipse(-0.9, 0.05, 0.05, 0.05)),
        *(Part(_BLACK, _ellipse(x, 0.25, 0.22, 0.22)) for x in (-0.55, 0.55)),
        *(Part("hub", _ellipse(x, 0.25, 0.11, 0.11)) for x in (-0.55, 0.55)),
    ),
    "mushroom": (
        Part("stem", ((-0.19, 0), (0.19, 0), (0.28, 0.85), (-0.28, 0.85))),
        Part("stem", ((0.06, 0), (0.19, 0), (0.28, 0.85), (0.11, 0.85)), 0.8),
        Part("stem", _ellipse(0, 0, 0.8, 0.13), 0.65),
        Part("cap", _ellipse(0, 0, 0.8, 0.7, 180), pattern="dots"),
    ),
    "boat": (
        Part("mast", _box(-0.08, -0.92, -0.02, 0.45), 0.6),
        Part("sail", ((-0.09, -0.88), (-0.09, 0.34), (-0.82, 0.34)), pattern="any"),
        Part("jib", ((0, -0.65), (0, 0.34), (0.8, 0.34))),
        Part("hull", ((-0.9, 0.44), (0.95, 0.44), (0.62, 0.8), (-0.68, 0.8))),
        Part("mast", ((-0.8, 0.55), (0.8, 0.55), (0.76, 0.61), (-0.76, 0.61))),
        Part("flag", ((-0.05, -0.95), (0.2, -0.88), (-0.05, -0.8)), probability=0.5),
    ),
    "house": (
        Part("wall", _box(-0.37, -0.92, -0.17, -0.14), 0.55, probability=0.7),
        Part("wall", _box(-0.67, -0.14, 0.67, 0.75)),
        Part("roof", ((-0.8, -0.14), (-0.15, -0.78), (0.15, -0.78), (0.8, -0.14))),
        Part("roof", _box(-0.8, -0.16, 0.8, -0.11), 0.65),
        Part("door", _box(-0.13, 0.2, 0.13, 0.75), 0.7),
        *(Part("glass", _box(x - 0.13, 0, x + 0.13, 0.36)) for x in (-0.38, 0.38)),
        *(Part("wall", _box(x - 0.015, 0, x + 0.015, 0.36), 0.6) for x in (-0.38, 0.38)),
        *(Part("wall", _box(x - 0.13, 0.165, x + 0.13, 0.195), 0.6) for x in (-0.38, 0.38)),
    ),
}


def draw_sprite(name: str, size: float, rng: np.random.Generator) -> Sprite:
    """Draws one object of a class.

    Args:
      name: a key of `PARTS`.
      size: about how many pixels its longer side shall have.
      rng: decides its looks: colours, proportions, light, rotation and mirroring.

    Returns:
      The object, cut tightly.
    """
    zoom = size / 1.8 * np.exp(rng.uniform(-0.12, 0.12, 2)) * (rng.choice((-1, 1)), 1)
    angle = np.radians(np.clip(rng.normal(0, 10), -30, 30))
    turn = np.asarray(((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))
    warp = rng.normal(0, _WARP, (5, 2))
    side = int(np.ceil(2 * size)) + 4

    def to_pixels(points: Points) -> Points:
        x, y = np.asarray(points).T
        points = points + np.stack([x, y, x * y, x * x, y * y], 1) @ warp
        return points * zoom @ turn + side / 2

    image = np.full((side, side, 3), random_colour(rng), np.uint8)
    alpha = np.zeros((side, side), np.uint8)
    colours: dict[str | Rgb, Rgb] = {}
    for part in PARTS[name]:
        if rng.random() >= part.probability:
            continue
        paint = random_colour(rng) if isinstance(part.paint, str) else part.paint
        paint = colours.setdefault(part.paint, paint)
        points = to_pixels(part.points)
        fill(image, points, shade(paint, part.shade))
        fill(alpha, points, 255)
        pattern = _pattern(part.pattern, rng)
        if pattern:
            inside, painted, contrast = np.zeros_like(alpha), image.copy(), random_colour(rng)
            fill(inside, points, 255)
            for shape in pattern:
                fill(painted, to_pixels(shape), contrast)
            np.copyto(image, painted, where=inside[..., None] > 127)
    image = _light(image, alpha, rng)
    rows, columns = (np.flatnonzero((alpha > 127).any(axis)) for axis in (1, 0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Sprite(image[window], alpha[window] / np.float32(255))


def _pattern(kind: str, rng: np.random.Generator) -> list[Points]:
    """Returns the dots or stripes over a part, perhaps none."""
    if kind == "any":
        kind = ("none", "none", "dots", "stripes")[rng.integers(4)]
    if kind == "dots":
        centres = rng.uniform(-0.9, 0.9, (int(rng.integers(12, 30)), 2))
        return [_ellipse(x, y, radius := rng.uniform(0.05, 0.12), radius) for x, y in centres]
    if kind == "stripes":
        return [_box(x, -1, x + 0.12, 1) for x in np.arange(-1, 1, rng.uniform(0.22, 0.4))]
    return []


def _light(
    image: UInt8[np.ndarray, "s s 3"], alpha: UInt8[np.ndarray, "s s"], rng: np.random.Generator
) -> UInt8[np.ndarray, "s s 3"]:
    """Adds a gradient of light, an uneven surface and, half the time, a dark outline."""
    side = len(image)
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    across, down = rng.uniform(-0.3, 0.3, 2).astype(np.float32)
    grain = rng.normal(0, rng.uniform(0.02, 0.1), (16, 16)).astype(np.float32)
    light = 1 + across * axis[None] + down * axis[:, None]
    light += cv2.resize(grain, (side, side), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        kernel = np.ones((3, 3), np.uint8)
        edge = (alpha > 0) & (cv2.erode(alpha, kernel, iterations=max(1, side // 60)) < 128)
        light[edge] *= np.float32(rng.uniform(0.25, 0.6))
    return np.clip(image * light[..., None], 0, 255).astype(np.uint8)
