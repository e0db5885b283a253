"""Makes models, and runs them as pure functions.

A model is a Flax NNX module. `split` takes it apart into a static description and two plain
pytrees, and `apply` computes from those without side effects, so `jax.jit`, `jax.value_and_grad`
and any optimiser work on it as on every other function.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype
from jax.core import Tracer
from jaxtyping import Array, Float, Num

from yolov7_jax.config import HeadConfig
from yolov7_jax.errors import UserError
from yolov7_jax.nn.blocks import Activation, Build, Stage, leaky_relu, silu
from yolov7_jax.nn.head import Detect
from yolov7_jax.nn.norm import BatchNorm
from yolov7_jax.nn.p5 import P5_ANCHORS, P5_STRIDES, P5Backbone, P5Neck
from yolov7_jax.nn.p6 import P6_ANCHORS, P6_STRIDES, P6Backbone, P6Neck
from yolov7_jax.nn.tiny import TINY_ANCHORS, TinyBackbone, TinyNeck
from yolov7_jax.sharding import automatic
from yolov7_jax.types import Outputs

MOST_WIDTH = 64  # times the published channels
Form = Literal["training", "released", "deployed"]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What one of the released models is made of.

    Attributes:
      backbone, neck: make the parts.
      strides, anchors: of the head, as in `HeadConfig`.
      image_size: side of the images that the model was published with, in pixels.
      activation: the one that the model was published with.
    """

    backbone: Callable[[Build], TinyBackbone | P5Backbone | P6Backbone]
    neck: Callable[[Build], TinyNeck | P5Neck | P6Neck]
    strides: tuple[int, ...]
    anchors: tuple[tuple[tuple[float, float], ...], ...]
    image_size: int
    activation: Activation = silu


def _p5(*, channels: int, depth: int, keep_every: int, reparameterised: bool) -> Architecture:
    parts = {"channels": channels, "depth": depth}
    backbone = functools.partial(P5Backbone, **parts)
    of_neck = {"keep_every": keep_every, "reparameterised": reparameterised}
    neck = functools.partial(P5Neck, **parts, **of_neck)
    return Architecture(backbone, neck, P5_STRIDES, P5_ANCHORS, 640)


def _p6(
    *, channels: int, depth: int, pooled: bool, paired: bool, auxiliary_channels: int
) -> Architecture:
    parts = {"channels": channels, "depth": depth, "pooled": pooled, "paired": paired}
    backbone = functools.partial(P6Backbone, **parts)
    neck = functools.partial(P6Neck, **parts, auxiliary_channels=auxiliary_channels)
    return Architecture(backbone, neck, P6_STRIDES, P6_ANCHORS, 1280)


ARCHITECTURES = {
    "yolov7-tiny": Architecture(
        TinyBackbone, TinyNeck, P5_STRIDES, TINY_ANCHORS, 640, activation=leaky_relu
    ),
    "yolov7": _p5(channels=32, depth=4, keep_every=1, reparameterised=True),
    "yolov7x": _p5(channels=40, depth=6, keep_every=2, reparameterised=False),
    "yolov7-w6": _p6(channels=64, depth=4, pooled=False, paired=False, auxiliary_channels=80),
    "yolov7-e6": _p6(channels=80, depth=6, pooled=True, paired=False, auxiliary_channels=80),
    "yolov7-d6": _p6(channels=96, depth=8, pooled=True, paired=False, auxiliary_channels=96),
    "yolov7-e6e": _p6(channels=80, depth=6, pooled=True, paired=True, auxiliary_channels=80),
}


class Yolov7(nnx.Module):
    """A whole model, from images to logits.

    A fresh one is in training mode. `train()` and `eval()` choose the statistics that it
    normalises by, and whether the auxiliary heads of P6 models give anything.

    Attributes:
      name: the name that it was created by.
      head: strides, anchors and number of classes.
      width: what multiplies the number of channels.
      activation: the one that it was created with.
      form: "training", as it is created; "released", with a plain head, which the official weights
        for inference have; or "deployed" by `deploy`.
      backbone, neck, detect: the parts.
    """

    def __init__(self, name: str, head: HeadConfig, build: Build):
        architecture = ARCHITECTURES[name]
        self.name = name
        self.head = head
        self.width = build.width
        self.activation = build.activation
        self.form: Form = "training"
        self.backbone = architecture.backbone(build)
        self.neck = architecture.neck(build)
        self.detect = Detect(build, head, self.neck.widths, self.neck.auxiliary_widths)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Outputs:
        """Maps RGB images in [0, 1] to logits.

        Args:
          images: `[b, h, w, 3]`; h and w are multiples of the largest stride.

        Returns:
          float32 logits `[b, h / stride, w / stride, a, 5 + classes]`, one array per level, and
          in training as many more from the auxiliary heads of P6 models.

        Raises:
          ValueError: the images have another shape.
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
    remat: bool = False,
) -> Yolov7:
    """Makes a model with fresh parameters, in training mode.

    Args:
      name: one of `ARCHITECTURES`.
      num_classes: number of classes.
      key: decides the start parameters; `jax.random.key(0)` if not given.
      width: multiplies the number of channels everywhere, which are then rounded up to a
        multiple of 8.
      activation: replaces the published one, for example by `jax.nn.silu`.
      dtype: the type that is computed in; parameters, statistics and logits stay float32.
      remat: in the gradient, compute the inner maps of every stage again instead of keeping them.
        It pays on accelerators; XLA's CPU compiler saves nothing by it.

    Returns:
      the model; `.head` describes its head.

    Raises:
      UserError: names every argument that cannot be used.
    """
    if isinstance(key, Tracer):
        raise ValueError("create draws on the host; under a transformation use create_abstract")
    with jax.ensure_compile_time_eval():
        key = jax.random.key(0) if key is None else key
        words = np.asarray(jax.random.key_data(key)) if isinstance(key, jax.Array) else None
    if words is None or words.ndim != 1:
        raise ValueError(f"key (={key!r}) must be one key, as jax.random.key gives it")
    # Drawn on the host: each of the many shapes would cost a compilation on the device.
    rng = np.random.default_rng(words)
    return _build(name, num_classes, width, activation, dtype, remat, rng)


def create_abstract(
    name: str,
    num_classes: int = 80,
    *,
    width: float = 1.0,
    activation: Activation | None = None,
    dtype: Dtype = jnp.float32,
    remat: bool = False,
) -> Yolov7:
    """Makes a model whose arrays are only shapes and types, in no time and no memory.

    All arguments are those of `create`.

    Returns:
      the model, with a `jax.ShapeDtypeStruct` for every array.

    Raises:
      UserError: as for `create`.
    """
    return nnx.eval_shape(lambda: _build(name, num_classes, width, activation, dtype, remat, None))


def _build(
    name: str,
    num_classes: int,
    width: float,
    activation: Activation | None,
    dtype: Dtype,
    remat: bool,
    rng: np.random.Generator | None,
) -> Yolov7:
    faults = []
    if name not in ARCHITECTURES:
        faults.append(f"there is no model {name!r}; known: {', '.join(ARCHITECTURES)}")
    if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer):
        faults.append(f"num_classes (={num_classes!r}) must be an integer")
    is_number = isinstance(width, int | float | np.number) and not isinstance(width, bool)
    if not is_number or not 0 < width <= MOST_WIDTH:
        faults.append(f"width (={width!r}) must be a number over 0 and at most {MOST_WIDTH}")
    if activation is not None and not callable(activation):
        faults.append(f"activation (={activation!r}) must be a function, such as jax.nn.silu")
    try:
        is_real = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        is_real = False
    if not is_real:
        faults.append(f"dtype (={dtype!r}) must be a floating-point type")
    if faults:
        raise UserError("; ".join(faults))
    architecture = ARCHITECTURES[name]
    head = HeadConfig(num_classes, architecture.strides, architecture.anchors)
    activation = architecture.activation if activation is None else activation
    activation = silu if activation is jax.nn.silu else activation
    build = Build(float(width), activation, jnp.dtype(dtype), rng)
    model = Yolov7(name, head, build)
    model.set_attributes(Stage, remat=remat)
    return model


def split(model: Yolov7) -> tuple[nnx.GraphDef[Yolov7], nnx.State, nnx.State]:
    """Takes a model apart.

    Args:
      model: a model.

    Returns:
      graphdef: static and hashable: what `apply` rebuilds the model from. Equal for models that
        differ in their numbers alone, so that functions are compiled once for them.
      params: pytree of what is learned, float32; leaves are called `kernel`, `bias`, `scale`,
        `implicit_add` and `implicit_multiply`.
      batch_stats: pytree of the running statistics, float32.
    """
    graphdef, state = nnx.split(model)
    model = nnx.merge(graphdef, state)
    # `apply` sets the mode, so it must not make two descriptions of one model differ.
    model.train()
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, params, batch_stats


def apply(
    graphdef: nnx.GraphDef[Yolov7],
    params: Any,
    batch_stats: Any,
    images: Float[Array, "b h w 3"],
    *,
    train: bool,
    axis_name: str | None = None,
    frozen_norms: Collection[str] = (),
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
      frozen_norms: paths of norms through the model, with dots, that normalise by the running
        statistics and keep them also if `train`.

    Returns:
      the outputs, and the new `batch_stats`, which are the old ones unless `train`.

    Raises:
      ValueError: the images have another shape.
    """

    def run(params, batch_stats, images):
        model = nnx.merge(graphdef, params, batch_stats, copy=True)
        model.train() if train else model.eval()
        if frozen_norms:
            for path, module in nnx.iter_modules(model):
                if ".".join(map(str, path)) in frozen_norms:
                    module.eval()
        model.set_attributes(BatchNorm, axis_name=axis_name, raise_if_not_found=False)
        outputs = model(images)
        return outputs, nnx.state(model, nnx.BatchStat) if train else batch_stats

    return automatic(run, images, by_batch=(True, False))(params, batch_stats, images)


def normalize_images(images: Num[Array, "b h w 3"], dtype: Dtype = jnp.float32) -> Array:
    """Turns RGB images into what a model takes.

    Args:
      images: `[b, h, w, 3]`: 8-bit integers, or floats, which are in [0, 1] already.
      dtype: that of the result where images are integers; floats keep theirs.

    Returns:
      `[b, h, w, 3]` in [0, 1].
    """
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(dtype) / 255


def _check_images(images: Float[Array, "b h w 3"], stride: int):
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images (shape {images.shape}) must be [batch, height, width, 3]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images (dtype {images.dtype}) must be floating-point, RGB in [0, 1]: "
            "divide 8-bit images by 255 (normalize_images)"
        )
    faults = [
        f"{side} (={length}) must be a multiple of {stride}, the largest stride"
        for side, length in zip(("height", "width"), images.shape[1:3], strict=True)
        if length % stride or length == 0
    ]
    if faults:
        raise UserError("images: " + "; ".join(faults))
