"""Weights from files of any format, told by their content, into models."""

import os
from collections.abc import Collection

import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from yolov7_jax.model import Yolov7
from yolov7_jax.weights.checkpoint_contents import (
    Checkpoint,
    CheckpointError,
    FormatError,
    naming_file,
    open_regular,
    quoted,
)
from yolov7_jax.weights.convert import load_official
from yolov7_jax.weights.identify import ACTIVATIONS, identify
from yolov7_jax.weights.official_keys import entries, head_prefix
from yolov7_jax.weights.orbax_folder import read_run
from yolov7_jax.weights.safetensors_file import read_safetensors
from yolov7_jax.weights.torch_file import read_torch

LENGTH_BYTES = 8  # a safetensors file begins with the length of its header


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads what a file of weights holds; nothing in it is executed.

    Args:
      path: an official checkpoint or another file of PyTorch, a safetensors file, or the folder of
        a training run or of one of its checkpoints. The content decides, not the name.

    Returns:
      The checkpoint, in PyTorch's names and layout.

    Raises:
      CheckpointError: the file cannot be opened or understood; no other exception is raised for
        a file, whatever it holds.
      ImportError: the format needs an extra that is not installed.
    """
    path = os.fsdecode(path)
    with naming_file(path):
        if not path:
            raise FormatError("an empty path; wanted that of a file or folder")
        is_folder = os.path.isdir(path)
    if is_folder:
        return read_run(path)
    with naming_file(path), open_regular(path) as file:
        # A length, and then an object of JSON.
        is_safetensors = file.read(LENGTH_BYTES + 1)[LENGTH_BYTES:] == b"{"
    return read_safetensors(path) if is_safetensors else read_torch(path)


def load(model: Yolov7, path: str | os.PathLike[str], *, reinit: Collection[str] = ()) -> Yolov7:
    """Fills a model, in place, with the weights of a file.

    The moving average is preferred where the file has one.

    Args:
      model: of the same name, width and number of classes as the file's; changed only if
        everything fits.
      path: as for `read_checkpoint`.
      reinit: official keys that are to keep the model's values: `class_keys(model)` to fine-tune
        on other classes.

    Returns:
      the same model.

    Raises:
      CheckpointError: the file cannot be read, or names all keys that do not fit.
      ImportError: the format needs an extra that is not installed.
    """
    checkpoint = read_checkpoint(path)
    path = os.fsdecode(path)
    try:
        tensors = official_tensors(checkpoint, model)
        _check_activation(checkpoint, model)
        return load_official(model, tensors, reinit=reinit)
    except ValueError as fault:
        raise CheckpointError(f"{path}: {_held(checkpoint)}{fault}") from None


def load_model(
    path: str | os.PathLike[str], *, dtype: Dtype = jnp.float32, remat: bool = False
) -> Yolov7:
    """Makes the model that a file holds; see `open_model`, which also refuses diverged weights."""
    return open_model(path, finite=False, dtype=dtype, remat=remat)[0]


def open_model(
    path: str | os.PathLike[str],
    *,
    finite: bool = True,
    dtype: Dtype = jnp.float32,
    remat: bool = False,
) -> tuple[Yolov7, Checkpoint]:
    """Makes the model that a file holds, and tells all that the file says about it.

    Args:
      path: as for `read_checkpoint`; of any of the models, at any width, in any form.
      finite: whether to refuse the weights of a run that diverged.
      dtype: the type to compute in.
      remat: as for `create`.

    Returns:
      the model, in evaluation mode; and the content of the file.

    Raises:
      CheckpointError: the file cannot be read, is of none of the models, or holds numbers that
        are not finite.
      ImportError: the format needs an extra that is not installed.
    """
    checkpoint = read_checkpoint(path)
    try:
        abstract = identify(checkpoint).abstract(dtype=dtype, remat=remat)
        model = load_official(abstract, official_tensors(checkpoint, abstract))
    except ValueError as fault:
        raise CheckpointError(f"{os.fsdecode(path)}: {fault}") from None
    if finite:
        check_finite(checkpoint, path)
    model.eval()
    return model, checkpoint


def check_finite(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> None:
    """Raises CheckpointError for the weights of a run that diverged, which find nothing."""
    tensors = checkpoint.weights
    broken = [key for key, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"{os.fsdecode(path)}: {len(broken)} of {len(tensors)} tensors hold numbers that are "
            f"not finite, {broken[0]} first; nothing can be found with them"
        )


def official_tensors(checkpoint: Checkpoint, model: Yolov7) -> dict[str, np.ndarray]:
    """Returns a checkpoint's weights, its anchors as the tensor that holds them elsewhere.

    Raises:
      ValueError: the file tells anchors twice, and not the same ones.
    """
    tensors = dict(checkpoint.weights)
    if checkpoint.anchors is None:
        return tensors
    key = f"{head_prefix(model)}.anchor_grid"
    told = checkpoint.anchors.reshape(len(checkpoint.anchors), 1, -1, 1, 1, 2)
    if key in tensors and not (
        tensors[key].shape == told.shape and np.allclose(tensors[key], told, rtol=1e-3)
    ):
        raise ValueError(f"{key} contradicts the anchors that the file tells beside its tensors")
    return tensors | {key: told}


def _check_activation(checkpoint: Checkpoint, model: Yolov7) -> None:
    """Raises ValueError for this model's weights that were trained with another activation."""
    told = checkpoint.activation
    names = {function: name for name, function in ACTIVATIONS.items()}
    ours = names.get(model.activation, repr(model.activation))
    same_layers = set(checkpoint.weights) >= {entry.key for entry in entries(model)}
    if told is not None and told != ours and same_layers:
        raise ValueError(f"its activation is {quoted(told)}, the model's {ours}")


def _held(checkpoint: Checkpoint) -> str:
    """Returns which model a checkpoint is of, for an error, as far as can be told."""
    try:
        identity = identify(checkpoint)
    except FormatError:
        return ""
    kind = identity.name if identity.form == "training" else f"{identity.form} {identity.name}"
    classes = f"{identity.num_classes} classes"
    return f"holds a {kind} of width {identity.width:g} with {classes}; "
