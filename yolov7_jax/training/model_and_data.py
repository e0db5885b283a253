"""What a run starts from: its data, its network, and the weights it is given."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from yolov7_jax import model as networks
from yolov7_jax.data.dataset import Dataset, as_one_class
from yolov7_jax.data.layouts import TRAINING_SPLITS, load_dataset
from yolov7_jax.demo_data.demo import data_file
from yolov7_jax.errors import UserError
from yolov7_jax.nn.blocks import leaky_relu
from yolov7_jax.training.pipeline.batch_limits import check_batch_size
from yolov7_jax.training.train_config import TrainConfig, check_image_size
from yolov7_jax.weights.checkpoint_contents import CheckpointError, FormatError
from yolov7_jax.weights.convert import class_keys, load_official
from yolov7_jax.weights.identify import activation_name, identify
from yolov7_jax.weights.load import check_finite, official_tensors, read_checkpoint
from yolov7_jax.weights.official_keys import entries, head_layer, head_prefix

ACTIVATIONS: dict[str | None, Callable[[jax.Array], jax.Array] | None] = {
    None: None,
    "leaky_relu": leaky_relu,
    "silu": jax.nn.silu,
}


def load_split(config: TrainConfig, split: str) -> Dataset:
    """Returns a split as a run sees it.

    Args:
      config: says which data set, and whether all its objects are of one class.
      split: `train` or `val`.

    Raises:
      UserError: it cannot be read.
    """
    dataset = load_dataset(data_file(config.data), split)
    return as_one_class(dataset) if config.single_class else dataset


def load_splits(config: TrainConfig) -> tuple[Dataset, Dataset]:
    """Returns the training and the validation split.

    Raises:
      UserError: they cannot be read, have different classes, or are too small for a batch.
    """
    train_set, val_set = (load_split(config, split) for split in TRAINING_SPLITS)
    if train_set.names != val_set.names:
        raise UserError(
            f"{config.data}: 'train' has the classes {', '.join(train_set.names)} and 'val' has "
            f"{', '.join(val_set.names)}; they must be the same"
        )
    check_batch_size(config.batch_size, len(train_set), jax.device_count(), jax.process_count())
    return train_set, val_set


def check_network(config: TrainConfig) -> None:
    """Refuses what no network can be made for, before the data set is looked at.

    Raises:
      UserError: the model is unknown, or the image size does not suit it.
    """
    if config.model not in networks.ARCHITECTURES:
        known = ", ".join(networks.ARCHITECTURES)
        raise UserError(f"unknown model {config.model!r}; known are {known}")
    check_image_size(config.image_size, networks.ARCHITECTURES[config.model].strides)


def create_model(config: TrainConfig, num_classes: int) -> networks.Yolov7:
    """Returns a fresh model.

    Raises:
      UserError: as `check_network` does.
    """
    check_network(config)
    return networks.create(
        config.model,
        num_classes,
        key=jax.random.key(config.seed),
        width=config.width,
        activation=ACTIVATIONS[config.activation],
        dtype=compute_dtype(config.dtype),
        remat=config.remat,
    )


def compute_dtype(name: str) -> jnp.dtype:
    """Returns the type that a network computes in; "auto" depends on the devices."""
    if name == "auto":
        name = "bfloat16" if jax.default_backend() in ("gpu", "tpu") else "float32"
    return jnp.dtype(name)


class Loaded(NamedTuple):
    """What came of loading weights.

    Attributes:
      fresh: the official keys that were left as they were, because the classes are others or the
        file has no such head.
      why: the reason, for people; "" if everything was loaded.
    """

    fresh: tuple[str, ...]
    why: str

    def line(self) -> str:
        """Returns what a person should know."""
        if not self.fresh:
            return "all of it"
        return f"all but {len(self.fresh)} tensors of the head, because {self.why}"


def load_weights(model: networks.Yolov7, path: str, names: tuple[str, ...]) -> Loaded:
    """Fills a fresh model, in place, with the weights of a file, so as to train further.

    The part of the head that depends on the classes starts fresh where the file's classes are
    others, and so do auxiliary heads that the file does not have. The file's anchors are taken.

    Args:
      model: what is to be trained.
      path: an official checkpoint, a safetensors file, or the folder of a run.
      names: the classes to train.

    Raises:
      UserError: the file cannot be read, or is of another network.
    """
    try:
        checkpoint = read_checkpoint(path)
        check_finite(checkpoint, path)
        identity = identify(checkpoint)
        if identity.name != model.name:
            raise FormatError(f"is of a {identity.name}, and --model is {model.name}")
        if identity.form == "deployed":
            raise FormatError(
                "is for inference only: its norms are folded into the convolutions; training needs "
                "the weights from before that"
            )
        if identity.activation not in (None, activation_name(model)):
            raise FormatError(
                f"has the activation {identity.activation}, and the model to train has "
                f"{activation_name(model)}; see --activation"
            )
        tensors = official_tensors(checkpoint, model)
        fresh: set[str] = set()
        why = []
        if identity.form == "released":
            tensors = _with_training_head(tensors, model)
            fresh |= _missing_of_training(tensors, model)
            why.append("the file has no training heads")
        if len(names) != identity.num_classes or checkpoint.names not in (None, names):
            fresh |= set(class_keys(model))
            why.append(f"its {identity.num_classes} classes are not those of the data")
        load_official(model, tensors, reinit=fresh)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    except (FormatError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
    return Loaded(tuple(sorted(fresh)), " and ".join(why))


def _with_training_head(
    tensors: Mapping[str, np.ndarray], model: networks.Yolov7
) -> dict[str, np.ndarray]:
    """Moves the head of an official file for inference to where files from training have it."""
    released = f"model.{head_layer(model.name, 'released')}."
    training = f"{head_prefix(model)}."
    return {
        training + key.removeprefix(released) if key.startswith(released) else key: tensor
        for key, tensor in tensors.items()
    }


def _missing_of_training(tensors: Mapping[str, np.ndarray], model: networks.Yolov7) -> set[str]:
    """Returns the keys of what an official file for inference has left out."""
    first, last = head_layer(model.name, "released"), head_layer(model.name, "training")
    prefixes = tuple(f"model.{layer}." for layer in range(first, last + 1))
    return {
        entry.key
        for entry in entries(model)
        if entry.key.startswith(prefixes) and entry.key not in tensors
    }
