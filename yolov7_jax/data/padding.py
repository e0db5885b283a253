"""Objects of the images of a batch in arrays of few lengths."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32

from yolov7_jax.types import Targets

SMALLEST_PADDING = 8  # objects of an image; doubled until all have room


def stack_targets(
    boxes_xyxy: Sequence[Float32[np.ndarray, "_ 4"]],
    labels: Sequence[Int32[np.ndarray, " _"]],
    shape: tuple[int, int],
    usual: int,
) -> Targets:
    """Pads the objects of a batch to the first of 8, 16, 32, ... with room; none is dropped.

    A short ladder, because every length met is one more compilation of the training step.

    Args:
      boxes_xyxy: per image, in pixels of the network's input.
      labels: per image.
      shape: height and width of the network's input.
      usual: batches with fewer objects in an image are padded as if they had this many.
    """
    length = padded_length(max(usual, *(len(rows) for rows in labels)))
    side = np.asarray(shape[::-1], np.float32)
    boxes = np.zeros((len(labels), length, 4), np.float32)
    classes = np.zeros((len(labels), length), np.int32)
    valid = np.zeros((len(labels), length), bool)
    for image, (corners, of_image) in enumerate(zip(boxes_xyxy, labels, strict=True)):
        count = len(of_image)
        boxes[image, :count, :2] = (corners[:, :2] + corners[:, 2:]) / (2 * side)
        boxes[image, :count, 2:] = (corners[:, 2:] - corners[:, :2]) / side
        classes[image, :count] = of_image
        valid[image, :count] = True
    return Targets(boxes, classes, valid)


def padded_length(most: int) -> int:
    """Returns the first of 8, 16, 32, ... with room for a number of objects."""
    length = SMALLEST_PADDING
    while length < most:
        length *= 2
    return length
