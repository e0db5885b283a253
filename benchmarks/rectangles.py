"""A data set that is made in a moment: bright rectangles of two colours, one in each image."""

import pathlib

import cv2
import numpy as np

WIDTH, HEIGHT = 64, 48  # of an image, pixels
ACROSS, DOWN = 30, 24  # of a rectangle, pixels
CHANNELS = {"red": 2, "green": 1}  # which one of blue, green and red is bright


def write_rectangles(folder: pathlib.Path, *, train: int, val: int) -> pathlib.Path:
    """Writes images and their labels, always the same for the same numbers.

    Args:
      folder: to write to; made if it is missing.
      train: how many images to learn from.
      val: how many to evaluate on.

    Returns:
      The data.yaml.

    Raises:
      FileExistsError: the folder has images already.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            label = number % len(CHANNELS)
            image = rng.integers(0, 80, (HEIGHT, WIDTH, 3), np.uint8)
            left, top = int(rng.integers(0, WIDTH - ACROSS)), int(rng.integers(0, HEIGHT - DOWN))
            bright = list(CHANNELS.values())[label]
            image[top : top + DOWN, left : left + ACROSS, bright] = 255
            cv2.imwrite(str(images / f"{number}.png"), image)
            centre = (left + ACROSS / 2) / WIDTH, (top + DOWN / 2) / HEIGHT
            row = (label, *centre, ACROSS / WIDTH, DOWN / HEIGHT)
            (labels / f"{number}.txt").write_text(" ".join(map(str, row)) + "\n")
    path = folder / "data.yaml"
    names = ", ".join(CHANNELS)
    path.write_text(f"train: images/train\nval: images/val\nnames: [{names}]\n")
    return path
