"""Copies weights between a model and the tensors of an official checkpoint."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from yolov7_jax.config import HeadConfig
from yolov7_jax.model import Detector
from yolov7_jax.weights.names import entries, head_prefix, norms


def load_official(model: Detector, tensors: Mapping[str, np.ndarray]) -> Detector:
    """Fills a model, in place, with the tensors of an official checkpoint.

    Every parameter and statistic must have its tensor and every tensor its use. What the official
    checkpoints hold besides is understood where it is there: the anchors, which replace those of
    `model.head`, and the counters of the norms.

    Args:
      model: of the same name, width and number of classes as the checkpoint; changed only if
        everything fits.
      tensors: official key -> array in PyTorch's layout, of any float type.

    Returns:
      the same model.

    Raises:
      ValueError: names all keys that are missing, unknown or of another shape.
    """
    wanted = entries(model)
    shapes = {entry.key: entry.official_shape for entry in wanted}
    counters = {f"{prefix}.num_batches_tracked": norm for prefix, norm in norms(model)}
    anchor_shapes = _anchor_shapes(model)
    optional = dict.fromkeys(counters, ()) | anchor_shapes
    faults = _faults(tensors, shapes, optional)
    if faults:
        raise ValueError(
            f"the tensors do not fit {model.name} with {model.head.num_classes} classes "
            f"({len(faults)} faults): " + "; ".join(faults)
        )
    head = _head_with_anchors(model.head, *(tensors.get(key) for key in anchor_shapes))
    for entry in wanted:
        value = np.asarray(tensors[entry.key], np.float32)
        ours = value.reshape(-1) if entry.axes is None else value.transpose(entry.axes)
        entry.variable[...] = jnp.asarray(ours)
    for key, norm in counters.items():
        norm.batches_tracked = int(tensors.get(key, 0))
    model.head = head
    return model


def to_official(model: Detector) -> dict[str, np.ndarray]:
    """Returns a model's weights as an official checkpoint would hold them.

    Args:
      model: any model.

    Returns:
      official key -> float32 array in PyTorch's layout, the anchors included; the counters of the
      norms are int64 and as they were loaded.
    """
    result = {}
    for entry in entries(model):
        ours = np.asarray(entry.variable[...])
        if entry.axes is not None:
            ours = ours.transpose(np.argsort(entry.axes))
        result[entry.key] = np.ascontiguousarray(ours).reshape(entry.official_shape)
    for prefix, norm in norms(model):
        result[f"{prefix}.num_batches_tracked"] = np.asarray(norm.batches_tracked, np.int64)
    pixels = np.asarray(model.head.anchors, np.float32)
    strides = np.asarray(model.head.strides, np.float32)
    cells, grid = _anchor_shapes(model)
    result[cells] = pixels / strides[:, None, None]
    result[grid] = pixels.reshape(_anchor_shapes(model)[grid])
    return result


def _anchor_shapes(model: Detector) -> dict[str, tuple[int, ...]]:
    """Returns the keys and shapes of the anchors, in cells and in pixels, in this order."""
    layer = head_prefix(model)
    levels, anchors = model.head.num_levels, model.head.num_anchors
    return {
        f"{layer}.anchors": (levels, anchors, 2),
        f"{layer}.anchor_grid": (levels, 1, anchors, 1, 1, 2),
    }


def _faults(
    tensors: Mapping[str, np.ndarray],
    required: Mapping[str, tuple[int, ...]],
    optional: Mapping[str, tuple[int, ...]],
) -> list[str]:
    """Returns a line for every key that is missing, unknown or of another shape."""
    known = dict(required) | dict(optional)
    missing = [f"{key} is missing" for key in required if key not in tensors]
    unknown = [f"{key} is unknown" for key in tensors if key not in known]
    misshapen = [
        f"{key} has shape {tuple(np.shape(value))}, wanted {known[key]}"
        for key, value in tensors.items()
        if key in known and tuple(np.shape(value)) != known[key]
    ]
    return missing + unknown + misshapen


def _head_with_anchors(
    head: HeadConfig, cells: np.ndarray | None, grid: np.ndarray | None
) -> HeadConfig:
    """Returns the head with a checkpoint's anchors, where it has them.

    Raises:
      ValueError: those in cells and those in pixels contradict each other.
    """
    shape = (head.num_levels, head.num_anchors, 2)
    strides = np.asarray(head.strides, np.float32)[:, None, None]
    found = []
    if grid is not None:
        found += [np.asarray(grid, np.float32).reshape(shape)]
    if cells is not None:
        found += [np.asarray(cells, np.float32) * strides]
    if not found:
        return head
    if not np.allclose(found[0], found[-1], rtol=1e-3):  # half precision has 3 digits
        raise ValueError(
            f"anchor_grid (={found[0].tolist()}) must be anchors times stride "
            f"(={found[-1].tolist()})"
        )
    return dataclasses.replace(head, anchors=found[0].tolist())
