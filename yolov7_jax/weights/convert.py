"""Copies weights between a model and the tensors of an official checkpoint."""

import dataclasses
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from yolov7_jax.config import HeadConfig
from yolov7_jax.errors import UserError
from yolov7_jax.model import Yolov7
from yolov7_jax.nn.norm import Counter
from yolov7_jax.weights.official_keys import Entry, entries, head_prefix, norms


def load_official(
    model: Yolov7, tensors: Mapping[str, np.ndarray], *, reinit: Collection[str] = ()
) -> Yolov7:
    """Fills a model, in place, with the tensors of an official checkpoint.

    Every parameter and statistic must have its tensor and every tensor its use. What the official
    checkpoints hold besides is understood where it is there: the anchors, which replace those of
    `model.head`, and the counters of the norms.

    To fine-tune on other classes, say so by `reinit=class_keys(model)`.

    Args:
      model: of the same name, width and number of classes as the checkpoint; changed only if
        everything fits. One from `create_abstract` will do.
      tensors: official key -> array in PyTorch's layout, of any float type.
      reinit: official keys of the model that are to keep the values that they have; what `tensors`
        holds under them is left out, whatever its shape. See `class_keys` and `head_keys`.

    Returns:
      the same model.

    Raises:
      UserError: names all keys that are missing, unknown or of another shape; if there are none,
        all whose values float32 cannot hold.
    """
    if isinstance(reinit, str):
        raise UserError(f"reinit (={reinit!r}) must be a collection of keys, not one text")
    reinit = frozenset(reinit)
    wanted = entries(model)
    _check_reinit(model, wanted, reinit)
    wanted = [entry for entry in wanted if entry.key not in reinit]
    tensors = {key: value for key, value in tensors.items() if key not in reinit}
    shapes = {entry.key: entry.official_shape for entry in wanted}
    counters = {f"{prefix}.num_batches_tracked": norm for prefix, norm in norms(model)}
    anchor_shapes = _anchor_shapes(model)
    known = shapes | dict.fromkeys(counters, ()) | anchor_shapes
    misshapen = {
        key: f"{key} has shape {np.shape(value)}, wanted {known[key]}"
        for key, value in tensors.items()
        if key in known and np.shape(value) != known[key]
    }
    faults = [f"{key} is missing" for key in shapes if key not in tensors]
    faults += [f"{key} is unknown" for key in tensors if key not in known]
    faults += misshapen.values()
    if not faults:
        faults = _faults_in_values(tensors, counters)
    if faults:
        advice = ""
        if len(faults) == len(misshapen) and set(misshapen) <= set(class_keys(model)):
            advice = (
                "; all of these depend on the number of classes: to reinitialise them, pass "
                "reinit=class_keys(model)"
            )
        kind = model.name if model.form == "training" else f"{model.form} {model.name}"
        raise UserError(
            f"the tensors do not fit a {kind} of width {model.width:g} with "
            f"{model.head.num_classes} classes ({len(faults)} faults): {'; '.join(faults)}{advice}"
        )
    head = _head_with_anchors(model.head, *(tensors.get(key) for key in anchor_shapes))
    for entry in wanted:
        value = np.asarray(tensors[entry.key]).astype(np.float32)
        ours = value.reshape(-1) if entry.axes is None else value.transpose(entry.axes)
        entry.variable.set_value(jax.device_put(ours))
    for key, norm in counters.items():
        norm.batches_tracked = Counter(int(tensors.get(key, 0)))
    model.head = head
    return model


def _check_reinit(model: Yolov7, wanted: list[Entry], reinit: frozenset[str]) -> None:
    strangers = sorted(reinit - {entry.key for entry in wanted})
    if strangers:
        raise UserError(f"reinit: {model.name} has no {', '.join(strangers)}")
    kept = [entry.variable.get_value() for entry in wanted if entry.key in reinit]
    if any(isinstance(value, jax.ShapeDtypeStruct) for value in kept):
        raise UserError("reinit: an abstract model has no values to keep; make it by `create`")


def _faults_in_values(tensors: Mapping[str, np.ndarray], counters: Collection[str]) -> list[str]:
    """Returns a text for every tensor that float32, or a counter, cannot hold."""
    faults = []
    for key, tensor in tensors.items():
        value = np.asarray(tensor)
        if key in counters:
            number = value.item() if value.dtype.kind in "iuf" else -1
            if not 0 <= number < 2**63 or number != int(number):
                faults.append(f"{key} is {value} of type {value.dtype}, wanted a count")
        elif not jnp.issubdtype(value.dtype, jnp.floating):
            faults.append(f"{key} has the type {value.dtype}, wanted floating-point numbers")
        elif value.dtype == np.float64:
            with np.errstate(over="ignore"):
                lost = np.isinf(value.astype(np.float32)) & np.isfinite(value)
            if lost.any():
                faults.append(f"{key} has numbers that float32 cannot hold")
    return faults


def class_keys(model: Yolov7) -> tuple[str, ...]:
    """Returns the official keys of the tensors whose shapes depend on the number of classes."""
    # All of the head but what is added to its input.
    head, added = f"{head_prefix(model)}.", f"{head_prefix(model)}.ia."
    keys = (entry.key for entry in entries(model))
    return tuple(key for key in keys if key.startswith(head) and not key.startswith(added))


def head_keys(model: Yolov7) -> tuple[str, ...]:
    """Returns the official keys of all tensors of the head."""
    head = f"{head_prefix(model)}."
    return tuple(entry.key for entry in entries(model) if entry.key.startswith(head))


def to_official(model: Yolov7) -> dict[str, np.ndarray]:
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
        result[entry.key] = np.array(ours, order="C").reshape(entry.official_shape)
    for prefix, norm in norms(model):
        count = np.array(norm.batches_tracked.value, np.int64)
        result[f"{prefix}.num_batches_tracked"] = count
    pixels = np.asarray(model.head.anchors, np.float32)
    strides = np.asarray(model.head.strides, np.float32)[:, None, None]
    for (key, shape), anchors in zip(
        _anchor_shapes(model).items(), (pixels / strides, pixels), strict=True
    ):
        result[key] = anchors.reshape(shape)
    return result


def _anchor_shapes(model: Yolov7) -> dict[str, tuple[int, ...]]:
    """Returns the keys and shapes of the anchors, in cells and in pixels, in this order."""
    layer = head_prefix(model)
    levels, anchors = model.head.num_levels, model.head.num_anchors
    return {
        f"{layer}.anchors": (levels, anchors, 2),
        f"{layer}.anchor_grid": (levels, 1, anchors, 1, 1, 2),
    }


def _head_with_anchors(
    head: HeadConfig, cells: np.ndarray | None, grid: np.ndarray | None
) -> HeadConfig:
    """Returns the head with a checkpoint's anchors, where it has them and they agree."""
    found = []
    if grid is not None:
        found += [np.asarray(grid, np.float32).reshape(head.num_levels, head.num_anchors, 2)]
    if cells is not None:
        strides = np.asarray(head.strides, np.float32)[:, None, None]
        found += [np.asarray(cells, np.float32) * strides]
    if not found:
        return head
    if not np.allclose(found[0], found[-1], rtol=1e-3):  # half precision has 3 digits
        raise UserError(
            f"anchor_grid (={found[0].tolist()}) must be anchors times stride "
            f"(={found[-1].tolist()})"
        )
    return dataclasses.replace(head, anchors=found[0].tolist())
