"""Draws what surrounds the objects of the demo data set: backgrounds, clutter and light."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from yolov7_jax.demo_data.sprites import Rgb, random_colour, shade


def draw_background(
    width: int, height: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws a ground without objects: sky and land, planks, tiles, meadow, blobs of light, paper.

    Args:
      width: in pixels.
      height: in pixels.
      rng: decides everything about it.
    """
    painters = (_landscape, _planks, _tiles, _meadow, _lights, _plain)
    image = painters[rng.integers(len(painters))](width, height, rng)
    texture = cloud(width, height, rng, octaves=4) * rng.uniform(4, 26)
    return np.clip(image + texture[..., None], 0, 255).astype(np.uint8)


def cloud(
    width: int, height: int, rng: np.random.Generator, *, octaves: int
) -> Float32[np.ndarray, "height width"]:
    """Returns smooth noise about 0, each octave twice as fine and half as strong."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = 3 * 2**octave
        coarse = rng.normal(0, 0.5**octave, (cells, cells)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return total


def add_clutter(image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator, *, most: int) -> None:
    """Draws, in place, shapes that resemble parts of objects but are none.

    Args:
      image: what to draw on.
      rng: decides how many there are, and their looks.
      most: the largest number of shapes.
    """
    height, width = image.shape[:2]
    for _ in range(rng.integers(most + 1)):
        centre = rng.uniform((0, 0), (width, height))
        size = np.exp(rng.uniform(np.log(6), np.log(40)))
        colour = random_colour(rng, (0.0, 0.9), (0.15, 1.0))
        kind = rng.integers(5)
        if kind == 0:
            corners = int(rng.integers(3, 7))
            angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
            ring = np.stack([np.cos(angles), np.sin(angles)], 1)
            _fill(image, centre + ring * size * rng.uniform(0.5, 1, (corners, 1)), colour)
        elif kind == 1:
            axes = (max(2, int(size * rng.uniform(0.2, 0.7))), max(2, int(size * 0.5)))
            ends = (0, 360) if rng.random() < 0.6 else (0, int(rng.integers(90, 270)))
            thickness = -1 if rng.random() < 0.6 else int(rng.integers(1, 4))
            middle = (int(centre[0]), int(centre[1]))
            tilt = int(rng.integers(180))
            cv2.ellipse(image, middle, axes, tilt, *ends, colour, thickness, cv2.LINE_AA)
        elif kind == 2:
            steps = rng.normal(0, size / 2, (int(rng.integers(3, 7)), 2)).cumsum(0)
            points = np.round(centre + steps).astype(np.int32)[:, None]
            cv2.polylines(image, [points], False, colour, int(rng.integers(1, 4)), cv2.LINE_AA)
        elif kind == 3:
            angle = rng.uniform(0, np.pi)
            along = np.asarray((np.cos(angle), np.sin(angle))) * size
            across = np.asarray((-along[1], along[0])) * rng.uniform(0.15, 0.8)
            ring = (along + across, along - across, -along - across, across - along)
            _fill(image, centre + np.stack(ring) * 0.6, colour)
        else:
            letter = chr(int(rng.integers(ord("A"), ord("Z") + 1)))
            place = (int(centre[0]), int(centre[1]))
            cv2.putText(image, letter, place, cv2.FONT_HERSHEY_SIMPLEX, size / 30, colour, 2)


def relight(
    image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Changes light, colour cast and focus of a whole image, and adds the camera's noise."""
    height, width = image.shape[:2]
    gain = rng.uniform(0.7, 1.12) * rng.uniform(0.9, 1.1, 3)
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    across = np.linspace(-1, 1, width)[None] * np.cos(angle)
    down = np.linspace(-1, 1, height)[:, None] * np.sin(angle)
    light = ((1 + slope * (across + down))[..., None] * gain).astype(np.float32)
    lit = image * light + np.float32(rng.uniform(-10, 14))
    if rng.random() < 0.2:
        lit = cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.4, 0.9))
    lit += rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(1, 5))
    return np.clip(lit, 0, 255).astype(np.uint8)


def _fill(image: np.ndarray, points: np.ndarray, colour: Rgb) -> None:
    cv2.fillPoly(image, [np.round(points).astype(np.int32)[:, None]], colour, cv2.LINE_AA)


def _gradient(width: int, height: int, top: Rgb, bottom: Rgb) -> Float32[np.ndarray, "h w 3"]:
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    column = np.asarray(top, np.float32) * (1 - ramp) + np.asarray(bottom, np.float32) * ramp
    return np.repeat(column, width, 1)


def _landscape(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    sky = random_colour(rng, (0.1, 0.5), (0.6, 1.0))
    image = _gradient(width, height, sky, shade(sky, rng.uniform(0.9, 1.25)))
    horizon = height * rng.uniform(0.3, 0.7)
    for depth in range(int(rng.integers(1, 4))):
        phase, swing = rng.uniform(0, 6), height * rng.uniform(0.02, 0.12)
        x = np.linspace(0, width, 24)
        y = horizon + depth * height * 0.15 + swing * np.sin(x / width * rng.uniform(3, 9) + phase)
        outline = np.concatenate([np.stack([x, y], 1), ((width, height), (0, height))])
        _fill(image, outline, random_colour(rng, (0.15, 0.6), (0.25, 0.8)))
    return image


def _planks(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    wood = random_colour(rng, (0.15, 0.5), (0.35, 0.85))
    image = np.zeros((height, width, 3), np.float32)
    step = int(rng.integers(18, 48))
    for y in range(0, height, step):
        image[y : y + step] = shade(wood, rng.uniform(0.8, 1.2))
        image[y : y + 2] = shade(wood, 0.5)
        joint = int(rng.integers(width))
        image[y : y + step, joint : joint + 2] = shade(wood, 0.55)
    fibres = rng.normal(0, 9, (height, max(1, width // 32))).astype(np.float32)
    image += cv2.resize(fibres, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    return image if rng.random() < 0.5 else np.ascontiguousarray(_turned(image, width, height))


def _turned(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(image.transpose(1, 0, 2), (width, height))


def _tiles(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    pair = (random_colour(rng, (0.05, 0.5)), random_colour(rng, (0.05, 0.5)))
    colours = np.asarray(pair, np.float32)
    step = int(rng.integers(16, 56))
    rows, columns = np.arange(height) // step, np.arange(width) // step
    return colours[(rows[:, None] + columns[None]) % 2]


def _meadow(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    grass = random_colour(rng, (0.25, 0.7), (0.3, 0.7))
    image = _gradient(width, height, grass, shade(grass, rng.uniform(0.7, 1.3)))
    roots = rng.uniform((0, 0), (width, height), (220, 2))
    tips = roots + rng.normal((0, -7), (3, 3), (220, 2))
    factors = rng.uniform(0.6, 1.4, 220)
    for root, tip, factor in zip(roots.astype(int), tips.astype(int), factors, strict=True):
        cv2.line(image, root.tolist(), tip.tolist(), shade(grass, factor), 1, cv2.LINE_AA)
    return image


def _lights(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    image = _gradient(width, height, random_colour(rng, value=(0.1, 0.5)), random_colour(rng))
    glow = np.zeros_like(image)
    for x, y in rng.uniform((0, 0), (width, height), (14, 2)).astype(int).tolist():
        disc = np.zeros_like(image)
        cv2.circle(disc, (x, y), int(rng.integers(6, 26)), random_colour(rng), -1, cv2.LINE_AA)
        glow += disc * np.float32(rng.uniform(0.15, 0.45))
    return image + glow


def _plain(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    paper = random_colour(rng, (0.0, 0.4), (0.3, 1.0))
    return _gradient(width, height, paper, shade(paper, rng.uniform(0.6, 1.2)))
