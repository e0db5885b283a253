"""Tells from the content of a file which model it is of."""

import dataclasses
import re
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from yolov7_jax.deploy import deploy, fold_head
from yolov7_jax.model import ARCHITECTURES, MOST_WIDTH, Form, Yolov7, create_abstract
from yolov7_jax.nn.blocks import Activation, leaky_relu, silu
from yolov7_jax.weights.checkpoint_contents import Checkpoint, FormatError, quoted
from yolov7_jax.weights.official_keys import entries, head_layer

ACTIVATIONS: dict[str, Activation] = {"SiLU": silu, "LeakyReLU": leaky_relu}
LAYER = re.compile(r"model\.(\d{1,4})\.")


@dataclasses.dataclass(frozen=True)
class Identity:
    """What has to be known of a model, besides its tensors, to make it again.

    Attributes:
      name: of the architecture.
      num_classes: number of classes.
      width: what multiplies the number of channels.
      activation: a key of `ACTIVATIONS`, or None where a file does not tell.
      form: as of `Yolov7`; the official weights for inference are "released".
    """

    name: str
    num_classes: int
    width: float
    activation: str | None
    form: Form

    def abstract(self, *, dtype: Dtype = jnp.float32, remat: bool = False) -> Yolov7:
        """Returns such a model, of shapes only, to be filled."""
        activation = None if self.activation is None else ACTIVATIONS[self.activation]
        options = {"width": self.width, "activation": activation, "dtype": dtype, "remat": remat}
        model = create_abstract(self.name, self.num_classes, **options)
        if self.form == "training":
            return model
        return deploy(model) if self.form == "deployed" else fold_head(model)


def activation_name(model: Yolov7) -> str:
    """Returns what a model's activation is called in files.

    Raises:
      ValueError: it is none of `ACTIVATIONS`.
    """
    for name, function in ACTIVATIONS.items():
        if function is model.activation:
            return name
    raise ValueError(
        f"the model's activation ({model.activation!r}) must be {' or '.join(ACTIVATIONS)} "
        "for a file to tell it"
    )


def identify(checkpoint: Checkpoint) -> Identity:
    """Tells which model a checkpoint is of.

    The number of the last layer is another one for each model, the head's bias has the number of
    classes, and the narrowest ratio of a layer's channels to the published ones is the width.

    Args:
      checkpoint: of any format.

    Returns:
      the model's identity; the tensors need not all fit it, which filling the model finds out.

    Raises:
      FormatError: it is of none of the models.
    """
    tensors = checkpoint.weights
    numbers = [int(match[1]) for key in tensors if (match := LAYER.match(key))]
    last = max(numbers, default=None)
    form = _form(tensors)
    layers = {head_layer(name, form): name for name in ARCHITECTURES}
    if last not in layers:
        found = "no layer has an official name" if last is None else f"the last layer is {last}"
        known = ", ".join(f"{name} {layer}" for layer, name in layers.items())
        raise FormatError(f"is of no known model: {found}; last layers are {known}")
    name = layers[last]
    if checkpoint.model not in (None, name):
        raise FormatError(f"says {checkpoint.model}, but its layers are {name}'s")
    bias = tensors.get(f"model.{last}.m.0.bias")
    fields, remainder = divmod(bias.size, 3) if bias is not None else (0, 0)
    if fields < 6 or remainder:
        raise FormatError(f"model.{last}.m.0.bias, the head's, must have 3 * (5 + classes) values")
    if checkpoint.names is not None and len(checkpoint.names) != fields - 5:
        raise FormatError(f"has {len(checkpoint.names)} class names for {fields - 5} classes")
    if checkpoint.activation not in (None, *ACTIVATIONS):
        known = " or ".join(ACTIVATIONS)
        raise FormatError(f"has the activation {quoted(checkpoint.activation)}, wanted {known}")
    return Identity(name, fields - 5, _width(name, checkpoint), checkpoint.activation, form)


def _form(tensors: Mapping[str, np.ndarray]) -> Form:
    """Tells which form of a model tensors are of, by what is left of norms and implicit vectors."""
    if not any(key.endswith(".running_mean") for key in tensors):
        return "deployed"
    return "training" if any(".ia." in key for key in tensors) else "released"


def _width(name: str, checkpoint: Checkpoint) -> float:
    """Returns a width that gives a checkpoint's numbers of channels.

    Rounding hides the exact one, unless the file tells it. The least of all ratios gives the same
    numbers: a layer has at least its published number times the width, and less than 8 more.
    """
    channels = {
        entry.official_shape[0]: checkpoint.weights[entry.key].shape[0]
        for entry in entries(create_abstract(name, 1))
        if entry.key.endswith(".conv.weight")
        and entry.key in checkpoint.weights
        and checkpoint.weights[entry.key].ndim
    }
    least = min((got / published for published, got in channels.items()), default=0.0)
    if not 0 < least <= MOST_WIDTH:
        raise FormatError(f"is no {name}: its layers have no or absurd numbers of channels")
    width = checkpoint.width
    if width is None:
        return least
    # Equal ratios of halves, as in `Down`, need the whole layer: so compare the least ones.
    if width > least or any(got >= published * width + 8 for published, got in channels.items()):
        raise FormatError(f"says width {width:g}, but its layers have that of {least:g}")
    return width
