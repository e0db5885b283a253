"""Turns a trained model into the one that computes the same with fewer operations."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float

from yolov7_jax.model import Yolov7
from yolov7_jax.nn.blocks import ConvAct, ConvBnAct
from yolov7_jax.nn.head import DetectLevel, ImplicitDetectLevel
from yolov7_jax.nn.norm import EPSILON, BatchNorm
from yolov7_jax.nn.p6 import P6Neck
from yolov7_jax.nn.rep import RepConv, RepConvFolded

CENTRE = np.pad(np.ones((1, 1, 1, 1), np.float32), ((1, 1), (1, 1), (0, 0), (0, 0)))  # of 3x3


def deploy(model: Yolov7) -> Yolov7:
    """Folds whatever is constant in evaluation into the convolutions.

    Batch norms become a scale of the kernels and a bias, the branches of `RepConv` one 3x3
    convolution, and the implicit vectors of the head part of its convolutions. Auxiliary heads and
    the convolutions that lead to them alone are dropped.

    Args:
      model: any model; it is not changed. A deployed one gives an equal one, and one from
        `create_abstract` one of shapes.

    Returns:
      a new model with the outputs that `model` has in evaluation, up to rounding. It has no
      statistics, and being told to train changes nothing in it.

    Source: YOLOv7 (arXiv 2207.02696), sections 4.1 and 4.3; RepVGG (arXiv 2101.03697).
    """
    return _of_copy(_deployed, model)


def fold_head(model: Yolov7) -> Yolov7:
    """Folds the implicit vectors and drops the auxiliary heads, but keeps the batch norms.

    The official weights for inference are published in this form.

    Args:
      model: as for `deploy`.

    Returns:
      a new model, likewise; it can be trained, without auxiliary heads.
    """
    return _of_copy(_with_plain_head, model)


def _of_copy(change: Callable[[Yolov7], Yolov7], model: Yolov7) -> Yolov7:
    graphdef, state = nnx.split(model)
    leaves = jax.tree.leaves(state)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return nnx.eval_shape(lambda state: change(nnx.merge(graphdef, state)), state)
    if not any(isinstance(leaf, Tracer) for leaf in leaves):
        # On the host: each of the many shapes would cost compilations on the device.
        state = jax.device_get(state)
    changed = change(nnx.merge(graphdef, state, copy=True))
    nnx.update(changed, jax.device_put(nnx.state(changed)))
    return changed


def _with_plain_head(model: Yolov7) -> Yolov7:
    if isinstance(model.neck, P6Neck):
        model.neck.auxiliary = nnx.List()
        model.detect.auxiliary = nnx.List()
    _fold_children(model.detect)
    if model.form == "training":
        model.form = "released"
    return model


def _deployed(model: Yolov7) -> Yolov7:
    model = _with_plain_head(model)
    for part in (model.backbone, model.neck):
        _fold_children(part)
    model.form = "deployed"
    model.eval()
    return model


def _fold_children(module: nnx.Module) -> None:
    """Replaces, at any depth, what can be folded."""
    for name, child in list(vars(module).items()):
        if isinstance(child, nnx.List):
            for i, element in enumerate(child):
                child[i] = _folded(element)
        elif isinstance(child, nnx.Module):
            setattr(module, name, _folded(child))


def _folded(module: nnx.Module) -> nnx.Module:
    match module:
        case ConvBnAct():
            kernel, bias = _with_norm(module.kernel[...], module.norm)
            return ConvAct(
                kernel, bias, module.stride, activation=module.activation, dtype=module.dtype
            )
        case RepConv():
            kernel, bias = _rep_conv(module)
            return RepConvFolded(kernel, bias, 1, activation=module.activation, dtype=module.dtype)
        case ImplicitDetectLevel():
            kernel = module.kernel[...]
            with jax.default_matmul_precision("highest"):
                shift = module.implicit_add[...] @ kernel[0, 0]
            scale = module.implicit_multiply[...]
            bias = (module.bias[...] + shift) * scale
            return DetectLevel(kernel * scale, bias, dtype=module.dtype)
    _fold_children(module)
    return module


def _rep_conv(module: RepConv) -> tuple[Float[Array, "3 3 i o"], Float[Array, " o"]]:
    """Returns the one kernel and bias that give the sum of all branches."""
    kernel, bias = _with_norm(module.kernel3[...], module.norm3)
    kernel1, bias1 = _with_norm(module.kernel1[...], module.norm1)
    kernel, bias = kernel + CENTRE * kernel1, bias + bias1
    if module.norm0 is not None:
        gain, bias0 = _gain_and_bias(module.norm0)
        kernel, bias = kernel + CENTRE * np.eye(len(gain), dtype=np.float32) * gain, bias + bias0
    return kernel, bias


def _with_norm(
    kernel: Float[Array, "k k i o"], norm: BatchNorm
) -> tuple[Float[Array, "k k i o"], Float[Array, " o"]]:
    """Returns kernel and bias of a convolution that does what one and the norm behind it do."""
    gain, bias = _gain_and_bias(norm)
    return kernel * gain, bias


def _gain_and_bias(norm: BatchNorm) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    gain = (norm.variance[...] + EPSILON) ** -0.5 * norm.scale[...]
    return gain, norm.bias[...] - norm.mean[...] * gain
