"""A training loop of your own around the public step, on all devices: python train/own_loop.py.

Copy it, and let `make_batch` return your own images and objects. docs/your-own-loop.md explains it.
"""

import jax
import numpy as np
from flax import nnx

from yolov7_jax import LossConfig, assign_ota, create, pad_targets, split, training, weights
from yolov7_jax.boxes import cxcywh_to_xyxy
from yolov7_jax.evaluate.coco_ap import GroundTruth, ScoredBoxes, coco_ap

NAMES = ("red", "green")
SIZE, BATCH, STEPS, EPOCHS, MAX_OBJECTS, WIDTH = 64, 16, 20, 10, 4, 0.25


def make_batch(rng):
    """Makes images `[b, h, w, 3]`; rows are image, class, cx, cy, w, h in fractions of a side."""
    images = rng.integers(0, 80, (BATCH, SIZE, SIZE, 3), np.uint8)
    labels, x, y, w, h = rng.integers((0, 0, 0, 16, 16), (2, 32, 32, 32, 32), (BATCH, 5)).T
    for i in range(BATCH):  # a bright rectangle in each image
        images[i, y[i] : y[i] + h[i], x[i] : x[i] + w[i], labels[i]] = 255
    boxes = np.array([x + w / 2, y + h / 2, w, h]) / SIZE
    rows = np.stack([np.arange(BATCH), labels, *boxes], axis=1)
    return training.Batch(images, pad_targets(rows, BATCH, MAX_OBJECTS))


model = create("yolov7-tiny", len(NAMES), key=jax.random.key(0), width=WIDTH)
graphdef, params, batch_stats = split(model)
loss = LossConfig().scaled(model.head, SIZE)
optim = training.OptimConfig(
    optimizer="adam", lr0=0.003, nominal_batch=BATCH, warmup_min_steps=20, warmup_bias_lr=0.0
)
schedule = training.make_schedule(optim, epochs=EPOCHS, batch_size=BATCH, num_images=STEPS * BATCH)
mesh = training.make_mesh(BATCH)  # every device gets its part of each batch
static = {"assigner": assign_ota, "mesh": mesh}
step = training.make_train_step(graphdef, model.head, loss, optim, batch_size=BATCH, **static)
train_step = jax.jit(step, donate_argnums=0)
eval_step = jax.jit(training.make_eval_step(graphdef, model.head, loss, **static))
fresh = training.create_state(params, batch_stats, optim)  # takes over the model's arrays
state = training.place(fresh, training.replicated(mesh))
rng, val = np.random.default_rng(0), make_batch(np.random.default_rng(1))
for epoch in range(EPOCHS):
    for number in range(epoch * STEPS, (epoch + 1) * STEPS):
        batch = training.shard_batch(make_batch(rng), mesh)
        state, metrics = train_step(state, batch, schedule.rates(number))
    given = training.shard_batch((*val, np.ones(BATCH, bool)), mesh)  # all images count
    detections, _ = eval_step(state.ema_params, state.ema_batch_stats, *given)
    boxes, scores, labels, valid = map(np.asarray, detections)
    found = ScoredBoxes(np.nonzero(valid)[0], boxes[valid], scores[valid], labels[valid])
    objects, labels, valid = val.targets
    boxes = SIZE * np.asarray(cxcywh_to_xyxy(objects))
    truth = GroundTruth(np.nonzero(valid)[0], boxes[valid], labels[valid])
    ap50 = coco_ap(truth, found, num_images=BATCH, num_classes=len(NAMES)).ap50
    print(f"epoch {epoch + 1}: loss {metrics.total / BATCH:.3f}, AP50 {ap50:.3f}", flush=True)

model = nnx.merge(graphdef, state.ema_params, state.ema_batch_stats)
weights.save_safetensors(model, "own.safetensors", names=NAMES)
