"""Reads the few predictions that matter out of the many, level by level, without joining levels."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from yolov7_jax.sharding import varying_like
from yolov7_jax.types import Levels

OBJECTNESS = 4  # its place among the fields tx ty tw th objectness class...
SMALLEST_CHUNK = 256  # predictions of each image in a pass
MAX_CHUNKS = 8


class MatchedPredictions(NamedTuple):
    """Which predictions are matched, by level and by index in their level; see `flat_index`."""

    matched: Bool[Array, "b n"]
    level: Int[Array, "b n"]
    prediction: Int[Array, "b n"]


# (box logits [b, k, 4], class logits [b, k, c], matched [b, k], extras [b, k, ...]) -> tree [b, k]
TermFn = Callable[[Float[Array, "b k 4"], Float[Array, "b k c"], Bool[Array, "b k"], Any], Any]


def flatten(output: Float[Array, "b h w a f"]) -> Float[Array, "b p f"]:
    """Returns the predictions of a level in one row: p = h * w * a."""
    return output.reshape(output.shape[0], -1, output.shape[-1])


def flat_index(
    row: Int[Array, "b n"],
    column: Int[Array, "b n"],
    anchor: Int[Array, "b n"],
    level: Int[Array, "b n"],
    levels: Levels,
) -> Int[Array, "b n"]:
    """Index of each prediction in its own flattened level."""
    columns = jnp.array([output.shape[2] for output in levels], jnp.int32)
    num_anchors = levels[0].shape[3]
    return (row * columns[level] + column) * num_anchors + anchor


def gather_rows(flat: Shaped[Array, "b p *f"], index: Int[Array, "b n"]) -> Shaped[Array, "b n *f"]:
    """Takes the rows at `index`, which must be in range, of each image; also of `[b, p]`."""
    return jax.vmap(lambda rows, index: rows.at[index].get(mode="promise_in_bounds"))(flat, index)


def chunk_width(num: int, max_chunks: int) -> int:
    """Returns how many of `num` things a pass takes: few, but for at most `max_chunks` passes."""
    return min(num, max(SMALLEST_CHUNK, -(-num // max_chunks)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def objectness_and_terms(
    term_fn: TermFn,
    levels: Levels,
    matches: MatchedPredictions,
    extras: Any,
) -> tuple[tuple[Float[Array, "b _p"], ...], Any]:
    """Takes every objectness logit, and what a function makes of the matched predictions.

    That is all a loss needs of the outputs. Matched predictions are taken in chunks, up to the last
    that is used: of the many that padding makes room for, few are. The gradient writes each level
    once, objectness and matched rows together; left to itself, differentiation writes an array of
    that size for either, and adds them.

    Args:
      term_fn: a function of the logits of matched predictions in float32, zero where not matched,
        elementwise over `[b, k]`. It is differentiated with respect to the logits alone.
      levels: one array of logits per level.
      matches: which predictions; repeated ones are allowed.
      extras: a tree of `[b, n, ...]` arrays for `term_fn`.

    Returns:
      Objectness logits, `[b, h * w * a]` per level; and the terms, `[b, n]`.
    """
    num = matches.matched.shape[1]
    width = chunk_width(num, MAX_CHUNKS)

    def terms_of_chunk(start):
        chunk, chunk_extras = _slice((matches, extras), start, width)
        return term_fn(*_logits(levels, chunk), chunk.matched, chunk_extras)

    def step(i, terms):
        start = _start(i, num)
        return jax.tree.map(
            lambda whole, part: lax.dynamic_update_slice_in_dim(whole, part, start, axis=1),
            terms,
            terms_of_chunk(start),
        )

    shapes = jax.eval_shape(terms_of_chunk, 0)
    zeros = jax.tree.map(lambda x: jnp.zeros(matches.matched.shape, x.dtype), shapes)
    zeros = varying_like(zeros, matches.matched)
    terms = lax.fori_loop(0, _num_chunks(matches.matched), step, zeros)
    return tuple(flatten(output)[..., OBJECTNESS] for output in levels), terms


def _forward(term_fn, levels, matches, extras):
    return objectness_and_terms(term_fn, levels, matches, extras), (levels, matches, extras)


def _backward(term_fn, residuals, cotangents):
    levels, matches, extras = residuals
    objectness, terms = cotangents
    num = matches.matched.shape[1]
    width = chunk_width(num, MAX_CHUNKS)
    is_objectness = jnp.arange(levels[0].shape[-1]) == OBJECTNESS
    # Float32 whatever the levels are: rows that are repeated many times add up.
    gradients = tuple(
        jnp.where(is_objectness, dense[..., None].astype(jnp.float32), 0) for dense in objectness
    )

    def step(i, gradients):
        start = _start(i, num)
        chunk, chunk_extras, cotangent = _slice((matches, extras, terms), start, width)
        _, pull = jax.vjp(
            lambda box, classes: term_fn(box, classes, chunk.matched, chunk_extras),
            *_logits(levels, chunk),
        )
        box, classes = pull(cotangent)
        # The last chunk may reach back into the one before, which has added its rows already.
        is_new = chunk.matched & (start + jnp.arange(width) >= i * width)
        return tuple(
            _add_rows(gradient, box, classes, chunk.prediction, is_new & (chunk.level == level))
            for level, gradient in enumerate(gradients)
        )

    gradients = lax.fori_loop(0, _num_chunks(matches.matched), step, gradients)
    shaped = tuple(
        gradient.reshape(output.shape).astype(output.dtype)
        for gradient, output in zip(gradients, levels, strict=True)
    )
    return shaped, None, None


objectness_and_terms.defvjp(_forward, _backward)


def _logits(
    levels: Levels, matches: MatchedPredictions
) -> tuple[Float[Array, "b k 4"], Float[Array, "b k c"]]:
    """Returns box and class logits of matched predictions, each from its own level."""
    # Zero before any arithmetic, not after it: an unused NaN would reach the gradient.
    rows = jnp.zeros((*matches.matched.shape, levels[0].shape[-1]))
    for level, output in enumerate(levels):
        # Those of other levels all read prediction 0, which stays in the cache.
        here = matches.matched & (matches.level == level)
        found = gather_rows(flatten(output), jnp.where(here, matches.prediction, 0))
        rows = jnp.where(here[..., None], found.astype(jnp.float32), rows)
    return rows[..., :OBJECTNESS], rows[..., OBJECTNESS + 1 :]


def _add_rows(
    gradient: Float[Array, "b p f"],
    box: Float[Array, "b k 4"],
    classes: Float[Array, "b k c"],
    index: Int[Array, "b k"],
    used: Bool[Array, "b k"],
) -> Float[Array, "b p f"]:
    """Adds the gradients of a chunk's boxes and classes to those of their level."""
    # Box and classes apart: joined to rows first, a select would interrupt every element's work.
    place = jnp.where(used, index, gradient.shape[1])

    def add(gradient, place, box, classes):
        gradient = gradient.at[place, :OBJECTNESS].add(box, mode="drop")
        return gradient.at[place, OBJECTNESS + 1 :].add(classes, mode="drop")

    return jax.vmap(add)(gradient, place, box, classes)


def _start(i: int | Int[Array, ""], num: int) -> Int[Array, ""]:
    """Where chunk i begins; the last one reaches back rather than over the end."""
    width = chunk_width(num, MAX_CHUNKS)
    return jnp.minimum(i * width, num - width)


def _num_chunks(matched: Bool[Array, "b n"]) -> Int[Array, ""]:
    """How many chunks hold all that is matched, in the fullest image."""
    num = matched.shape[1]
    end = jnp.max(jnp.where(matched, jnp.arange(1, num + 1), 0))
    return -(-end // chunk_width(num, MAX_CHUNKS))


def _slice(tree: Any, start: int | Int[Array, ""], width: int) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, width, axis=1), tree)
