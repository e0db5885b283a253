"""Reads the few predictions that matter out of the many, level by level, without joining levels."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

OBJECTNESS = 4  # its place among the fields tx ty tw th objectness class...
SMALLEST_CHUNK = 256  # matched predictions of each image in a pass
MOST_CHUNKS = 8

Levels = Sequence[Float[Array, "b _h _w a f"]]


class Matches(NamedTuple):
    """Which predictions are matched, by level and by index in their level; see `flat_index`."""

    matched: Bool[Array, "b n"]
    level: Int[Array, "b n"]
    prediction: Int[Array, "b n"]


# (box logits [b, k, 4], class logits [b, k, c], matched [b, k], about [b, k, ...]) -> tree [b, k]
TermsOf = Callable[[Float[Array, "b k 4"], Float[Array, "b k c"], Bool[Array, "b k"], Any], Any]


def flatten(output: Float[Array, "b h w a f"]) -> Float[Array, "b p f"]:
    """Returns the predictions of a level in one row: p = h * w * a."""
    return output.reshape(output.shape[0], -1, output.shape[-1])


def flat_index(
    row: Int[Array, "b n"],
    column: Int[Array, "b n"],
    anchor: Int[Array, "..."],
    level: Int[Array, "..."],
    levels: Levels,
) -> Int[Array, "b n"]:
    """Index of each prediction in its own flattened level."""
    columns = jnp.array([output.shape[2] for output in levels], jnp.int32)
    num_anchors = levels[0].shape[3]
    return (row * columns[level] + column) * num_anchors + anchor


def gather_rows(flat: Shaped[Array, "b p *f"], index: Int[Array, "b n"]) -> Shaped[Array, "b n *f"]:
    """Takes the rows at `index`, which must be in range, of each image; also of `[b, p]`."""
    return jax.vmap(lambda rows, index: rows.at[index].get(mode="promise_in_bounds"))(flat, index)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def objectness_and_terms(
    terms_of: TermsOf,
    levels: tuple[Float[Array, "b _h _w a f"], ...],
    matches: Matches,
    about: Any,
) -> tuple[tuple[Float[Array, "b _p"], ...], Any]:
    """Takes every objectness logit, and what a function makes of the matched predictions.

    That is all a loss needs of the outputs. Matched predictions are taken in chunks, up to the last
    that is used: of the many that padding makes room for, few are. The gradient writes each level
    once, objectness and matched rows together; left to itself, differentiation writes an array of
    that size for either, and adds them.

    Args:
      terms_of: a function of the logits of matched predictions in float32, zero where not matched,
        elementwise over `[b, k]`. It is differentiated with respect to the logits alone.
      levels: one array of logits per level.
      matches: which predictions; repeated ones are allowed.
      about: a tree of `[b, n, ...]` arrays for `terms_of`.

    Returns:
      Objectness logits, `[b, h * w * a]` per level; and the terms, `[b, n]`.
    """
    num = matches.matched.shape[1]
    width = _width(num)

    def step(chunk, terms):
        start = _start(chunk, num)
        part, about_part = _slice((matches, about), start, width)
        found = terms_of(*_logits(levels, part), part.matched, about_part)
        return jax.tree.map(
            lambda all_, part: lax.dynamic_update_slice_in_dim(all_, part, start, axis=1),
            terms,
            found,
        )

    part, about_part = _slice((matches, about), 0, width)
    shapes = jax.eval_shape(lambda: terms_of(*_logits(levels, part), part.matched, about_part))
    # Made from the data, so that under shard_map it varies over the devices as the terms do.
    nothing = 0.0 * matches.matched
    terms = jax.tree.map(lambda shape: nothing.astype(shape.dtype), shapes)
    terms = lax.fori_loop(0, _num_chunks(matches.matched), step, terms)
    return tuple(flatten(output)[..., OBJECTNESS] for output in levels), terms


def _forward(terms_of, levels, matches, about):
    return objectness_and_terms(terms_of, levels, matches, about), (levels, matches, about)


def _backward(terms_of, kept, cotangents):
    levels, matches, about = kept
    objectness, terms = cotangents
    num = matches.matched.shape[1]
    width = _width(num)
    is_objectness = jnp.arange(levels[0].shape[-1]) == OBJECTNESS
    # Float32 whatever the levels are: rows that are repeated many times add up.
    gradients = tuple(
        jnp.where(is_objectness, dense[..., None].astype(jnp.float32), 0) for dense in objectness
    )

    def step(chunk, gradients):
        start = _start(chunk, num)
        part, about_part, cotangent = _slice((matches, about, terms), start, width)
        _, pull = jax.vjp(
            lambda box, classes: terms_of(box, classes, part.matched, about_part),
            *_logits(levels, part),
        )
        box, classes = pull(cotangent)
        # The last chunk may reach back into the one before, which has added its rows already.
        fresh = part.matched & (start + jnp.arange(width) >= chunk * width)
        return tuple(
            _add_rows(gradient, box, classes, part.prediction, fresh & (part.level == level))
            for level, gradient in enumerate(gradients)
        )

    gradients = lax.fori_loop(0, _num_chunks(matches.matched), step, gradients)
    shaped = tuple(
        gradient.reshape(output.shape).astype(output.dtype)
        for gradient, output in zip(gradients, levels, strict=True)
    )
    return shaped, None, None


objectness_and_terms.defvjp(_forward, _backward)


def _logits(levels, matches):
    """Returns box and class logits of matched predictions, each from its own level."""
    # Zero before any arithmetic, not after it: an unused NaN would reach the gradient.
    rows = jnp.zeros((*matches.matched.shape, levels[0].shape[-1]))
    for level, output in enumerate(levels):
        # Those of other levels all read prediction 0, which stays in the cache.
        here = matches.matched & (matches.level == level)
        found = gather_rows(flatten(output), jnp.where(here, matches.prediction, 0))
        rows = jnp.where(here[..., None], found.astype(jnp.float32), rows)
    return rows[..., :OBJECTNESS], rows[..., OBJECTNESS + 1 :]


def _add_rows(gradient, box, classes, index, used):
    # Box and classes apart: joined to rows first, a select would interrupt every element's work.
    place = jnp.where(used, index, gradient.shape[1])

    def add(gradient, place, box, classes):
        gradient = gradient.at[place, :OBJECTNESS].add(box, mode="drop")
        return gradient.at[place, OBJECTNESS + 1 :].add(classes, mode="drop")

    return jax.vmap(add)(gradient, place, box, classes)


def _width(num):
    return min(num, max(SMALLEST_CHUNK, -(-num // MOST_CHUNKS)))


def _start(chunk, num):
    """Where a chunk begins; the last one reaches back rather than over the end."""
    width = _width(num)
    return jnp.minimum(chunk * width, num - width)


def _num_chunks(matched):
    num = matched.shape[1]
    end = jnp.max(jnp.where(matched, jnp.arange(1, num + 1), 0))
    return -(-end // _width(num))


def _slice(tree, start, width):
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, width, axis=1), tree)
