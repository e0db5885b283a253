"""Tells from the content of a file which model it is of."""

import dataclasses
import re

import jax
import jax.numpy as jnp
from flax.typing import Dtype

from yolov7_jax.deploy import deploy
from yolov7_jax.model import ARCHITECTURES, Yolov7, create_abstract
from yolov7_jax.nn.blocks import Activation, leaky_relu
from yolov7_jax.weights.checkpoint import Checkpoint, FormatError, quoted
from yolov7_jax.weights.names import entries, head_layer

ACTIVATIONS: dict[str, Activation] = {"SiLU": jax.nn.silu, "LeakyReLU": leaky_relu}
LAYER = re.compile(r"model\.(\d{1,4})\.")
MOST_WIDTH = 64  # times the published channels


@dataclasses.dataclass(frozen=True)
class Identity:
    """What has to be known of a model, besides its tensors, to make it again.

    Attributes:
      name: of the architecture.
      num_classes: number of classes.
      width: what multiplies the number of channels.
      activation: a key of `ACTIVATIONS`, or None where a file does not tell.
      deployed: whether `deploy`, or PyTorch's counterpart, made it.
    """

    name: str
    num_classes: int
    width: float
    activation: str | None
    deployed: bool

    def abstract(self, dtype: Dtype = jnp.float32) -> Yolov7:
        """Returns such a model, of shapes only, to be filled."""
        activation = None if self.activation is None else ACTIVATIONS[self.activation]
        model = create_abstract(
            self.name, self.num_classes, width=self.width, activation=activation, dtype=dtype
        )
        return deploy(model) if self.deployed else model


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
    deployed = not any(key.endswith(".running_mean") for key in tensors)
    layers = {head_layer(name, deployed=deployed): name for name in ARCHITECTURES}
    if last not in layers:
        found = "no layer has an official name" if last is None else f"the last layer is {last}"
        known = ", ".join(f"{name} {layer}" for layer, name in layers.items())
        raise FormatError(f"is of no known model: {found}; last layers are {known}")
    bias = tensors.get(f"model.{last}.m.0.bias")
    fields, remainder = divmod(bias.size, 3) if bias is not None else (0, 0)
    if fields < 6 or remainder:
        raise FormatError(f"model.{last}.m.0.bias, the head's, must have 3 * (5 + classes) values")
    if checkpoint.names is not None and len(checkpoint.names) != fields - 5:
        raise FormatError(f"has {len(checkpoint.names)} class names for {fields - 5} classes")
    if checkpoint.activation not in (None, *ACTIVATIONS):
        known = " or ".join(ACTIVATIONS)
        raise FormatError(f"has the activation {quoted(checkpoint.activation)}, wanted {known}")
    return Identity(
        layers[last], fields - 5, _width(layers[last], checkpoint), checkpoint.activation, deployed
    )


def _width(name: str, checkpoint: Checkpoint) -> float:
    """Returns a width that gives a checkpoint's numbers of channels.

    Rounding hides the exact one. The least of all ratios gives the same numbers: a layer has at
    least its published number times the width, and less than 8 more.
    """
    ratios = [
        checkpoint.weights[entry.key].shape[0] / entry.official_shape[0]
        for entry in entries(create_abstract(name, 1))
        if entry.key.endswith(".conv.weight")
        and checkpoint.weights.get(entry.key) is not None
        and checkpoint.weights[entry.key].ndim
    ]
    width = min(ratios, default=0.0)
    if not 0 < width <= MOST_WIDTH:
        raise FormatError(f"is no {name}: its layers have no or absurd numbers of channels")
    return width
