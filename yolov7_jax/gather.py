"""Reads the few predictions that matter out of the many, level by level, without joining levels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

OBJECTNESS = 4  # its place among the fields tx ty tw th objectness class...

Levels = Sequence[Float[Array, "b _h _w a f"]]


def flat_index(
    row: Int[Array, "b n"],
    column: Int[Array, "b n"],
    anchor: Int[Array, "..."],
    level: Int[Array, "..."],
    levels: Levels,
) -> Int[Array, "b n"]:
    """Index of each prediction in its own level flattened to `[b, h * w * a, f]`."""
    columns = jnp.array([output.shape[2] for output in levels], jnp.int32)
    num_anchors = levels[0].shape[3]
    return (row * columns[level] + column) * num_anchors + anchor


def gather_predictions(
    levels: Levels, level: Int[Array, "b n"], index: Int[Array, "b n"]
) -> Float[Array, "b n f"]:
    """Takes the rows of logits at `index`, each from its own level.

    Args:
      levels: one array of logits per level.
      level: the level of each row.
      index: see `flat_index`.

    Returns:
      The rows, in the dtype of the levels.
    """
    rows = None
    for this, output in enumerate(levels):
        here = level == this
        # Rows of other levels all read prediction 0, which stays in the cache.
        found = jnp.take_along_axis(_flat(output), jnp.where(here, index, 0)[..., None], axis=1)
        rows = found if rows is None else jnp.where(here[..., None], found, rows)
    assert rows is not None
    return rows


@jax.custom_vjp
def objectness_and_predictions(
    levels: tuple[Float[Array, "b _h _w a f"], ...],
    level: Int[Array, "b n"],
    index: Int[Array, "b n"],
) -> tuple[tuple[Float[Array, "b _p"], ...], Float[Array, "b n f"]]:
    """Takes every objectness logit, and the whole rows at `index`.

    All that a loss needs of the outputs. Its own gradient writes each level once, objectness and
    rows together; left to itself, differentiation writes two arrays of that size and adds them.

    Args:
      levels: one array of logits per level.
      level: the level of each row.
      index: see `flat_index`; repeated rows are allowed.

    Returns:
      Objectness logits, `[b, h * w * a]` per level; and the rows.
    """
    objectness = tuple(_flat(output)[..., OBJECTNESS] for output in levels)
    return objectness, gather_predictions(levels, level, index)


def _forward(levels, level, index):
    shapes = tuple(jax.ShapeDtypeStruct(output.shape, output.dtype) for output in levels)
    return objectness_and_predictions(levels, level, index), (level, index, shapes)


def _backward(kept, cotangents):
    level, index, shapes = kept
    objectness, rows = cotangents
    gradients = []
    for this, (shape, dense) in enumerate(zip(shapes, objectness, strict=True)):
        num_fields = shape.shape[-1]
        fields = ((0, 0), (0, 0), (OBJECTNESS, num_fields - OBJECTNESS - 1))
        gradient = jnp.pad(dense[..., None], fields)  # [b, p, f]
        place = jnp.where(level == this, index, dense.shape[1])
        gradient = jax.vmap(lambda g, i, r: g.at[i].add(r, mode="drop"))(gradient, place, rows)
        gradients.append(gradient.reshape(shape.shape))
    return tuple(gradients), None, None


objectness_and_predictions.defvjp(_forward, _backward)


def _flat(output):
    return output.reshape(output.shape[0], -1, output.shape[-1])
