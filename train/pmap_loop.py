"""The public step under jax.pmap, one share of the batch a device: python train/pmap_loop.py.

Try it without accelerators: XLA_FLAGS=--xla_force_host_platform_device_count=8. The loss is that
of the whole batch whatever the number of devices; `BATCH` must be a multiple of it.
"""

import jax
import numpy as np

from yolov7_jax import LossConfig, assign_ota, create, pad_targets, split, training

SIZE, BATCH, STEPS, MAX_OBJECTS, WIDTH = 64, 16, 60, 4, 0.25
AXIS = "devices"
NUM_DEVICES = jax.local_device_count()


def make_batch(rng):
    """Makes images with a bright rectangle in each: class 0 is red, class 1 green."""
    images = rng.integers(0, 80, (BATCH, SIZE, SIZE, 3), np.uint8)
    labels, x, y, w, h = rng.integers((0, 0, 0, 16, 16), (2, 32, 32, 32, 32), (BATCH, 5)).T
    for i in range(BATCH):
        images[i, y[i] : y[i] + h[i], x[i] : x[i] + w[i], labels[i]] = 255
    boxes = np.array([x + w / 2, y + h / 2, w, h]) / SIZE
    rows = np.stack([np.arange(BATCH), labels, *boxes], axis=1)  # image, class, cx, cy, w, h
    return training.Batch(images, pad_targets(rows, BATCH, MAX_OBJECTS))


def share(array):
    """Returns `[devices, images a device, ...]` of `[images, ...]`."""
    return array.reshape(NUM_DEVICES, -1, *array.shape[1:])


model = create("yolov7-tiny", num_classes=2, key=jax.random.key(0), width=WIDTH)
graphdef, params, batch_stats = split(model)
optim = training.OptimConfig(
    optimizer="adam", lr0=0.003, nominal_batch=BATCH, warmup_min_steps=20, warmup_bias_lr=0.0
)
schedule = training.make_schedule(optim, epochs=1, batch_size=BATCH, num_images=STEPS * BATCH)
step = training.make_train_step(
    graphdef,
    model.head,
    LossConfig().scaled(model.head, SIZE),
    optim,
    batch_size=BATCH,  # of all devices together
    assigner=assign_ota,
    axis_name=AXIS,
)
train_step = jax.pmap(step, AXIS, in_axes=(0, 0, None), donate_argnums=0)
state = training.create_state(params, batch_stats, optim)
# Every device has its own copy of the state, along a new first axis; they stay equal.
states = jax.tree.map(lambda leaf: np.stack([leaf] * NUM_DEVICES), state)
rng = np.random.default_rng(0)
for number in range(STEPS):
    shares = jax.tree.map(share, make_batch(rng))
    states, metrics = train_step(states, shares, schedule.rates(number))
    if number % 10 == 9:
        print(f"step {number + 1}: loss {metrics.total[0] / BATCH:.3f}", flush=True)
