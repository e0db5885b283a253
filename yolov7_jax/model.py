"""Makes models, and runs them as pure functions.

A model is a Flax NNX module. `split` takes it apart into a static description and two plain
pytrees, and `apply` computes from those without side effects, so `jax.jit`, `jax.value_and_grad`
and any optimiser work on it as on every other function.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype
from jaxtyping import Array, Float

from yolov7_jax.config import HeadConfig
from yolov7_jax.nn.blocks import Activation, leaky_relu
from yolov7_jax.nn.head import Detect
from yolov7_jax.nn.norm import BatchNorm
from yolov7_jax.nn.tiny import TinyBackbone, TinyNeck
from yolov7_jax.types import Outputs

P5_STRIDES = (8, 16, 32)
TINY_ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What one of the released models is made of.

    Attributes:
      backbone, neck: the modules' classes.
      strides, anchors: of the head, as in `HeadConfig`.
      activation: the one that the model was published with.
    """

    backbone: type[TinyBackbone]
    neck: type[TinyNeck]
    strides: tuple[int, ...]
    anchors: tuple[tuple[tuple[float, float], ...], ...]
    activation: Activation


ARCHITECTURES = {
    "yolov7-tiny": Architecture(TinyBackbone, TinyNeck, P5_STRIDES, TINY_ANCHORS, leaky_relu),
}


class Detector(nnx.Module):
    """A whole model, from pictures to logits.

    A fresh one is in training mode. `train()` and `eval()` choose the statistics that it
    normalises by.

    Attributes:
      name: the name that it was created by.
      head: strides, anchors and number of classes.
      backbone, neck, detect: the parts.
    """

    def __init__(
        self,
        name: str,
        head: HeadConfig,
        *,
        width: float,
        activation: Activation,
        dtype: Dtype,
        rng: np.random.Generator,
    ):
        architecture = ARCHITECTURES[name]
        self.name = name
        self.head = head
        self.backbone = architecture.backbone(width, activation=activation, dtype=dtype, rng=rng)
        self.neck = architecture.neck(width, activation=activation, dtype=dtype, rng=rng)
        self.detect = Detect(architecture.neck.widths(width), head, dtype=dtype, rng=rng)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Outputs:
        """Maps RGB pictures in [0, 1] to logits.

        Args:
          images: `[b, h, w, 3]`; h and w are multiples of the largest stride.

        Returns:
          float32 logits `[b, h / stride, w / stride, a, 5 + classes]`, one array per level.

        Raises:
          ValueError: the pictures have another shape.
        """
        _check_images(images, max(self.head.strides))
        return self.detect(self.neck(*self.backbone(images)))


def create(
    name: str,
    num_classes: int = 80,
    *,
    key: Array | None = None,
    width: float = 1.0,
    activation: Activation | None = None,
    dtype: Dtype = jnp.float32,
) -> Detector:
    """Makes a model with fresh parameters, in training mode.

    Args:
      name: one of `ARCHITECTURES`.
      num_classes: number of classes.
      key: decides the start parameters; `jax.random.key(0)` if not given.
      width: multiplies the number of channels everywhere, which are then rounded up to a
        multiple of 8.
      activation: replaces the published one, for example by `jax.nn.silu`.
      dtype: the type that is computed in; parameters, statistics and logits stay float32.

    Returns:
      the model; `.head` describes its head.

    Raises:
      ValueError: there is no model of that name, or a number is out of range.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"there is no model {name!r}; known: {', '.join(ARCHITECTURES)}")
    if not width > 0:
        raise ValueError(f"width (={width}) must be more than 0")
    architecture = ARCHITECTURES[name]
    key = jax.random.key(0) if key is None else key
    # Drawn on the host: each of the many shapes would cost a compilation on the device.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return Detector(
        name,
        HeadConfig(num_classes, architecture.strides, architecture.anchors),
        width=width,
        activation=architecture.activation if activation is None else activation,
        dtype=dtype,
        rng=rng,
    )


def split(model: Detector) -> tuple[nnx.GraphDef[Detector], nnx.State, nnx.State]:
    """Takes a model apart.

    Args:
      model: a model.

    Returns:
      graphdef: static and hashable: what `apply` rebuilds the model from.
      params: pytree of what is learned, float32; leaves are called `kernel`, `bias`, `scale`,
        `implicit_add` and `implicit_multiply`.
      batch_stats: pytree of the running statistics, float32.
    """
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, params, batch_stats


def apply(
    graphdef: nnx.GraphDef[Detector],
    params: Any,
    batch_stats: Any,
    images: Float[Array, "b h w 3"],
    *,
    train: bool,
    axis_name: str | None = None,
) -> tuple[Outputs, Any]:
    """Runs a model as a pure function.

    Args:
      graphdef: from `split`.
      params: pytree of the structure that `split` gives.
      batch_stats: likewise.
      images: `[b, h, w, 3]`, RGB in [0, 1].
      train: normalise by the batch and update the statistics, or normalise by the running ones.
      axis_name: under `shard_map` or `pmap`, the axis over which the batch is spread: statistics
        are then those of the global batch. Not needed under `jit` with a sharded batch.

    Returns:
      the outputs, and the new `batch_stats`, which are the old ones unless `train`.

    Raises:
      ValueError: the pictures have another shape.
    """
    model = nnx.merge(graphdef, params, batch_stats, copy=True)
    model.set_attributes(BatchNorm, use_running_average=not train, axis_name=axis_name)
    outputs = model(images)
    return outputs, nnx.state(model, nnx.BatchStat) if train else batch_stats


def _check_images(images: Float[Array, "b h w 3"], stride: int):
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images (shape {images.shape}) must be [batch, height, width, 3]")
    faults = [
        f"{side} (={length}) must be a multiple of {stride}, the largest stride"
        for side, length in zip(("height", "width"), images.shape[1:3], strict=True)
        if length % stride or length == 0
    ]
    if faults:
        raise ValueError("images: " + "; ".join(faults))
