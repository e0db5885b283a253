"""Images to predictions, on the device: what predicting, evaluating and exporting share."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from yolov7_jax.config import PAD_VALUE, HeadConfig
from yolov7_jax.decode import decode
from yolov7_jax.model import apply, normalize_images
from yolov7_jax.types import Predictions

# Test-time augmentation: how much smaller, and whether mirrored. Source: YOLOv7's evaluation.
VIEWS = ((1.0, False), (0.83, True), (0.67, False))


def forward(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    batch_stats: nnx.State,
    images: UInt8[Array, "b h w 3"],
    head: HeadConfig,
    *,
    augment: bool = False,
) -> Predictions:
    """Runs a network on images.

    Args:
      graphdef: the network, from `split`.
      params: its parameters.
      batch_stats: its running statistics.
      images: RGB, as `letterbox` gives them; height and width are multiples of the largest
        stride.
      head: that of the network.
      augment: look at each image three times (`VIEWS`), which finds a little more and takes
        twice the time. There are then as many predictions as all three give, one after another.

    Returns:
      `Predictions` in pixels of `images`.
    """
    scaled = normalize_images(images)
    views = VIEWS if augment else VIEWS[:1]
    parts = []
    for share, mirrored in views:
        seen, scale_xy = _smaller(scaled, share, max(head.strides))
        outputs, _ = apply(
            graphdef, params, batch_stats, seen[:, :, ::-1] if mirrored else seen, train=False
        )
        found = decode(outputs.lead, head)
        boxes = found.boxes_xyxy
        if mirrored:
            x0, y0, x1, y1 = jnp.moveaxis(boxes, -1, 0)
            boxes = jnp.stack([seen.shape[2] - x1, y0, seen.shape[2] - x0, y1], axis=-1)
        parts.append(found._replace(boxes_xyxy=boxes / jnp.asarray(scale_xy * 2, jnp.float32)))
    return Predictions(*(jnp.concatenate(field, axis=1) for field in zip(*parts, strict=True)))


def _smaller(
    images: Float[Array, "b h w 3"], share: float, stride: int
) -> tuple[Float[Array, "b _h _w 3"], tuple[float, float]]:
    """Returns images shrunk and padded with grey at the right and below, and the scale (x, y)."""
    batch, height, width, _ = images.shape
    if share == 1:
        return images, (1.0, 1.0)
    rows, columns = round(height * share), round(width * share)
    shrunk = jax.image.resize(images, (batch, rows, columns, 3), "linear")
    grey = ((0, 0), (0, -rows % stride), (0, -columns % stride), (0, 0))
    padded = jnp.pad(shrunk, grey, constant_values=PAD_VALUE / 255)
    return padded, (columns / width, rows / height)
