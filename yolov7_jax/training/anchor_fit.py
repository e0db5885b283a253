"""Anchors that suit a data set: how well given ones do, and better ones."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.training.train_config import Anchors

GOOD_RECALL = 0.98  # given anchors that reach it stay
SMALLEST_SIDE = 2.0  # pixels; smaller objects say nothing about anchors
MOST_OBJECTS = 50_000  # more are sampled: the result hardly changes, the time does
STARTS = 10  # of k-means, each from other objects
STEPS = 1000  # of the evolution
MUTATION_RATE, MUTATION_SCALE = 0.9, 0.1
MUTATION_LIMITS = (0.3, 3.0)


class AnchorFit(NamedTuple):
    """How well anchors suit a data set.

    Attributes:
      recall: best possible recall: the fraction of objects that some anchor can reach.
      per_object: how many anchors can reach an object, on average.
      fitness: mean closeness of the best anchor, in [0, 1], zero for objects out of reach.
    """

    recall: float
    per_object: float
    fitness: float


def object_sizes(dataset: Dataset, image_size: int) -> Float32[np.ndarray, "n 2"]:
    """Returns width and height of the objects to learn, in pixels of training images.

    Args:
      dataset: crowd regions and objects of less than 2 pixels a side are left out.
      image_size: what the longer side of every image is scaled to.
    """
    image = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    sizes = dataset.sizes.astype(np.float32)
    scaled = image_size * sizes / sizes.max(1, keepdims=True, initial=1)
    objects = dataset.boxes[:, 2:] * scaled[image]
    return objects[~dataset.crowd & (objects >= SMALLEST_SIDE).any(1)]


def fit_of(
    anchors: Anchors, sizes: Float32[np.ndarray, "n 2"], threshold: float
) -> AnchorFit | None:
    """Measures anchors.

    Args:
      anchors: `anchors[level][a] = (width, height)` in pixels.
      sizes: of the objects, in pixels, from `object_sizes`.
      threshold: an anchor reaches an object if neither side differs by this factor or more.

    Returns:
      how well they do; None without objects.
    """
    if not len(sizes):
        return None
    flat = np.asarray([anchor for level in anchors for anchor in level], np.float32)
    closeness = _closeness(flat, sizes)
    best = _best_in_reach(closeness, threshold)
    return AnchorFit(
        recall=float((best > 0).mean()),
        per_object=float((closeness > 1 / threshold).sum(1).mean()),
        fitness=float(best.mean()),
    )


def better_anchors(
    anchors: Anchors, sizes: Float32[np.ndarray, "n 2"], threshold: float, seed: int
) -> Anchors:
    """Searches better anchors by k-means and evolution.

    Args:
      anchors: the given ones; the result has as many.
      sizes: of the objects, in pixels, from `object_sizes`.
      threshold: as for `fit_of`.
      seed: the same one gives the same anchors.

    Returns:
      The better anchors, smallest first and rounded to tenths of a pixel; the given ones where
      the search finds none that reach more objects.

    Source: SPEC of YOLOv7's training: k-means on (w, h), then 1000 mutations of which only
    improvements stay.
    """
    levels, per_level = len(anchors), len(anchors[0])
    before = fit_of(anchors, sizes, threshold)
    if before is None or len(np.unique(sizes, axis=0)) < levels * per_level:
        return anchors
    rng = np.random.default_rng(seed)
    sample = sizes
    if len(sizes) > MOST_OBJECTS:
        sample = sizes[rng.choice(len(sizes), MOST_OBJECTS, replace=False)]
    found = _evolve(_cluster(sample, levels * per_level, rng), sample, threshold, rng)
    found = found[np.argsort(found.prod(1))].round(1).reshape(levels, per_level, 2)
    result = tuple(tuple((width, height) for width, height in level) for level in found.tolist())
    after = fit_of(result, sizes, threshold)
    better = after is not None and (after.recall, after.fitness) > (before.recall, before.fitness)
    return result if better else anchors


def _closeness(
    anchors: Float[np.ndarray, "a 2"], sizes: Float32[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n a"]:
    """Returns, for each object and anchor, the worse of both sides' ratios, at most 1."""
    ratio = sizes[:, None] / anchors
    return np.minimum(ratio, 1 / ratio).min(2)


def _best_in_reach(
    closeness: Float[np.ndarray, "n a"], threshold: float
) -> Float[np.ndarray, " n"]:
    """Returns the closeness of each object's best anchor, 0 where none reaches it."""
    best = closeness.max(1)
    return best * (best > 1 / threshold)


def _cluster(
    sizes: Float32[np.ndarray, "n 2"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "a 2"]:
    """Returns the centres of the best of several runs of k-means."""
    from scipy.cluster.vq import kmeans2  # takes as long to import as JAX, and most runs need none

    spread = sizes.std(0, dtype=np.float64).clip(1e-6)  # so that both axes count alike
    points = sizes / spread
    distinct = np.unique(points, axis=0)
    best, least = None, np.inf
    for _ in range(STARTS):
        start = distinct[rng.choice(len(distinct), count, replace=False)]
        with warnings.catch_warnings():
            # An empty cluster keeps its centre, which the evolution may still move to some use.
            warnings.simplefilter("ignore")
            centres, labels = kmeans2(points, start, iter=30, minit="matrix")
        distance = float(np.square(points - centres[labels]).sum())
        if distance < least:
            best, least = centres, distance
    return best * spread


def _evolve(
    anchors: Float[np.ndarray, "a 2"],
    sizes: Float32[np.ndarray, "n 2"],
    threshold: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "a 2"]:
    """Mutates anchors, and keeps what fits better."""

    def fitness(candidate: Float[np.ndarray, "a 2"]) -> float:
        closeness = _closeness(candidate.astype(np.float32), sizes)
        return float(_best_in_reach(closeness, threshold).mean())

    highest = fitness(anchors)
    for _ in range(STEPS):
        changed = rng.random(anchors.shape) < MUTATION_RATE
        factors = 1 + changed * rng.random() * rng.normal(0, MUTATION_SCALE, anchors.shape)
        candidate = (anchors * factors.clip(*MUTATION_LIMITS)).clip(SMALLEST_SIDE)
        reached = fitness(candidate)
        if reached > highest:
            anchors, highest = candidate, reached
    return anchors
