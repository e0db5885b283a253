"""All that a run needs before its first step: data, network, programs, schedule."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from yolov7_jax import __version__, assign_anchor, assign_ota
from yolov7_jax import model as networks
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.demo_data.demo import data_file
from yolov7_jax.errors import UserError
from yolov7_jax.evaluate.coco_ap import GroundTruth
from yolov7_jax.evaluate.detect_split import ground_truth
from yolov7_jax.training.choose_anchors import choose_anchors, head_with_anchors
from yolov7_jax.training.distributed import check_same
from yolov7_jax.training.evaluation import Evaluation, Watch, evaluate
from yolov7_jax.training.mesh import make_mesh, place, state_shardings
from yolov7_jax.training.model_and_data import (
    check_network,
    compute_dtype,
    create_model,
    load_splits,
    load_weights,
)
from yolov7_jax.training.multi_scale import scale_ladder, size_of_step
from yolov7_jax.training.optim import trainable_params
from yolov7_jax.training.pipeline.image_cache import ImageCache, Purpose, cache_file, open_cache
from yolov7_jax.training.pipeline.stream import epoch_end, train_batches
from yolov7_jax.training.prefetch import Prefetch
from yolov7_jax.training.schedule import Schedule, make_schedule
from yolov7_jax.training.state import TrainState, create_state
from yolov7_jax.training.step import make_eval_step, make_train_step
from yolov7_jax.training.train_config import ProcessConfig, TrainConfig

ASSIGNERS = {"ota": assign_ota, "anchor": assign_anchor}


class Setup(NamedTuple):
    """What stays the same from the first step of a run to its last.

    Attributes:
      config: with the anchors that the run uses.
      train_set, val_set: the splits.
      train_cache, val_cache: their decoded images, if these are kept.
      truth: the objects of the validation split.
      model: gives the head, and what checkpoints tell of themselves.
      num_trainable: numbers in parameters that are trained, so not those that are frozen.
      mesh: the devices.
      shardings: how a `TrainState` lies on them.
      train_step: jitted.
      eval_step: jitted.
      schedule: rates by step.
      bounds: epoch e is the steps from `bounds[e]` up to `bounds[e + 1]`.
      sizes: the image sizes that steps choose from; empty for the image size alone.
      lines: what a person should know before the start.
    """

    config: TrainConfig
    train_set: Dataset
    val_set: Dataset
    train_cache: ImageCache | None
    val_cache: ImageCache | None
    truth: GroundTruth
    model: networks.Yolov7
    num_trainable: int
    mesh: Mesh
    shardings: TrainState
    train_step: Any
    eval_step: Any
    schedule: Schedule
    bounds: tuple[int, ...]
    sizes: tuple[int, ...]
    lines: tuple[str, ...]

    def title(self) -> str:
        """Returns one line about what is trained on what."""
        config = self.config
        return (
            f"{config.model}, {self.num_trainable / 1e6:.2f} M trainable parameters, "
            f"{len(self.train_set.names)} classes; {len(self.train_set)} training and "
            f"{len(self.val_set)} validation images; recipe {config.recipe}; {self.mesh.size} "
            f"{jax.default_backend()} device(s), {compute_dtype(config.dtype).name}"
        )

    def splits(self) -> dict[str, Dataset]:
        """Returns the splits by name."""
        return {"train": self.train_set, "val": self.val_set}

    def compilations(self) -> int:
        """Returns how many programs were compiled so far."""
        return self.train_step._cache_size() + self.eval_step._cache_size()

    def size_of_step(self, step: int) -> int | None:
        """Returns the side that a step resizes images to; None leaves them as they are."""
        return size_of_step(self.sizes, self.config.seed, step)

    def batches(self, step: int, probabilities: np.ndarray | None) -> Prefetch:
        """Returns the batches of a step and those after it, on their way to the devices.

        Args:
          step: the first.
          probabilities: of each image to be chosen; None shows each once an epoch.
        """
        config = self.config
        batches = train_batches(
            self.train_set,
            image_size=config.image_size,
            batch_size=config.batch_size,
            seed=config.seed,
            augment=config.augment,
            plain_from=config.epochs - config.plain_epochs if config.plain_epochs else None,
            probabilities=probabilities,
            first_step=step,
            num_workers=config.num_workers,
            worker_processes=config.worker_processes,
            cache=self.train_cache,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return Prefetch(batches, self.mesh)

    def evaluate(self, state: TrainState, watched: Watch = iter) -> Evaluation:
        """Measures the averaged weights on the validation split.

        Args:
          state: has the weights.
          watched: gives the batches on, or stops it all with an error.
        """
        config = self.config
        return evaluate(
            functools.partial(self.eval_step, state.ema_params, state.ema_batch_stats),
            self.val_set,
            self.truth,
            self.mesh,
            watched=watched,
            image_size=config.image_size,
            batch_size=-(-config.eval_batch_size // self.mesh.size) * self.mesh.size,
            stride=max(self.model.head.strides) if config.rectangular else None,
            num_workers=config.num_workers,
            cache=self.val_cache,
        )


def prepare(config: TrainConfig, *, fresh: bool = True) -> tuple[Setup, TrainState]:
    """Makes all that a run needs, and the state that it starts with.

    Args:
      config: what to train.
      fresh: start from the weights that the settings name; False where those of a checkpoint take
        their place anyway, so that a run can be continued without the file that it started from.

    Raises:
      UserError: the data, the weights or the settings do not allow it.
    """
    check_network(config)
    train_set, val_set = load_splits(config)
    model = create_model(config, len(train_set.names))
    lines = []
    if config.weights is not None and fresh:
        loaded = load_weights(model, config.weights, train_set.names)
        lines.append(f"weights: {config.weights}; {loaded.line()}")
    anchors = choose_anchors(config, train_set, model.head)
    lines.append(anchors.line())
    config = dataclasses.replace(config, anchors=anchors.chosen)
    model.head = head_with_anchors(model.head, anchors.chosen)

    graphdef, params, batch_stats = networks.split(model)
    num_params, num_trainable = _count_params(params, config.freeze)
    if config.freeze:
        frozen = (num_params - num_trainable) / 1e6
        lines.append(
            f"freeze: {frozen:.2f} M of {num_params / 1e6:.2f} M parameters stay as they are, and "
            "so do the statistics of their norms"
        )
    mesh = make_mesh(config.batch_size)
    state = create_state(params, batch_stats, config.optim)
    shardings = state_shardings(state, mesh, shard=config.shard_parameters)

    loss = config.loss.scaled(model.head, config.image_size)
    assigner = ASSIGNERS[config.assigner]
    spread_over = mesh if mesh.size > 1 else None
    train_step = make_train_step(
        graphdef,
        model.head,
        loss,
        config.optim,
        batch_size=config.batch_size,
        assigner=assigner,
        freeze=config.freeze,
        mesh=spread_over,
    )
    eval_step = make_eval_step(graphdef, model.head, loss, assigner=assigner, mesh=spread_over)
    schedule = make_schedule(
        config.optim,
        epochs=config.epochs,
        batch_size=config.batch_size,
        num_images=len(train_set),
    )
    ends = [epoch_end(e, len(train_set), config.batch_size) for e in range(config.epochs)]
    setup = Setup(
        config=config,
        train_set=train_set,
        val_set=val_set,
        train_cache=_cache(config, train_set, "train", "training"),
        val_cache=_cache(config, val_set, "val", "evaluation"),
        truth=ground_truth(val_set),
        model=model,
        num_trainable=num_trainable,
        mesh=mesh,
        shardings=shardings,
        train_step=jax.jit(
            train_step,
            static_argnames="size",
            donate_argnums=0,
            out_shardings=(shardings, None),
        ),
        eval_step=jax.jit(eval_step),
        schedule=schedule,
        bounds=(0, *ends),
        sizes=scale_ladder(config, max(model.head.strides)),
        lines=tuple(filter(None, (*lines, _warming_up(schedule, ends[-1])))),
    )
    if jax.process_count() > 1:
        check_same(_common(setup, state))
    return setup, place(state, shardings)


def _common(setup: Setup, state: TrainState) -> dict[str, str]:
    """Returns what must be the same in all processes that train together, by what to call it.

    Copies of the data and of the weights may lie elsewhere, and be read in another way.
    """
    config = dataclasses.replace(
        setup.config,
        data="",
        weights=None,
        output=None,
        num_workers=0,
        worker_processes=False,
        cache="none",
        processes=ProcessConfig(),
    )
    numbers = hashlib.sha256()
    for leaf in jax.tree.leaves((state.params, state.batch_stats)):
        numbers.update(np.ascontiguousarray(leaf).data)
    return {
        "version of yolov7-jax": __version__,
        "version of jax": jax.__version__,
        "settings and anchors": repr(config),
        "training split": setup.train_set.fingerprint(),
        "validation split": setup.val_set.fingerprint(),
        "weights": numbers.hexdigest(),
    }


def _cache(
    config: TrainConfig, dataset: Dataset, split: str, purpose: Purpose
) -> ImageCache | None:
    file = cache_file(data_file(config.data), split, config.image_size)
    return open_cache(dataset, config.image_size, config.cache, file, purpose)


def _warming_up(schedule: Schedule, steps: int) -> str:
    """Returns a line about a run that ends before its warm-up does; "" where it does not."""
    if schedule.warmup_steps < steps:
        return ""
    return (
        f"warm-up: {schedule.warmup_steps} steps, and the run has {steps}, so --optim.lr0 is not "
        "reached; see --optim.warmup-min-steps"
    )


def _count_params(params: Any, freeze: Sequence[str]) -> tuple[int, int]:
    """Returns how many numbers parameters have, and those that are trained.

    Raises:
      UserError: a pattern fits no parameter, or nothing would be left to train.
    """
    try:
        trainable = jax.tree.leaves(trainable_params(params, freeze))
    except ValueError as error:
        raise UserError(f"--{error}") from error
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    return sum(sizes), sum(itertools.compress(sizes, trainable))
