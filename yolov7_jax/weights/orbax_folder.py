"""Reads the checkpoints of our own training runs, which orbax wrote."""

import dataclasses
import math
import os
import pathlib
from typing import Any

import jax
import numpy as np
from flax import nnx

from yolov7_jax.extras import from_extra
from yolov7_jax.model import Yolov7, split
from yolov7_jax.weights.checkpoint_contents import Checkpoint, FormatError, naming_file, quoted
from yolov7_jax.weights.convert import to_official
from yolov7_jax.weights.identify import Identity
from yolov7_jax.weights.model_metadata import with_metadata

CHECKPOINT_FOLDER = "checkpoints"
DESCRIBED = ("model", "width", "activation", "anchors", "names")
WANTED = ("params", "batch_stats", "ema_params", "ema_batch_stats")
FAULTS_SHOWN = 3  # of the hundreds that another model gives
ONE_CHECKPOINT = "_CHECKPOINT_METADATA"  # the file by which orbax marks a complete checkpoint


def read_run(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint of a training run.

    Args:
      path: the folder of the run, of its checkpoints, or of one checkpoint. Of several that with
        the highest AP is taken; the last one if none was evaluated.

    Returns:
      The checkpoint, with the moving average as `ema`.

    Raises:
      CheckpointError: there is no checkpoint, or one that does not hold a model.
      ImportError: orbax is not installed.
    """
    with from_extra("train"):
        from orbax.checkpoint import v1 as ocp
    with naming_file(path):
        folder = _checkpoint_folder(pathlib.Path(path).absolute(), ocp)
        metadata = ocp.metadata(str(folder))
        described = with_metadata(Checkpoint({}), metadata.custom_metadata or {})
        model = _abstract_model(described, folder.name)
        _refuse_misshapen(model, metadata.metadata)
        partial: Any = jax.tree.map(lambda leaf: ocp.PLACEHOLDER, metadata.metadata)
        for name in WANTED:
            # A scalar of numpy asks for an array of numpy, on any number of devices.
            partial["state"][name] = jax.tree.map(
                lambda leaf: np.zeros((), leaf.dtype), metadata.metadata["state"][name]
            )
        state = ocp.load(str(folder), partial)["state"]
        return dataclasses.replace(
            described,
            tensors=_official(model, state["params"], state["batch_stats"]),
            ema=_official(model, state["ema_params"], state["ema_batch_stats"]),
        )


def _abstract_model(described: Checkpoint, folder: str) -> Yolov7:
    """Returns a model of shapes only, as a checkpoint's description says."""
    name, width, names = described.model, described.width, described.names
    activation, anchors = described.activation, described.anchors
    if not name or not width or not names or activation is None or anchors is None:
        missing = [key for key in DESCRIBED if getattr(described, key) is None]
        raise FormatError(
            f"checkpoint {quoted(folder)} does not say which model it is of: it lacks "
            f"{', '.join(missing)}"
        )
    model = Identity(name, len(names), width, activation, form="training").abstract()
    shape = np.shape(model.head.anchors)
    if anchors.shape != shape:
        raise FormatError(f"its anchors have the shape {anchors.shape}; wanted {shape}")
    model.head = dataclasses.replace(model.head, anchors=anchors.tolist())
    return model


def _checkpoint_folder(path: pathlib.Path, ocp: Any) -> pathlib.Path:
    """Returns the folder of one checkpoint."""
    if (path / ONE_CHECKPOINT).is_file():
        return path
    if (path / CHECKPOINT_FOLDER).is_dir():
        path = path / CHECKPOINT_FOLDER
    if not any((child / ONE_CHECKPOINT).is_file() for child in path.iterdir()):
        raise FormatError("holds no checkpoint of a training run")
    with ocp.training.Checkpointer(str(path)) as checkpointer:
        found = list(checkpointer.checkpoints)
    if not found:
        raise FormatError("holds no checkpoint of a training run")
    evaluated = {}
    for checkpoint in found:
        metrics = checkpoint.metrics
        ap: Any = metrics.get("ap") if isinstance(metrics, dict) else None
        if type(ap) in (int, float) and math.isfinite(ap):
            evaluated[checkpoint.step] = ap
    best = max(evaluated, key=evaluated.__getitem__) if evaluated else found[-1].step
    return path / str(best)


def _official(model: Yolov7, params: Any, batch_stats: Any) -> dict[str, np.ndarray]:
    """Returns saved trees as official tensors; `model` gives the structure."""
    graphdef, abstract_params, abstract_stats = split(model)
    filled = nnx.merge(graphdef, _like(abstract_params, params), _like(abstract_stats, batch_stats))
    return to_official(filled)


def _like(abstract: Any, saved: Any) -> Any:
    """Returns the arrays of a saved tree in the structure of another with the same paths."""
    arrays = _leaves(saved)
    return jax.tree.unflatten(
        jax.tree.structure(abstract), [arrays[name] for name in _leaves(abstract)]
    )


def _refuse_misshapen(model: Yolov7, saved: Any) -> None:
    """Refuses arrays that do not fit, unread: zeros can be tiny on disk and huge in memory."""
    state = saved.get("state") if isinstance(saved, dict) else None
    _, params, batch_stats = split(model)
    faults = []
    for tree, abstract in zip(WANTED, (params, batch_stats) * 2, strict=True):
        wanted = _leaves(abstract)
        found = _leaves(state.get(tree)) if isinstance(state, dict) else {}
        for name, leaf in wanted.items():
            fault = _fault(found[name], leaf) if name in found else "is missing"
            faults += [f"{tree}.{name} {fault}"] if fault else []
        strangers = sorted(found.keys() - wanted.keys())
        faults += [f"{quoted(f'{tree}.{name}')} is unknown" for name in strangers]
    if faults:
        more = f" and {len(faults) - FAULTS_SHOWN} more" if faults[FAULTS_SHOWN:] else ""
        listed = "; ".join(faults[:FAULTS_SHOWN])
        raise FormatError(f"is not of the {model.name} that it is said to be: {listed}{more}")


def _fault(found: Any, wanted: Any) -> str | None:
    """Returns what is wrong with an array, by what orbax knows of it."""
    shape, dtype = getattr(found, "shape", None), getattr(found, "dtype", None)
    if shape != wanted.shape:
        return f"has shape {shape}, wanted {wanted.shape}"
    if dtype != wanted.dtype:
        return f"has type {dtype}, wanted {wanted.dtype}"
    # Pieces are read whole, and can be larger than what they are pieces of.
    piece = found.storage_metadata.chunk_shape
    if piece is not None and math.prod(piece) > max(math.prod(wanted.shape), 1):
        return f"is stored in pieces of shape {piece}"
    return None


def _leaves(tree: Any) -> dict[str, Any]:
    """Returns a tree's leaves by their paths, whatever kinds of nodes lead to them."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
