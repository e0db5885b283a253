"""Time of loss and gradient together, against the floor that memory sets.

    python -m benchmarks.loss [--repeats 20]

The yardstick is the jitted value_and_grad of the sum of squares of the same outputs, measured in
the same run: it reads everything once and writes everything once. Only the ratios mean something
on a noisy machine. Batch 8, 640 x 640, 80 classes, on whatever device JAX finds.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import straightforward
from benchmarks.timing import machine, times_in_turns
from yolov7_jax import HeadConfig, LossConfig, Outputs, assign_ota, detection_loss, pad_targets
from yolov7_jax.nn.p5 import P5_ANCHORS, P5_STRIDES

HEAD = HeadConfig(80, P5_STRIDES, P5_ANCHORS)
IMAGE_SIZE = 640
BATCH = 8
GOALS = {16: 1.2, 40: 1.5, 100: 2.5, 200: 5.0}  # by number of objects in each image


def make_outputs(rng: np.random.Generator) -> Outputs:
    """Logits of an untrained head: normal, objectness mostly low."""
    levels = []
    for stride in HEAD.strides:
        side = IMAGE_SIZE // stride
        logits = rng.normal(size=(BATCH, side, side, HEAD.num_anchors, HEAD.num_fields))
        logits[..., 4] -= 3
        levels.append(jnp.asarray(logits, jnp.float32))
    return Outputs(tuple(levels))


def make_rows(rng: np.random.Generator, num_objects: int) -> np.ndarray:
    """Objects with the spread of COCO's: sides log-normal about 60 pixels, aspects about 1."""
    total = BATCH * num_objects
    side = np.exp(rng.normal(np.log(60), 0.9, (total, 1))).clip(8, 500) / IMAGE_SIZE
    aspect = np.exp(rng.normal(0, 0.4, (total, 1)))
    size = np.concatenate([side * np.sqrt(aspect), side / np.sqrt(aspect)], axis=1).clip(0.01, 0.95)
    centre = rng.uniform(size / 2, 1 - size / 2)
    image = np.repeat(np.arange(BATCH), num_objects)[:, None]
    label = rng.integers(0, HEAD.num_classes, (total, 1))
    return np.concatenate([image, label, centre, size], axis=1)


def main():
    """Prints a row for each number of objects."""
    parser = argparse.ArgumentParser(description="Times loss and gradient together.")
    parser.add_argument("--repeats", type=int, default=20, help="turns that medians are taken of")
    repeats = parser.parse_args().repeats

    rng = np.random.default_rng(0)
    outputs = make_outputs(rng)
    yardstick = jax.jit(
        jax.value_and_grad(lambda outputs: sum(jnp.sum(level**2) for level in outputs.lead))
    )

    def loss_with(assigner):
        def total(outputs, targets):
            return detection_loss(outputs, targets, HEAD, LossConfig(), assigner=assigner)[0]

        return jax.jit(jax.value_and_grad(total))

    fast, clear = loss_with(assign_ota), loss_with(straightforward.assign_ota)
    print(f"{machine()}; medians of {repeats} turns")
    print("objects   yardstick    loss + gradient     ratio  (goal)   straightforward")
    for num_objects, goal in GOALS.items():
        targets = pad_targets(make_rows(rng, num_objects), BATCH, num_objects)
        targets = jax.device_put(targets)
        calls = {
            "floor": functools.partial(yardstick, outputs),
            "ours": functools.partial(fast, outputs, targets),
            "clear": functools.partial(clear, outputs, targets),
        }
        floor, ours, theirs = times_in_turns(calls, repeats).values()
        print(
            f"{num_objects:7}{floor:9.1f} ms{ours:16.1f} ms{ours / floor:10.2f}"
            f"  ({goal}){theirs / floor:16.2f}"
        )


if __name__ == "__main__":
    main()
