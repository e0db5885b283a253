"""What a file says about its model beside the tensors: written here, and checked when read."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from yolov7_jax.model import ARCHITECTURES, MOST_WIDTH, Yolov7
from yolov7_jax.weights.checkpoint_contents import Checkpoint, FormatError, quoted
from yolov7_jax.weights.identify import ACTIVATIONS, activation_name

# A hostile file could ask for any number of them.
MAX_CLASSES = 100_000
MAX_NAME_LENGTH = 1000  # of a class, in characters
MAX_ANCHOR_NUMBERS = 1000
MAX_ANCHOR_SIDE = 1e6  # in pixels
MAX_EPOCH = 2**31
MAX_IMAGE_SIZE = 2**16  # pixels


def describe_model(
    model: Yolov7,
    names: Sequence[str] | None = None,
    *,
    epoch: int | None = None,
    image_size: int | None = None,
) -> dict[str, Any]:
    """Returns what a file of any format should say about its model, for `with_metadata` to read.

    Args:
      model: any model, in any form.
      names: of its classes, where they are known.
      epoch: the last one trained, counted from 0, likewise.
      image_size: the longer side of the images that it is meant for, in pixels, likewise.

    Returns:
      what JSON can hold.

    Raises:
      ValueError: the names are not a list of texts, one for each class; the epoch or the image
        size is no integer; or the model's activation has no name.
    """
    if names is not None:
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"names (={names!r}) must be a list of texts")
        if len(names) != model.head.num_classes:
            raise ValueError(
                f"names ({len(names)} of them) must be as many as the model's classes "
                f"(={model.head.num_classes})"
            )
        names = list(names)
    if epoch is not None and (not isinstance(epoch, int) or epoch < 0):
        raise ValueError(f"epoch (={epoch!r}) must be an integer, counted from 0")
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        raise ValueError(f"image_size (={image_size!r}) must be an integer over 0")
    told = {
        "model": model.name,
        "width": model.width,
        "activation": activation_name(model),
        "anchors": model.head.anchors,
        "names": names,
        "epoch": epoch,
        "image_size": image_size,
    }
    return {key: value for key, value in told.items() if value is not None}


def parsed_metadata(text: str | bytes) -> Any:
    """Returns what a file says about its model, of any type, from the JSON that it holds.

    Raises:
      FormatError: it is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise FormatError(f"its metadata is damaged ({quoted(str(fault))})") from None


def with_metadata(checkpoint: Checkpoint, metadata: Any) -> Checkpoint:
    """Returns a checkpoint that knows what its file says about the model.

    Args:
      checkpoint: what is known without.
      metadata: as `describe_model` gives it, with any other keys; of any type, if the file is
        hostile. What is None or missing stays as it is.

    Raises:
      FormatError: it is no object of JSON, or a value in it is not what it should be.
    """
    if not isinstance(metadata, dict):
        raise FormatError("its metadata is no JSON object")
    found = {
        key: check(key, metadata[key])
        for key, check in CHECKS.items()
        if metadata.get(key) is not None
    }
    if not is_unicode(json.dumps(metadata, ensure_ascii=False)):
        raise FormatError("its metadata holds no valid Unicode")
    return dataclasses.replace(checkpoint, **found, metadata=metadata)


def class_names(key: str, value: Any) -> tuple[str, ...] | None:
    """Returns a file's class names, in the order of the labels, or None where it gives none.

    They may hold control characters, so whoever prints them has to escape them.

    Args:
      key: what the file calls them.
      value: what the file gives for them, of any type.

    Raises:
      FormatError: it is no list of texts, or one of them is too long or no valid Unicode.
    """
    if not isinstance(value, list | tuple):
        raise FormatError(f"its class {key} are of type {_kind(value)}; wanted a list of texts")
    if len(value) > MAX_CLASSES:
        raise FormatError(f"has {len(value):,} class {key}; wanted at most {MAX_CLASSES:,}")
    for label, name in enumerate(value):
        subject = f"the name of class {label}"
        if not isinstance(name, str):
            raise FormatError(f"{subject} is of type {_kind(name)}; wanted a text")
        if len(name) > MAX_NAME_LENGTH:
            raise FormatError(
                f"{subject} has {len(name):,} characters; wanted at most {MAX_NAME_LENGTH:,}"
            )
        if not is_unicode(name):
            raise FormatError(f"{subject}, {quoted(name)}, is no valid Unicode")
    return tuple(value) or None


def is_unicode(text: str) -> bool:
    """Says whether a text can be written; half a surrogate pair can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def anchors_in_pixels(
    tensors: Mapping[str, np.ndarray], strides: np.ndarray | None = None
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


def _anchors(key: str, value: Any) -> np.ndarray:
    fault = FormatError(f"its {key} have another form; wanted [levels][anchors][2] of pixels")
    if not _is_list(value) or not all(map(_is_list, value)) or len(set(map(len, value))) != 1:
        raise fault
    if len(value) * len(value[0]) * 2 > MAX_ANCHOR_NUMBERS:
        raise FormatError(f"has {len(value) * len(value[0]) * 2:,} sides of {key}; wanted fewer")
    for anchor in (anchor for level in value for anchor in level):
        if not _is_list(anchor) or len(anchor) != 2:
            raise fault
        if not all(type(side) in (int, float) and 0 < side < MAX_ANCHOR_SIDE for side in anchor):
            raise fault
    return np.array(value, np.float32)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0


def _kind(value: Any) -> str:
    return type(value).__name__


def _checked(is_valid: Callable[[Any], bool], wanted: str) -> Callable[[str, Any], Any]:
    """Returns a function of key and value that gives the value, or refuses it."""

    def check(key: str, value: Any) -> Any:
        if not is_valid(value):
            raise FormatError(f"its {key} is {quoted(repr(value))}; wanted {wanted}")
        return value

    return check


def _one_of(known: Mapping[str, Any]) -> Callable[[str, Any], str]:
    # A value may be anything, also what no dictionary can look up.
    return _checked(lambda value: value in list(known), f"one of {', '.join(known)}")


def _integer(least: int, most: int) -> Callable[[str, Any], int]:
    return _checked(
        lambda value: type(value) is int and least <= value <= most,
        f"an integer from {least} to {most}",
    )


# What the fields of a checkpoint become, by their keys in the metadata.
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "model": _one_of(ARCHITECTURES),
    "width": _checked(
        lambda value: type(value) in (int, float) and 0 < value <= MOST_WIDTH,
        f"a number above 0 and up to {MOST_WIDTH}",
    ),
    "activation": _one_of(ACTIVATIONS),
    "anchors": _anchors,
    "names": class_names,
    "epoch": _integer(0, MAX_EPOCH - 1),
    "image_size": _integer(1, MAX_IMAGE_SIZE),
}
