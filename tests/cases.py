"""Random cases of the loss, and the ways to evaluate them that the tests share.

Compilation takes most of the time of these tests, so evaluators are cached: cases with the same
head, configuration and shapes share one.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import oracle
from compiling import AS_USERS_DO

from yolov7_jax import (
    Assignment,
    HeadConfig,
    LossConfig,
    LossTerms,
    Outputs,
    Targets,
    assign_ota,
    detection_loss,
)

P5 = HeadConfig(
    num_classes=3,
    strides=(8, 16, 32),
    anchors=(
        ((6, 8), (10, 18), (20, 14)),
        ((18, 38), (38, 28), (36, 60)),
        ((48, 40), (64, 80), (100, 90)),
    ),
)
P6 = HeadConfig(
    num_classes=2,
    strides=(8, 16, 32, 64),
    anchors=(*P5.anchors, ((96, 120), (160, 100), (140, 180))),
)


class Case(NamedTuple):
    outputs: Outputs
    rows: np.ndarray  # image, class, cx, cy, w, h
    head: HeadConfig
    config: LossConfig

    @property
    def batch(self) -> int:
        return self.outputs.lead[0].shape[0]


class Evaluation(NamedTuple):
    total: jax.Array
    terms: LossTerms
    gradients: Outputs
    assignments: tuple[Assignment, ...]  # of the lead, and of the auxiliary heads


@functools.cache
def evaluator(
    head: HeadConfig,
    config: LossConfig,
    assigner: Callable[..., Assignment] = assign_ota,
    *,
    jitted: bool = True,
    as_users_do: bool = False,
) -> Callable[..., Evaluation]:
    """A function (outputs, targets, balance=None) -> `Evaluation`."""

    def evaluate(outputs, targets, balance=None):
        def loss(outputs):
            assignments = []

            def recorded(*args, **keywords):
                assignments.append(assigner(*args, **keywords))
                return assignments[-1]

            total, terms = detection_loss(
                outputs, targets, head, config, assigner=recorded, balance=balance
            )
            return total, (terms, tuple(assignments))

        (total, (terms, assignments)), gradients = jax.value_and_grad(loss, has_aux=True)(outputs)
        return Evaluation(total, terms, gradients, assignments)

    options = AS_USERS_DO if as_users_do else None
    return jax.jit(evaluate, compiler_options=options) if jitted else evaluate


@functools.cache
def matcher(
    head: HeadConfig, config: LossConfig, assigner: Callable[..., Assignment], radius: float = 0.5
) -> Callable[..., Assignment]:
    """A jitted function (lead, targets) -> `Assignment`."""
    return jax.jit(functools.partial(assigner, head=head, config=config, center_radius=radius))


def match_list(assignment: Assignment) -> list[oracle.Match]:
    """The matches in the order in which they stand, image by image."""
    matched = np.asarray(assignment.matched)
    fields = ("level", "anchor", "row", "column", "object")
    image, place = np.nonzero(matched)
    found = [np.asarray(getattr(assignment, field))[image, place] for field in fields]
    return [oracle.Match(*(int(x) for x in match)) for match in zip(image, *found, strict=True)]


def grid_shapes(head: HeadConfig, coarsest: tuple[int, int]) -> list[tuple[int, int]]:
    """(rows, columns) of every level, given those of the last."""
    last = head.strides[-1]
    return [(coarsest[0] * last // s, coarsest[1] * last // s) for s in head.strides]


def random_levels(
    rng: np.random.Generator, head: HeadConfig, coarsest: tuple[int, int], batch: int
) -> tuple[np.ndarray, ...]:
    """Logits of one head, normal with a deviation of 1.5."""
    return tuple(
        (1.5 * rng.standard_normal((batch, *shape, head.num_anchors, head.num_fields))).astype(
            np.float32
        )
        for shape in grid_shapes(head, coarsest)
    )


def random_rows(
    rng: np.random.Generator,
    num_classes: int,
    counts: Sequence[int],
    on_lines: Sequence[int] = (),
) -> np.ndarray:
    """Objects `[n, 6]`, `counts[image]` of them each.

    Args:
      rng: the source of randomness.
      num_classes: labels are uniform below it.
      counts: objects per image.
      on_lines: numbers of cells; half of the centres are put on lines of such a grid, or halfway
        between two, where rounding decides which cells count.
    """
    image = np.repeat(np.arange(len(counts)), counts)
    num = len(image)
    size = rng.uniform(0.06, 0.6, (num, 2)) ** rng.uniform(1, 1.5, (num, 1))
    centre = rng.uniform(size / 2, 1 - size / 2)
    for axis in range(2):
        for index in range(num if on_lines else 0):
            if rng.uniform() < 0.5:
                cells = 2 * rng.choice(on_lines)
                centre[index, axis] = rng.integers(0, cells + 1) / cells
    labels = rng.integers(num_classes, size=num)
    return np.column_stack([image, labels, centre, size]).astype(np.float32)


def random_case(
    seed: int,
    head: HeadConfig,
    config: LossConfig,
    *,
    coarsest: tuple[int, int],
    counts: Sequence[int],
    auxiliary: bool = False,
    on_lines: Sequence[int] = (),
) -> Case:
    """A case of normal logits and uniform objects; `coarsest` is the last level's grid."""
    rng = np.random.default_rng(seed)
    lead = random_levels(rng, head, coarsest, len(counts))
    others = random_levels(rng, head, coarsest, len(counts)) if auxiliary else ()
    rows = random_rows(rng, head.num_classes, counts, on_lines)
    return Case(Outputs(lead, others), rows, head, config)


def relative_error(found, wanted) -> float:
    """The largest difference of two pytrees of arrays, over the largest value wanted."""
    found, wanted = (
        [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)] for tree in (found, wanted)
    )
    largest = max((np.abs(leaf).max(initial=0) for leaf in wanted), default=0)
    worst = max(np.abs(f - w).max(initial=0) for f, w in zip(found, wanted, strict=True))
    return float(worst / max(largest, 1e-30))


def garbage(targets: Targets, seed: int = 0) -> Targets:
    """The same objects, with values in the padding that no parser would let through."""
    rng = np.random.default_rng(seed)
    nonsense = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0, -3], np.float32)
    valid = np.asarray(targets.valid)
    boxes = np.where(valid[..., None], targets.boxes, rng.choice(nonsense, np.shape(targets.boxes)))
    labels = np.where(
        valid, targets.labels, rng.choice([-1, -(2**31), 2**31 - 1, 10**6], valid.shape)
    )
    return Targets(boxes.astype(np.float32), labels.astype(np.int32), valid)
