"""What a model costs, counted without running or allocating anything."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core

from yolov7_jax.deploy import deploy
from yolov7_jax.errors import UserError
from yolov7_jax.model import ARCHITECTURES, Yolov7, apply, split

# Whatever else there is works on each value by itself, or moves it, and the compiler joins it with
# its neighbours: what comes out can take the place of what went in.
SEPARATE = {"conv_general_dilated", "dot_general", "concatenate", "pad", "gather"}

FORMS = {
    "training": "training form",
    "released": "plain head, no auxiliary heads",
    "deployed": "deployed",
}


def described(model: Yolov7) -> str:
    """Returns a model in a few words."""
    return f"{model.name}, {FORMS[model.form]}, {model.head.num_classes} classes"


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """What a model costs.

    Attributes:
      image_size: side of the square image that the numbers are for, in pixels.
      parameters: learned numbers in the training form; None for a deployed model.
      deploy_parameters: numbers in the deploy form.
      flops: operations of the training form's convolutions for one image from pixels to logits,
        auxiliary heads included, a multiplication and an addition counted as two; None likewise.
      deploy_flops: the same of the deploy form.
      memory: bytes of the deploy form for one image, parameters and maps in float32: the most
        that is alive at a time if the operations run in their written order, which a compiler may
        undercut or exceed.
    """

    image_size: int
    parameters: int | None
    deploy_parameters: int
    flops: int | None
    deploy_flops: int
    memory: int


def summarize(model: Yolov7, image_size: int | None = None) -> ModelSummary:
    """Counts what a model costs.

    Args:
      model: any model; one from `create_abstract` will do.
      image_size: side of the image in pixels; the published one if not given.

    Returns:
      the numbers.

    Raises:
      UserError: the image size is not a multiple of the largest stride.
    """
    side = ARCHITECTURES[model.name].image_size if image_size is None else image_size
    stride = max(model.head.strides)
    if side < 1 or side % stride:
        raise UserError(f"image_size (={side}) must be a multiple of {stride}, the largest stride")
    model = _abstract(model)
    deployed = deploy(model)
    whole, folded = _program(model, side), _program(deployed, side)
    deploy_parameters = _parameters(deployed)
    return ModelSummary(
        image_size=side,
        parameters=None if model.form == "deployed" else _parameters(model),
        deploy_parameters=deploy_parameters,
        flops=None if model.form == "deployed" else _flops(whole),
        deploy_flops=_flops(folded),
        memory=4 * deploy_parameters + _peak_bytes(folded),
    )


def _abstract(model: Yolov7) -> Yolov7:
    """Returns a model without its numbers, so that nothing is computed with them."""
    graphdef, state = nnx.split(model)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    return nnx.merge(graphdef, shapes)


def _parameters(model: Yolov7) -> int:
    _, params, _ = split(model)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _program(model: Yolov7, side: int) -> core.Jaxpr:
    """Returns what a model does with one image; in training, unless it is deployed."""
    graphdef, params, batch_stats = split(model)
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.make_jaxpr(
        lambda params, batch_stats, images: apply(
            graphdef, params, batch_stats, images, train=True
        )[0]
    )(params, batch_stats, images).jaxpr


def _flops(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = _aval(equation.invars[1]).shape
            spec = equation.params["dimension_numbers"].rhs_spec
            per_output = math.prod(kernel) // kernel[spec[0]]
            total += 2 * _aval(equation.outvars[0]).size * per_output
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = _aval(equation.invars[0]).shape
            depth = math.prod(left[axis] for axis in contracted)
            total += 2 * _aval(equation.outvars[0]).size * depth
        else:
            total += max(map(_flops, _inner(equation)), default=0)
    return total


def _peak_bytes(jaxpr: core.Jaxpr) -> int:
    """Returns the most bytes that are alive at a time, what comes in from outside left out."""
    last_use = {}
    for number, equation in enumerate(jaxpr.eqns):
        last_use |= {var: number for var in equation.invars if isinstance(var, core.Var)}
    last_use |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if isinstance(var, core.Var)}
    alive, peak = {}, 0
    for number, equation in enumerate(jaxpr.eqns):
        made = {var: _aval(var).size * _aval(var).dtype.itemsize for var in equation.outvars}
        inside = max(map(_peak_bytes, _inner(equation)), default=0)
        separate = equation.primitive.name in SEPARATE or inside
        before = sum(alive.values())
        alive = {
            var: size for var, size in (alive | made).items() if last_use.get(var, -1) > number
        }
        now = before + max(sum(made.values()), inside) if separate else sum(alive.values())
        peak = max(peak, now)
    return peak


def _aval(atom: core.Var | core.Literal) -> Any:
    """Returns shape and type of a value, which all values here have."""
    return atom.aval


def _inner(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Yields the programs inside an operation."""
    for value in equation.params.values():
        for candidate in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(candidate, core.ClosedJaxpr):
                yield candidate.jaxpr
            elif isinstance(candidate, core.Jaxpr):
                yield candidate
