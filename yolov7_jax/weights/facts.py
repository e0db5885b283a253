"""Checks what files of any format say about their model, besides its tensors."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from yolov7_jax.weights.contents import FormatError, quoted

# A hostile file could ask for any number of them.
MAX_CLASSES = 100_000
MAX_NAME_LENGTH = 1000  # of a class, in characters
MAX_ANCHOR_NUMBERS = 1000
MAX_ANCHOR_SIDE = 1e6  # in pixels
MAX_EPOCH = 2**31
MAX_IMAGE_SIZE = 2**16  # pixels

ANCHORS_WANTED = "wanted [levels][anchors][2] of pixels"


def class_names(value: Any) -> tuple[str, ...] | None:
    """Returns a file's class names, in the order of the labels, or None where it gives none.

    They may hold control characters, so whoever prints them has to escape them.

    Args:
      value: what the file gives for them, of any type.

    Raises:
      FormatError: it is no list of texts, or one of them is too long or no valid Unicode.
    """
    if not isinstance(value, list | tuple):
        raise FormatError(
            f"its class names are of type {type(value).__name__}; wanted a list of texts"
        )
    if len(value) > MAX_CLASSES:
        raise FormatError(f"has {len(value):,} class names; wanted at most {MAX_CLASSES:,}")
    for label, name in enumerate(value):
        if not isinstance(name, str):
            raise FormatError(
                f"the name of class {label} is of type {type(name).__name__}; wanted a text"
            )
        if len(name) > MAX_NAME_LENGTH:
            raise FormatError(
                f"the name of class {label} has {len(name):,} characters; "
                f"wanted at most {MAX_NAME_LENGTH:,}"
            )
        if not is_unicode(name):
            raise FormatError(f"the name of class {label}, {quoted(name)}, is no valid Unicode")
    return tuple(value) or None


def is_unicode(text: str) -> bool:
    """Says whether a text can be written; half a surrogate pair can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def anchors_from_lists(value: Any) -> np.ndarray:
    """Returns the anchors that a file gives as lists of numbers.

    Args:
      value: what the file gives for them, of any type.

    Returns:
      `[levels, anchors, 2]` float32, widths and heights in input pixels.

    Raises:
      FormatError: they have another form, or are not positive.
    """

    def is_side(side: Any) -> bool:
        return type(side) in (int, float) and 0 < side < MAX_ANCHOR_SIDE

    def is_anchor(anchor: Any) -> bool:
        return _is_list_of(is_side, anchor) and len(anchor) == 2

    def is_level(level: Any) -> bool:
        return _is_list_of(is_anchor, level)

    if not _is_list_of(is_level, value) or len({len(level) for level in value}) != 1:
        raise FormatError(f"its anchors have another form; {ANCHORS_WANTED}")
    anchors = np.array(value, np.float32)
    if anchors.size > MAX_ANCHOR_NUMBERS:
        raise FormatError(f"has {anchors.size:,} sides of anchors; wanted fewer")
    return anchors


def _is_list_of(is_item: Callable[[Any], bool], value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and 0 < len(value) <= MAX_ANCHOR_NUMBERS
        and all(is_item(item) for item in value)
    )


def anchors_in_pixels(
    tensors: Mapping[str, np.ndarray], strides: np.ndarray | None
) -> np.ndarray | None:
    """Finds the head's anchors among its tensors.

    Args:
      tensors: official key -> array.
      strides: `[levels]`, input pixels per cell, for heads that hold anchors in cells only.

    Returns:
      `[levels, anchors, 2]` float32 in input pixels, or None where the tensors don't tell.
    """
    for key, grid in tensors.items():
        if _is_named(key, "anchor_grid") and _could_be_anchors(grid):
            return np.array(grid, np.float32).reshape(grid.shape[0], -1, 2)
    for key, cells in tensors.items():
        if not _is_named(key, "anchors") or not _could_be_anchors(cells):
            continue
        if strides is not None and strides.shape == cells.shape[:1]:
            per_level = np.array(strides, np.float32)[:, None, None]
            return np.array(cells, np.float32).reshape(cells.shape[0], -1, 2) * per_level
    return None


def _is_named(key: str, name: str) -> bool:
    return key == name or key.endswith(f".{name}")


def _could_be_anchors(array: np.ndarray) -> bool:
    return array.ndim >= 3 and array.shape[-1] == 2 and 0 < array.size <= MAX_ANCHOR_NUMBERS
