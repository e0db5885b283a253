"""A Flax Linen network of your own with our loss, decoding and NMS: python train/linen_loop.py."""

import flax.linen as nn
import jax
import numpy as np
import optax

from yolov7_jax import HeadConfig, LossConfig, Outputs, decode, detection_loss, nms, pad_targets

SIZE, BATCH, STEPS, MAX_OBJECTS = 64, 8, 400, 4
HEAD = HeadConfig(num_classes=2, strides=(8,), anchors=[[(16, 16), (32, 32)]])


class Net(nn.Module):
    """Three convolutions to logits `[b, h, w, anchors, 5 + classes]` of one level."""

    @nn.compact
    def __call__(self, images):
        """Returns the outputs that the loss and `decode` take."""
        x = nn.relu(nn.Conv(32, (8, 8), strides=8)(images))
        x = nn.relu(nn.Conv(32, (5, 5))(x))
        x = nn.Conv(HEAD.num_anchors * HEAD.num_fields, (1, 1))(x)
        return Outputs(lead=(x.reshape(*x.shape[:3], HEAD.num_anchors, HEAD.num_fields),))


def make_batch(rng):
    """Makes images with a bright rectangle in each; class 0 is red, class 1 green."""
    images = rng.normal(0.2, 0.05, (BATCH, SIZE, SIZE, 3)).astype(np.float32)
    labels, x, y, w, h = rng.integers((0, 0, 0, 12, 12), (2, 36, 36, 28, 28), (BATCH, 5)).T
    for i in range(BATCH):
        images[i, y[i] : y[i] + h[i], x[i] : x[i] + w[i], labels[i]] += 0.7
    boxes = np.array([x + w / 2, y + h / 2, w, h]) / SIZE
    rows = np.stack([np.arange(BATCH), labels, *boxes], axis=1)  # image, class, cx, cy, w, h
    return images, pad_targets(rows, BATCH, MAX_OBJECTS)


@jax.jit
def train_step(params, opt_state, images, targets):
    """Learns from one batch; the last result is the loss and its terms."""

    def loss_fn(params):
        return detection_loss(net.apply(params, images), targets, HEAD, LossConfig(), balance=[4.0])

    loss, gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, opt_state = optimizer.update(gradients, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


net, optimizer, rng = Net(), optax.adam(1e-2), np.random.default_rng(0)
params = net.init(jax.random.key(0), np.zeros((1, SIZE, SIZE, 3), np.float32))
opt_state = optimizer.init(params)
for step in range(1, STEPS + 1):
    images, targets = make_batch(rng)
    params, opt_state, (total, terms) = train_step(params, opt_state, images, targets)
    if step % 100 == 0 or step == 1:
        print(f"step {step}: loss {total:.3f}, box {terms.box:.4f}", flush=True)

found = nms(decode(net.apply(params, images).lead, HEAD), score_threshold=0.25, iou_threshold=0.45)
print(f"{found.valid.sum()} objects found in the last {BATCH} images")
