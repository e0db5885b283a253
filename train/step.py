"""The two functions that run on the device: one training step, one batch of evaluation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from train.optim import OptimConfig, Rates, apply_gradients, update_ema
from train.state import TrainState
from yolov7_jax import Detections, HeadConfig, LossConfig, Targets, decode, detection_loss, nms
from yolov7_jax import model as networks

# COCO AP counts detections of every score, so evaluation keeps nearly all of them.
EVAL_SCORE_THRESHOLD = 0.001
EVAL_IOU_THRESHOLD = 0.65


class Metrics(NamedTuple):
    """The numbers of one step, or their sums over several.

    Attributes:
      box, obj, cls: the terms of the loss per image, after their gains.
      total: what was differentiated: their sum times the batch size.
      num_matched: matched candidates of the batch.
    """

    box: Float[Array, ""]
    obj: Float[Array, ""]
    cls: Float[Array, ""]
    total: Float[Array, ""]
    num_matched: Int[Array, ""]


TrainStep = Callable[
    [TrainState, Num[Array, "b h w 3"], Targets, Rates], tuple[TrainState, Metrics]
]
EvalStep = Callable[[Any, Any, Num[Array, "b h w 3"]], Detections]


def normalise(images: Num[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Returns pictures as the network wants them: RGB in [0, 1].

    Args:
      images: 8-bit RGB, or floats, which are in [0, 1] already.
    """
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(jnp.float32) / 255


def make_train_step(
    graphdef: Any,
    head: HeadConfig,
    loss: LossConfig,
    optim: OptimConfig,
    *,
    batch_size: int,
    assigner: Callable[..., Any],
) -> TrainStep:
    """Returns `train_step(state, images, targets, rates) -> (state, metrics)`, pure, to be jitted.

    Args:
      graphdef: the static part of the model.
      head: geometry of its outputs.
      loss: gains, scaled to the picture size and classes already.
      optim: which optimiser, and its decay.
      batch_size: images per step, over all devices.
      assigner: `assign_ota` or `assign_anchor`.
    """
    weight_decay = optim.scaled_decay(batch_size)

    def loss_fn(params, batch_stats, images, targets):
        outputs, batch_stats = networks.apply(
            graphdef, params, batch_stats, normalise(images), train=True
        )
        total, terms = detection_loss(outputs, targets, head, loss, assigner=assigner)
        return total, (terms, batch_stats)

    def update(state: TrainState, rates: Rates) -> TrainState:
        params, opt_state = apply_gradients(
            state.gradients,
            state.opt_state,
            state.params,
            rates,
            config=optim,
            weight_decay=weight_decay,
        )
        updates = state.updates + 1
        return state._replace(
            params=params,
            opt_state=opt_state,
            gradients=jax.tree.map(jnp.zeros_like, state.gradients),
            updates=updates,
            ema_params=update_ema(state.ema_params, params, updates),
            ema_batch_stats=update_ema(state.ema_batch_stats, state.batch_stats, updates),
        )

    def train_step(
        state: TrainState,
        images: Num[Array, "b h w 3"],
        targets: Targets,
        rates: Rates,
    ) -> tuple[TrainState, Metrics]:
        (total, (terms, batch_stats)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, state.batch_stats, images, targets
        )
        state = state._replace(
            batch_stats=batch_stats,
            gradients=jax.tree.map(jnp.add, state.gradients, gradients),
        )
        state = jax.lax.cond(
            state.step % rates.accumulate == 0,
            lambda state: update(state, rates),
            lambda state: state,
            state,
        )
        metrics = Metrics(terms.box, terms.obj, terms.cls, total, terms.num_matched.sum())
        return state._replace(step=state.step + 1), metrics

    return train_step


def make_eval_step(graphdef: Any, head: HeadConfig) -> EvalStep:
    """Returns `eval_step(params, batch_stats, images) -> Detections`, pure, to be jitted.

    Boxes are in pixels of the pictures that the network sees.
    """

    def eval_step(params: Any, batch_stats: Any, images: Num[Array, "b h w 3"]) -> Detections:
        outputs, _ = networks.apply(graphdef, params, batch_stats, normalise(images), train=False)
        return nms(
            decode(outputs.lead, head),
            score_threshold=EVAL_SCORE_THRESHOLD,
            iou_threshold=EVAL_IOU_THRESHOLD,
            multi_label=True,
        )

    return eval_step
