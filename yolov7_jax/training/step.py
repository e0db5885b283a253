"""The two functions that run on the device: one training step, one batch of evaluation.

Both are pure and know nothing of files or loops: jit them, or map them over devices.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Num

from yolov7_jax import (
    Detections,
    HeadConfig,
    LossConfig,
    LossTerms,
    Outputs,
    Targets,
    decode,
    detection_loss,
    nms,
)
from yolov7_jax import model as networks
from yolov7_jax.config import EVAL_IOU_THRESHOLD, EVAL_SCORE_THRESHOLD
from yolov7_jax.training.batch import Batch
from yolov7_jax.training.ema import update_ema
from yolov7_jax.training.mesh import DATA_AXIS
from yolov7_jax.training.optim import (
    apply_gradients,
    frozen_norms,
    trainable_params,
)
from yolov7_jax.training.schedule import OptimConfig, Rates
from yolov7_jax.training.state import TrainState


class Metrics(NamedTuple):
    """The numbers of one step, or their sums over several.

    Attributes:
      box, obj, cls: the terms of the loss per image, after their gains.
      total: what was differentiated: their sum times the batch size.
      gradient_norm: length of the gradient of this batch.
      num_matched: matched candidates of the batch.
      skipped: 1 if the loss or a gradient was not finite, so that it was left out.
    """

    box: Float[Array, ""]
    obj: Float[Array, ""]
    cls: Float[Array, ""]
    total: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    num_matched: Int[Array, ""]
    skipped: Int[Array, ""]


class EvalLosses(NamedTuple):
    """Sums over the images of a batch of evaluation.

    Attributes:
      box, obj, cls: the terms of the loss of each image alone, after their gains.
    """

    box: Float[Array, ""]
    obj: Float[Array, ""]
    cls: Float[Array, ""]


class TrainStep(Protocol):
    """A function of `make_train_step`."""

    def __call__(
        self, state: TrainState, batch: Batch, rates: Rates, size: int | None = None
    ) -> tuple[TrainState, Metrics]:
        """Learns from one batch."""
        ...


EvalStep = Callable[
    [Any, Any, Num[Array, "b h w 3"], Targets, Bool[Array, " b"]], tuple[Detections, EvalLosses]
]


def make_train_step(
    graphdef: Any,
    head: HeadConfig,
    loss: LossConfig,
    optim: OptimConfig,
    *,
    batch_size: int,
    assigner: Callable[..., Any],
    freeze: Sequence[str] = (),
    axis_name: str | None = None,
    mesh: Mesh | None = None,
) -> TrainStep:
    """Returns `train_step(state, batch, rates, size=None) -> (state, metrics)`, pure.

    Auxiliary heads are part of the loss where the model has any.
    A batch whose loss or gradients are not finite adds nothing to the sum of gradients, nor to the
    statistics, and is counted.

    `size` is static: with it, images are resized to that side in pixels first.

    Args:
      graphdef: the static part of the model.
      head: geometry of its outputs.
      loss: gains, scaled to the image size and classes already.
      optim: which optimiser, and its decay.
      batch_size: images per step, over all devices.
      assigner: `assign_ota` or `assign_anchor`.
      freeze: names of parameters that stay as they are; see `trainable_params`. Norms that are
        frozen whole normalise by their running statistics, which stay too; see `frozen_norms`.
      axis_name: under `jax.pmap` or `jax.shard_map`, the axis that the batch is spread over. State
        and rates are the same on all devices.
      mesh: under `jax.jit`, the devices that the batch is spread over, if it is; the assignment of
        each image then stays on the device that has it.
    """
    weight_decay = optim.scaled_decay(batch_size)

    def loss_of(outputs: Outputs, targets: Targets) -> tuple[Array, LossTerms]:
        axis = axis_name if mesh is None else DATA_AXIS
        return detection_loss(outputs, targets, head, loss, assigner=assigner, axis_name=axis)

    def loss_fn(params, batch_stats, images, targets):
        if freeze:
            params = jax.tree.map(
                lambda trainable, param: param if trainable else lax.stop_gradient(param),
                trainable_params(params, freeze),
                params,
            )
        outputs, batch_stats = networks.apply(
            graphdef,
            params,
            batch_stats,
            images,
            train=True,
            axis_name=axis_name,
            frozen_norms=frozen_norms(params, freeze),
        )
        total, terms = shard_over_batch(loss_of, mesh, by_batch=False)(outputs, targets)
        return total, (terms, batch_stats)

    def update(state: TrainState, rates: Rates) -> TrainState:
        params, opt_state = apply_gradients(
            state.gradients,
            state.opt_state,
            state.params,
            rates,
            config=optim,
            weight_decay=weight_decay,
            freeze=freeze,
        )
        updates = state.updates + 1
        return state._replace(
            params=params,
            opt_state=opt_state,
            gradients=jax.tree.map(jnp.zeros_like, state.gradients),
            summed=jnp.zeros_like(state.summed),
            updates=updates,
            ema_params=update_ema(state.ema_params, params, updates),
            ema_batch_stats=update_ema(state.ema_batch_stats, state.batch_stats, updates),
        )

    def train_step(
        state: TrainState, batch: Batch, rates: Rates, size: int | None = None
    ) -> tuple[TrainState, Metrics]:
        images = resize(networks.normalize_images(jnp.asarray(batch.images)), size)
        (total, (terms, batch_stats)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, state.batch_stats, images, batch.targets
        )
        if axis_name is not None:
            gradients = summed_over_devices(gradients, axis_name)
        gradient_norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(total) & jnp.isfinite(gradient_norm)

        def if_finite(new: Array, old: Array) -> Array:
            return jnp.where(finite, new, old)

        state = state._replace(
            batch_stats=jax.tree.map(if_finite, batch_stats, state.batch_stats),
            gradients=jax.tree.map(
                lambda total, gradient: if_finite(total + gradient, total),
                state.gradients,
                gradients,
            ),
            summed=state.summed + finite,
            skipped=state.skipped + ~finite,
            skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
        )
        state = lax.cond(
            # Also after a batch that was left out: those before it in the sum have waited for this.
            (state.summed > 0) & (state.step % rates.accumulate == 0),
            lambda state: update(state, rates),
            lambda state: state,
            state,
        )
        metrics = Metrics(
            terms.box,
            terms.obj,
            terms.cls,
            total,
            gradient_norm,
            terms.num_matched.sum(),
            (~finite).astype(jnp.int32),
        )
        return state._replace(step=state.step + 1), metrics

    return train_step


def make_eval_step(
    graphdef: Any,
    head: HeadConfig,
    loss: LossConfig,
    *,
    assigner: Callable[..., Any],
    mesh: Mesh | None = None,
) -> EvalStep:
    """Returns `eval_step(params, batch_stats, images, targets, present)`, pure, to be jitted.

    It returns `Detections`, whose boxes are in pixels of the images that the network sees, and
    `EvalLosses` over the images that are present; the others fill up the batch.

    Args:
      graphdef: the static part of the model.
      head: geometry of its outputs.
      loss: gains, scaled already.
      assigner: `assign_ota` or `assign_anchor`.
      mesh: the devices that the batch is spread over, if it is.
    """

    def losses(outputs: Outputs, targets: Targets) -> LossTerms:
        def of_one(levels, targets):
            # An image's loss must not depend on which others are in its batch.
            levels, targets = jax.tree.map(lambda leaf: leaf[None], (levels, targets))
            return detection_loss(Outputs(levels, ()), targets, head, loss, assigner=assigner)[1]

        return jax.vmap(of_one)(outputs.lead, targets)

    def found(outputs: Outputs) -> Detections:
        return nms(
            decode(outputs.lead, head),
            score_threshold=EVAL_SCORE_THRESHOLD,
            iou_threshold=EVAL_IOU_THRESHOLD,
            multi_label=True,
        )

    def eval_step(params, batch_stats, images, targets, present):
        images = networks.normalize_images(images)
        outputs, _ = networks.apply(graphdef, params, batch_stats, images, train=False)
        detections = shard_over_batch(found, mesh, by_batch=True)(outputs)
        terms = shard_over_batch(losses, mesh, by_batch=True)(outputs, targets)
        sums = (jnp.where(present, term, 0).sum() for term in (terms.box, terms.obj, terms.cls))
        return detections, EvalLosses(*sums)

    return eval_step


def resize(images: Float[Array, "b h w 3"], size: int | None) -> Float[Array, "b s s 3"]:
    """Returns images resized to squares by bilinear interpolation, or as they are."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    shape = images.shape[0], size, size, 3
    return jax.image.resize(images, shape, "linear", antialias=False)


def shard_over_batch(
    function: Callable[..., Any], mesh: Mesh | None, *, by_batch: bool
) -> Callable[..., Any]:
    """Returns the function, run on each device of a mesh with its own part of the batch.

    Left to itself, the compiler gathers the batch on every device for what sorts.

    Args:
      function: takes trees of arrays whose first axis is the batch.
      mesh: the devices; None or a single one leaves the function as it is.
      by_batch: whether the results have the batch as their first axis too, or are the same on all.
    """
    if mesh is None:
        return function
    own = PartitionSpec(DATA_AXIS)
    return jax.shard_map(
        function, mesh=mesh, in_specs=own, out_specs=own if by_batch else PartitionSpec()
    )


def summed_over_devices(gradients: Any, axis_name: str) -> Any:
    """Returns the sums of the devices' gradients with respect to what is the same on all of them.

    `jax.shard_map`, with its replication checks on, has summed them already; `jax.pmap` has not.
    """
    own = 1.0 + 0 * lax.axis_index(axis_name)
    times_summed = jax.grad(lambda same: same * own)(1.0)  # 1, or the number of devices
    return jax.tree.map(lambda leaf: lax.psum(leaf, axis_name) / times_summed, gradients)
