"""The training loop: everything that happens in a run, from the data to the summary."""

import bisect
import contextlib
import dataclasses
import functools
import math
import pathlib
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from train.anchors import choose_anchors, head_with_anchors
from train.checkpoint import Checkpoints, append_record, truncate_records
from train.config import TrainConfig, check_image_size, write_yaml
from train.data.dataset import Dataset
from train.data.demo import make_demo
from train.data.picture_cache import cache_file, open_cache
from train.data.pipeline import epoch_end, train_batches
from train.data.sources import load_dataset
from train.errors import UserError
from train.evaluate import evaluate, ground_truth
from train.mesh import make_mesh, prefetch, replicated
from train.optim import make_schedule
from train.report import Progress, draw_contact_sheet, epoch_line
from train.state import create_state
from train.step import Metrics, make_eval_step, make_train_step
from yolov7_jax import assign_anchor, assign_ota
from yolov7_jax import model as networks
from yolov7_jax.metrics import CocoAp
from yolov7_jax.nn.blocks import leaky_relu
from yolov7_jax.weights.training_run import description

CONFIG_FILE = "config.yaml"
SHEET_FILE = "detections.png"
DATA_FILE = "data.sha256"
DEMO = "demo"

ACTIVATIONS: dict[str | None, Callable[[jax.Array], jax.Array] | None] = {
    None: None,
    "leaky_relu": leaky_relu,
    "silu": jax.nn.silu,
}
ASSIGNERS = {"ota": assign_ota, "anchor": assign_anchor}


class Summary(NamedTuple):
    """How a run ended.

    Attributes:
      run: its folder.
      records: the epochs of metrics.jsonl.
      step: steps done.
      signal: what interrupted it; None when all epochs are done.
    """

    run: pathlib.Path
    records: list[dict[str, Any]]
    step: int
    signal: int | None


def fit(config: TrainConfig, run: pathlib.Path) -> Summary:
    """Trains, or continues where the last checkpoint in the run's folder was written.

    Args:
      config: what to train.
      run: the run's folder; made if it is missing.

    Raises:
      UserError: the data, the settings or the checkpoint do not allow it.
      UnreadableImageError: a picture is damaged.
    """
    data = data_file(config.data)
    train_set, val_set = load_dataset(data, "train"), load_dataset(data, "val")
    if train_set.names != val_set.names:
        raise UserError(
            f"{config.data}: 'train' has the classes {', '.join(train_set.names)} and 'val' has "
            f"{', '.join(val_set.names)}; they must be the same"
        )
    model = create_model(config, len(train_set.names))
    anchors = choose_anchors(config, train_set, model.head)
    config = dataclasses.replace(config, anchors=anchors.chosen)
    model.head = head_with_anchors(model.head, anchors.chosen)
    if config.batch_size > len(train_set):
        raise UserError(
            f"--batch-size (={config.batch_size}) must be at most {len(train_set)}, "
            "the number of training pictures"
        )
    mesh = make_mesh(config.batch_size)
    graphdef, params, batch_stats = networks.split(model)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    state = jax.device_put(create_state(params, batch_stats, config.optim), replicated(mesh))
    train_step = jax.jit(
        make_train_step(
            graphdef,
            model.head,
            config.loss.scaled(model.head, config.image_size),
            config.optim,
            batch_size=config.batch_size,
            assigner=ASSIGNERS[config.assigner],
        ),
        donate_argnums=0,
        out_shardings=replicated(mesh),
    )
    eval_step = jax.jit(make_eval_step(graphdef, model.head))
    eval_batch_size = math.ceil(config.eval_batch_size / mesh.size) * mesh.size
    schedule = make_schedule(
        config.optim,
        epochs=config.epochs,
        batch_size=config.batch_size,
        steps_per_epoch=len(train_set) / config.batch_size,
    )
    # Epoch e is the steps from bounds[e] up to bounds[e + 1].
    bounds = [
        epoch_end(epoch, len(train_set), config.batch_size) if epoch >= 0 else 0
        for epoch in range(-1, config.epochs)
    ]
    truth = ground_truth(val_set)

    make_folder(run)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(run, description(model, train_set.names)))
        interruption = stack.enter_context(Interruption())
        sums = jax.device_put(no_metrics(), replicated(mesh))
        step = checkpoints.last_step or 0
        if not step:
            write_yaml(config, run / CONFIG_FILE)
            (run / DATA_FILE).write_text(train_set.fingerprint() + "\n")
        else:
            check_same_data(train_set, run)
            saved = checkpoints.load({"state": state, "sums": sums}, replicated(mesh))
            state, sums = saved["state"], saved["sums"]
        records = truncate_records(run, step)
        cache_path = cache_file(data, "train", config.image_size)
        batches = prefetch(
            train_batches(
                train_set,
                image_size=config.image_size,
                batch_size=config.batch_size,
                seed=config.seed,
                augment=config.augment,
                first_step=step,
                num_workers=config.num_workers,
                worker_processes=config.worker_processes,
                cache=open_cache(train_set, config.image_size, config.cache, cache_path),
            ),
            mesh,
        )
        stack.callback(batches.close)
        progress = Progress(bounds[-1] * config.batch_size, step * config.batch_size)
        stack.callback(progress.close)
        progress.line(
            f"{config.model}, {num_params / 1e6:.2f} M parameters, {len(train_set.names)} "
            f"classes; {len(train_set)} training and {len(val_set)} validation pictures; "
            f"{mesh.size} {jax.default_backend()} device(s); run folder {run}"
        )
        progress.line(anchors.line())
        progress.line(
            "compiling: the first step takes longer"
            if not step
            else f"continuing after step {step} of {bounds[-1]}"
        )

        for epoch in range(bisect.bisect_right(bounds, step) - 1, config.epochs):
            started, first_step = time.monotonic(), step
            while step < bounds[epoch + 1] and interruption.signal is None:
                images, targets = next(batches)
                state, metrics = train_step(state, images, targets, schedule.rates(step, epoch))
                previous, sums = sums, add_metrics(sums, metrics)
                step += 1
                # Waiting for the step before keeps the device busy and the times honest.
                losses = mean_losses(jax.device_get(previous), step - 1 - bounds[epoch])
                names = ("box", "obj", "cls") if step - 1 > bounds[epoch] else ()
                shown = {name: losses[name] for name in names}
                progress.update(config.batch_size, f"{epoch + 1}/{config.epochs}", shown)
            if step < bounds[epoch + 1]:
                done = epoch - 1 if epoch else None
                checkpoints.save(step, {"state": state, "sums": sums}, ap=None, epoch=done)
                break
            losses = mean_losses(jax.device_get(sums), step - bounds[epoch])
            trained = time.monotonic()
            check_finite(losses, epoch, run)

            evaluation = evaluate(
                functools.partial(eval_step, state.ema_params, state.ema_batch_stats),
                val_set,
                truth,
                mesh,
                image_size=config.image_size,
                batch_size=eval_batch_size,
                stride=max(model.head.strides) if config.rectangular else None,
                num_workers=config.num_workers,
            )
            draw_contact_sheet(val_set, evaluation.detections, run / SHEET_FILE)
            records.append(
                {
                    "epoch": epoch + 1,
                    "step": step,
                    **losses,
                    "lr": schedule.rates(step - 1, epoch).kernel,
                    **accuracy_record(evaluation.accuracy, train_set.names),
                    "images_per_second": (step - first_step)
                    * config.batch_size
                    / (trained - started),
                    "seconds": time.monotonic() - started,
                }
            )
            # The record comes first: resuming drops records that have no checkpoint.
            append_record(run, records[-1])
            sums = jax.tree.map(jnp.zeros_like, sums)
            checkpoints.save(
                step, {"state": state, "sums": sums}, ap=records[-1]["ap"], epoch=epoch
            )
            progress.line(epoch_line(records[-1], config.epochs))
            if interruption.signal is not None:
                break
    unfinished = step < bounds[-1]
    return Summary(run, records, step, interruption.signal if unfinished else None)


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder that can be written to.

    Raises:
      UserError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{folder}: cannot be written to: {reason}") from error


def data_file(data: str) -> pathlib.Path:
    """Returns what describes a data set.

    Args:
      data: what `load_dataset` opens, or "demo" for the embedded data set, made if need be.

    Raises:
      UserError: the embedded data set cannot be made.
    """
    return make_demo() if data == DEMO else pathlib.Path(data)


def check_same_data(dataset: Dataset, run: pathlib.Path) -> None:
    """Refuses to continue a run on other data than it was started with.

    Raises:
      UserError: the training split has changed.
    """
    saved = run / DATA_FILE
    if not saved.is_file() or saved.read_text().strip() != dataset.fingerprint():
        raise UserError(
            f"{run}: the training data have changed since the run was started (pictures, sizes, "
            "classes or labels); it cannot be continued exactly, so start a new one with `fit`"
        )


def create_model(config: TrainConfig, num_classes: int) -> networks.Yolov7:
    """Returns a fresh model.

    Raises:
      UserError: the model is unknown, or the picture size does not suit it.
    """
    if config.model not in networks.ARCHITECTURES:
        known = ", ".join(networks.ARCHITECTURES)
        raise UserError(f"unknown model {config.model!r}; known are {known}")
    check_image_size(config.image_size, networks.ARCHITECTURES[config.model].strides)
    return networks.create(
        config.model,
        num_classes,
        key=jax.random.key(config.seed),
        width=config.width,
        activation=ACTIVATIONS[config.activation],
        dtype=jnp.dtype(config.dtype),
    )


def no_metrics() -> Metrics:
    """Returns the sums of no steps at all."""
    zero = jnp.zeros(())
    return Metrics(zero, zero, zero, zero, num_matched=jnp.zeros((), jnp.int32))


@jax.jit
def add_metrics(sums: Metrics, metrics: Metrics) -> Metrics:
    """Adds the numbers of one step."""
    return jax.tree.map(jnp.add, sums, metrics)


def mean_losses(sums: Metrics, steps: int) -> dict[str, float]:
    """Returns means per step, by name."""
    return {name: float(value) / max(steps, 1) for name, value in sums._asdict().items()}


def check_finite(losses: dict[str, float], epoch: int, run: pathlib.Path) -> None:
    """Stops a run that has diverged.

    Raises:
      UserError: a loss is not finite.
    """
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"{run}: the loss ({', '.join(broken)}) is not finite in epoch {epoch + 1}; "
            "a lower --optim.lr0 or a longer --optim.warmup-epochs may help"
        )


def accuracy_record(accuracy: CocoAp, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the accuracy as JSON can hold it: what is undefined is null."""

    def number(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    return {
        "ap": number(accuracy.ap),
        "ap50": number(accuracy.ap50),
        "ap75": number(accuracy.ap75),
        "class_ap": dict(zip(names, map(number, accuracy.class_ap), strict=True)),
        "class_ap50": dict(zip(names, map(number, accuracy.class_ap50), strict=True)),
    }


class Interruption:
    """Notes the first SIGINT or SIGTERM, a context manager; a second one acts as usual.

    Attributes:
      signal: the number of the signal that came; None before.
    """

    def __init__(self):
        self.signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.signal = number
        print("\nstopping after this step; once more stops at once", file=sys.stderr)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._restore()
