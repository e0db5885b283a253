"""Draws what surrounds the objects of the demo data set: backgrounds, clutter and light."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from yolov7_jax.demo_data.sprites import fill, random_colour


def draw_background(
    width: int, height: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws a ground without objects: hills under a sky, tiles or planks, or blobs of light.

    Args:
      width: in pixels.
      height: in pixels.
      rng: decides everything about it.
    """
    colour = np.asarray(random_colour(rng, (0.05, 0.5), (0.3, 1.0)), np.float32)
    fade = np.linspace(1, rng.uniform(0.6, 1.3), height, dtype=np.float32)
    image = np.tile((fade[:, None] * colour)[:, None], (1, width, 1))
    paint = (_draw_hills, _draw_tiles, _draw_lights)[rng.integers(3)]
    paint(image, rng)
    return np.clip(image + _texture(width, height, rng)[..., None], 0, 255).astype(np.uint8)


def _draw_hills(image: Float32[np.ndarray, "h w 3"], rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    x = np.linspace(0, width, 24)
    for y in height * np.sort(rng.uniform(0.3, 1.0, int(rng.integers(1, 4)))):
        waves = np.sin(x / width * rng.uniform(3, 9) + rng.uniform(0, 6))
        ridge = np.stack([x, y + height * rng.uniform(0.02, 0.12) * waves], 1)
        outline = np.concatenate([ridge, ((width, height), (0, height))])
        fill(image, outline, random_colour(rng, (0.15, 0.6), (0.25, 0.8)))


def _draw_tiles(image: Float32[np.ndarray, "h w 3"], rng: np.random.Generator) -> None:
    """Tiles of like colours, or planks where they are as long as the image."""
    height, width = image.shape[:2]
    step_x, step_y = rng.integers(16, 56, 2) * rng.choice(((1, 1), (1, 9), (9, 1)))
    rows, columns = np.arange(height) // step_y, np.arange(width) // step_x
    factors = rng.uniform(0.7, 1.3, (rows[-1] + 1, columns[-1] + 1)).astype(np.float32)
    image *= factors[rows[:, None], columns, None]
    image[step_y::step_y] *= 0.5
    image[:, step_x::step_x] *= 0.5


def _draw_lights(image: Float32[np.ndarray, "h w 3"], rng: np.random.Generator) -> None:
    for x, y in rng.uniform((0, 0), image.shape[1::-1], (14, 2)).astype(int).tolist():
        disc = np.zeros_like(image)
        cv2.circle(disc, (x, y), int(rng.integers(6, 26)), random_colour(rng), -1, cv2.LINE_AA)
        image += disc * np.float32(rng.uniform(0.15, 0.45))


def _texture(width: int, height: int, rng: np.random.Generator) -> Float32[np.ndarray, "h w"]:
    """Returns smooth noise about 0, each octave twice as fine and half as strong."""
    total = np.zeros((height, width), np.float32)
    for octave in range(4):
        coarse = rng.normal(0, 0.5**octave, (3 * 2**octave,) * 2).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return total * np.float32(rng.uniform(4, 26))


def add_clutter(image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> None:
    """Draws up to six shapes, in place, that resemble parts of objects but are none."""
    height, width = image.shape[:2]
    for _ in range(rng.integers(7)):
        centre = rng.uniform((0, 0), (width, height))
        size = np.exp(rng.uniform(np.log(6), np.log(40)))
        colour = random_colour(rng, (0.0, 0.9), (0.15, 1.0))
        kind = rng.integers(3)
        if kind == 0:  # a triangle, an oval or what is between
            corners = int(rng.integers(3, 12))
            angles = np.arange(corners) * 2 * np.pi / corners + rng.uniform(0, 2 * np.pi)
            ring = np.stack([np.cos(angles), np.sin(angles)], 1) * size * rng.uniform(0.4, 1, 2)
            fill(image, centre + ring, colour)
        elif kind == 1:
            steps = rng.normal(0, size / 2, (int(rng.integers(3, 7)), 2)).cumsum(0)
            points = np.round(centre + steps).astype(np.int32)[:, None]
            cv2.polylines(image, [points], False, colour, int(rng.integers(1, 4)), cv2.LINE_AA)
        else:
            letter, place = chr(int(rng.integers(65, 91))), (int(centre[0]), int(centre[1]))
            cv2.putText(image, letter, place, cv2.FONT_HERSHEY_SIMPLEX, size / 30, colour, 2)


def relight(
    image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Changes light, colour cast and focus of a whole image, and adds the camera's noise."""
    height, width = image.shape[:2]
    across, down = rng.uniform(-0.2, 0.2, 2)
    light = 1 + across * np.linspace(-1, 1, width) + down * np.linspace(-1, 1, height)[:, None]
    gain = rng.uniform(0.7, 1.12) * rng.uniform(0.9, 1.1, 3)
    lit = (image * light[..., None] * gain + rng.uniform(-10, 14)).astype(np.float32)
    if rng.random() < 0.2:
        lit = cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.4, 0.9))
    lit += rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(1, 5))
    return np.clip(lit, 0, 255).astype(np.uint8)
