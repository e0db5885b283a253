"""Time of NMS, against one sort of the same scores, and how it grows.

    python -m benchmarks.nms [--repeats 5]

30,000 predictions of 80 classes in each of 8 images, 300 kept, on whatever device JAX finds. The
yardstick is `jnp.sort` of the scores that NMS is given, `[8, 30000 * 80]` with several labels a
box, and `[8, 30000]` where a box has its best one alone, after which all else is a part of the
time. Only the ratios mean something on a noisy machine.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import machine, times_in_turns
from yolov7_jax import Predictions, nms

BATCH, NUM_CLASSES = 8, 80
CANDIDATES = 30000
KEPT = 300
GOAL = 5.0  # sorts


def make_predictions(rng: np.random.Generator, num: int, objects: int) -> Predictions:
    """Boxes around objects, a few classes likely in each, as a trained network gives them."""
    which = rng.integers(objects, size=(BATCH, num))
    low = np.take_along_axis(rng.uniform(0, 560, (BATCH, objects, 2)), which[..., None], 1)
    side = np.take_along_axis(rng.uniform(20, 200, (BATCH, objects, 2)), which[..., None], 1)
    low, side = low + rng.normal(0, 4, low.shape), side * rng.uniform(0.8, 1.25, side.shape)
    boxes = np.concatenate([low, low + side], -1)
    objectness = rng.beta(0.3, 2, (BATCH, num))
    labels = np.take_along_axis(rng.integers(NUM_CLASSES, size=(BATCH, objects)), which, 1)
    scores = rng.beta(0.2, 8, (BATCH, num, NUM_CLASSES))
    np.put_along_axis(scores, labels[..., None], rng.uniform(0.5, 1, (BATCH, num, 1)), 2)
    fields = boxes, objectness, scores * objectness[..., None]
    return Predictions(*(jnp.asarray(field, jnp.float32) for field in fields))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Times NMS.")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement")
    repeats = parser.parse_args().repeats
    rng = np.random.default_rng(0)
    print(f"{machine()}; batch {BATCH}, {NUM_CLASSES} classes")
    predictions = make_predictions(rng, CANDIDATES, objects=400)

    def of(multi_label: bool, predictions: Predictions, kept: int) -> Callable[[], object]:
        run = jax.jit(
            lambda given: nms(
                given,
                score_threshold=0.001,
                iou_threshold=0.65,
                multi_label=multi_label,
                max_detections=kept,
            )
        )
        return lambda: run(predictions)

    sort = jax.jit(lambda scores: jnp.sort(scores.reshape(BATCH, -1), axis=1))
    best = jax.block_until_ready(predictions.scores.max(-1))
    times = times_in_turns(
        {
            "several": of(True, predictions, KEPT),
            "sort of several": lambda: sort(predictions.scores),
            "best": of(False, predictions, KEPT),
            "sort of best": lambda: sort(best),
        },
        repeats,
    )
    for name, what, goal in (
        ("several labels a box", "several", f"; goal {GOAL:g}"),
        ("the best label alone", "best", ""),
    ):
        spent, yardstick = times[what], times[f"sort of {what}"]
        print(
            f"{name}: nms {spent:.0f} ms, one sort {yardstick:.1f} ms, "
            f"ratio {spent / yardstick:.2f}{goal}"
        )

    print("\nthe best label alone, ms by candidates (down) and detections kept (across):")
    kepts = (75, 150, 300)
    print("        " + "".join(f"{kept:>8}" for kept in kepts))
    for num in (7500, 15000, 30000):
        fewer = Predictions(*(field[:, :num] for field in predictions))
        row = times_in_turns({kept: of(False, fewer, kept) for kept in kepts}, repeats).values()
        print(f"{num:>8}" + "".join(f"{spent:8.1f}" for spent in row))


if __name__ == "__main__":
    main()
