"""Padded targets from ragged lists of objects."""

import jax.numpy as jnp
import numpy as np

from yolov7_jax.types import Targets


def pad_targets(rows: np.ndarray, batch_size: int, max_objects: int) -> Targets:
    """Sorts objects into their images and pads every image to the same number.

    Args:
      rows: `[n, 6]`: image, class, cx, cy, w, h; boxes normalised by the network's input. Objects
        keep their order.
      batch_size: number of images; some may have no row.
      max_objects: number of objects after padding.

    Returns:
      `Targets` of numpy arrays, float32, int32 and bool.

    Raises:
      ValueError: an image has more objects than `max_objects`, or a row is not of this form.
    """
    rows = np.asarray(rows)
    if rows.size == 0:
        rows = rows.reshape(0, 6)
    if rows.ndim != 2 or rows.shape[1] != 6:
        raise ValueError(f"rows have shape {rows.shape}; [n, 6] was wanted")
    if batch_size < 1 or max_objects < 0:
        raise ValueError(
            f"batch_size (={batch_size}) must be at least 1 and max_objects (={max_objects}) "
            "at least 0"
        )
    if not np.isfinite(rows).all():
        first = np.flatnonzero(~np.isfinite(rows).all(axis=1))[0]
        raise ValueError(f"row {first} (={rows[first]}) has a value that is not finite")
    image, label = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
    wrong = (rows[:, 0] != image) | (image < 0) | (image >= batch_size)
    if wrong.any():
        first = np.flatnonzero(wrong)[0]
        raise ValueError(
            f"row {first} has image {rows[first, 0]:g}; "
            f"an integer from 0 to {batch_size - 1} was wanted"
        )
    wrong = (rows[:, 1] != label) | (label < 0) | (label > np.iinfo(np.int32).max)
    if wrong.any():
        first = np.flatnonzero(wrong)[0]
        raise ValueError(
            f"row {first} has class {rows[first, 1]:g}; an integer of at least 0 was wanted"
        )
    if (rows[:, 4:] < 0).any():
        first = np.flatnonzero((rows[:, 4:] < 0).any(axis=1))[0]
        raise ValueError(
            f"row {first} has width {rows[first, 4]:g} and height {rows[first, 5]:g}; "
            "they must be at least 0"
        )
    counts = np.bincount(image, minlength=batch_size)
    if counts.max() > max_objects:
        raise ValueError(
            f"image {counts.argmax()} has {counts.max()} objects, more than "
            f"max_objects (={max_objects})"
        )

    order = np.argsort(image, kind="stable")
    starts = np.cumsum(counts) - counts
    place = np.arange(len(rows)) - starts[image[order]]
    boxes = np.zeros((batch_size, max_objects, 4), np.float32)
    labels = np.zeros((batch_size, max_objects), np.int32)
    valid = np.zeros((batch_size, max_objects), bool)
    boxes[image[order], place] = rows[order, 2:]
    labels[image[order], place] = label[order]
    valid[image[order], place] = True
    return Targets(boxes, labels, valid)


def with_a_row(targets: Targets) -> Targets:
    """Returns targets padded to at least one object, since nothing can be gathered from none."""
    if targets.valid.shape[1]:
        return targets
    return Targets(
        *(jnp.pad(field, [(0, 0), (0, 1)] + [(0, 0)] * (field.ndim - 2)) for field in targets)
    )
