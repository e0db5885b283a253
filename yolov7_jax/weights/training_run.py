"""Reads the checkpoints of our own training runs, which orbax wrote."""

import dataclasses
import os
import pathlib
from typing import Any

import jax
import numpy as np
from flax import nnx

from yolov7_jax.model import Yolov7, split
from yolov7_jax.weights.checkpoint import Checkpoint, FormatError, naming_file
from yolov7_jax.weights.convert import to_official
from yolov7_jax.weights.identify import Identity, activation_name

CHECKPOINT_FOLDER = "checkpoints"
DESCRIBED = {"model", "width", "activation", "anchors", "names"}
ONE_CHECKPOINT = "_CHECKPOINT_METADATA"  # the file by which orbax marks a complete checkpoint


def description(model: Yolov7, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns what a run has to keep beside its arrays, as JSON, for `read_run` to understand it.

    Args:
      model: the one that is trained.
      names: of its classes.

    Raises:
      ValueError: the model's activation has no name.
    """
    return {
        "model": model.name,
        "width": model.width,
        "activation": activation_name(model),
        "anchors": model.head.anchors,
        "names": list(names),
    }


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
    try:
        from orbax.checkpoint import v1 as ocp
    except ImportError as fault:
        raise ImportError(
            "checkpoints of training runs need orbax: pip install 'yolov7-jax[train]'"
        ) from fault
    with naming_file(path):
        folder = _checkpoint_folder(pathlib.Path(path).absolute(), ocp)
        metadata = ocp.metadata(str(folder))
        told: Any = metadata.custom_metadata
        if not isinstance(told, dict) or not set(told) >= DESCRIBED:
            raise FormatError(f"checkpoint {folder.name} does not say which model it is of")
        names = tuple(told["names"])
        identity = Identity(
            told["model"], len(names), told["width"], told["activation"], deployed=False
        )
        model = identity.abstract()
        model.head = dataclasses.replace(model.head, anchors=told["anchors"])
        wanted = ("params", "batch_stats", "ema_params", "ema_batch_stats")
        partial = jax.tree.map(lambda leaf: ocp.PLACEHOLDER, metadata.metadata)
        for name in wanted:
            # A scalar of numpy asks for an array of numpy, on any number of devices.
            partial["state"][name] = jax.tree.map(
                lambda leaf: np.zeros((), leaf.dtype), metadata.metadata["state"][name]
            )
        state = ocp.load(str(folder), partial)["state"]
        return Checkpoint(
            tensors=_official(model, state["params"], state["batch_stats"]),
            ema=_official(model, state["ema_params"], state["ema_batch_stats"]),
            names=names,
            anchors=np.array(model.head.anchors, np.float32),
            activation=identity.activation,
        )


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
    evaluated = [checkpoint for checkpoint in found if checkpoint.metrics]
    best = max(evaluated, key=lambda checkpoint: checkpoint.metrics["ap"], default=found[-1])
    return path / str(best.step)


def _official(model: Yolov7, params: Any, batch_stats: Any) -> dict[str, np.ndarray]:
    """Returns saved trees as official tensors; `model` gives the structure."""
    graphdef, abstract_params, abstract_stats = split(model)
    filled = nnx.merge(graphdef, _like(abstract_params, params), _like(abstract_stats, batch_stats))
    return to_official(filled)


def _like(abstract: Any, saved: Any) -> Any:
    """Returns the arrays of a saved tree in the structure of another with the same paths."""
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(saved)[0]
    }
    leaves, structure = jax.tree_util.tree_flatten_with_path(abstract)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    missing = sorted(set(names) - set(arrays))
    if missing:
        raise FormatError(f"lacks {', '.join(missing[:3])}{' and more' if missing[3:] else ''}")
    wrong = [
        name
        for name, (_, leaf) in zip(names, leaves, strict=True)
        if arrays[name].shape != leaf.shape
    ]
    if wrong:
        raise FormatError(f"has {', '.join(wrong[:3])} in another shape than its model")
    return jax.tree.unflatten(structure, [arrays[name] for name in names])
