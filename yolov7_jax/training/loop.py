"""The training loop: everything that happens in a run, from its first step to the report."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from yolov7_jax.errors import UserError
from yolov7_jax.evaluate.report.matched_split import match_split
from yolov7_jax.training.batch import Batch
from yolov7_jax.training.checkpoint import Checkpoints
from yolov7_jax.training.distributed import any_process, check_shared, is_first, run_on_first
from yolov7_jax.training.epoch_records import (
    device_memory_mib,
    evaluation_record,
    has_record,
    out_of_patience,
    speed_record,
    training_record,
    warnings,
)
from yolov7_jax.training.image_weights import image_probabilities
from yolov7_jax.training.interruption import InterruptedRunError, Interruption, agrees_at
from yolov7_jax.training.loggers import import_wandb, open_logs, scalars
from yolov7_jax.training.mesh import own_rows, place, replicated
from yolov7_jax.training.metrics_file import (
    METRICS_FILE,
    append_record,
    read_records,
    truncate_records,
)
from yolov7_jax.training.prefetch import Prefetch
from yolov7_jax.training.prepare import Setup, prepare
from yolov7_jax.training.progress import Progress, draw_contact_sheet, epoch_line
from yolov7_jax.training.run_folder import (
    CONFIG_FILE,
    REPORT_FILE,
    SHEET_FILE,
    check_same_data,
    check_same_settings,
    claimed,
    holds_run,
    make_folder,
    save_batch,
    write_fingerprints,
)
from yolov7_jax.training.run_report import write_report
from yolov7_jax.training.state import TrainState
from yolov7_jax.training.step import Metrics
from yolov7_jax.training.train_config import TrainConfig, fixed_settings, write_yaml
from yolov7_jax.weights.model_metadata import describe_model


class RunResult(NamedTuple):
    """How a run ended.

    Attributes:
      run: its folder.
      records: the epochs of metrics.jsonl.
      step: steps done.
      interrupted: why it stopped before its end, to be continued; None if it did not.
      signal: the signal that stopped it, if one did.
      note: why it ended early, for good; "" if it did not.
    """

    run: pathlib.Path
    records: list[dict[str, Any]]
    step: int
    interrupted: str | None = None
    signal: int | None = None
    note: str = ""


@dataclasses.dataclass
class Position:
    """Where a run stands.

    Attributes:
      step: steps done.
      state: after them.
      sums: of the metrics of the epoch so far.
      skipped_in_row: batches without finite gradients just before.
    """

    step: int
    state: TrainState
    sums: Metrics
    skipped_in_row: int

    def arrays(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"state": self.state, "sums": self.sums}

    def epoch(self, setup: Setup, records: Sequence[Mapping[str, Any]]) -> int:
        """Returns the epoch to go on with, counted from 0: the first that has no record."""
        epoch = setup.schedule.epoch(self.step)
        ended = epoch > 0 and self.step == setup.bounds[epoch]
        return epoch - 1 if ended and not has_record(records, self.step) else epoch

    def begin_epoch(self) -> None:
        """Forgets the metrics of the epoch before."""
        self.sums = jax.tree.map(jnp.zeros_like, self.sums)


def train(config: TrainConfig, run: pathlib.Path) -> RunResult:
    """Trains, or continues where the last checkpoint in the run's folder was written.

    Args:
      config: what to train.
      run: the run's folder; made if it is missing.

    Raises:
      UserError: the data, the settings or the checkpoint do not allow it, the disk is full, or
        batch after batch has no finite gradients.
      UnreadableImageError: an image is damaged.
    """
    if config.wandb:
        import_wandb()  # or say so before anything is done
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption(config.max_hours))
        fresh = run_on_first(lambda: not holds_run(run))
        setup, state = prepare(config, fresh=fresh)
        config, bounds = setup.config, setup.bounds
        make_folder(run)
        check_shared(run)
        stack.enter_context(claimed(run))
        if fresh:
            run_on_first(lambda: begin(setup, run))
        progress = stack.enter_context(
            Progress(bounds[-1] * config.batch_size, silent=not is_first())
        )
        described = describe_model(setup.model, setup.train_set.names, image_size=config.image_size)
        described |= {"settings": fixed_settings(config)}
        checkpoints = stack.enter_context(Checkpoints(run, described))
        at = start_or_continue(setup, state, run, checkpoints, progress)
        del state  # the first step takes its memory
        records = run_on_first(lambda: truncate_records(run, at.step))
        for record in records:
            checkpoints.rate(record["step"], record.get("ap"))
        if has_record(records, at.step):
            at.begin_epoch()
        logs = open_logs(stack, config, run, at.step)
        feed = stack.enter_context(contextlib.ExitStack())  # holds the batches
        begun, evaluation, batches = at.step, None, None

        # An epoch without its record is not over: what remains of it may be the evaluation alone.
        for epoch in range(at.epoch(setup, records), config.epochs):
            if out_of_patience(records, config.patience):
                break
            if interruption.wanted(at.step, begun=at.step > begun):
                break
            if batches is None or config.image_weights:
                feed.close()
                probabilities = None
                if config.image_weights:
                    probabilities = image_probabilities(setup.train_set, records)
                batches = feed.enter_context(setup.batches(at.step, probabilities))
            done, end = epoch - 1 if epoch else None, bounds[epoch + 1]
            started, first_step, waited = time.monotonic(), at.step, batches.seconds_waited
            saved = started
            for step, batch, metrics in train_steps(at, end, setup, batches):
                check_skipped(at, step, batch, metrics, config.max_skipped, run)
                progress.update(config.batch_size, f"{epoch + 1}/{config.epochs}", metrics)
                if interruption.wanted(at.step):
                    break
                due = time.monotonic() - saved > 60 * config.checkpoint_minutes
                if at.step < end and agrees_at(at.step) and any_process(due):
                    checkpoints.save(at.step, at.arrays(), epoch=done)
                    saved = time.monotonic()
            checkpoints.save(at.step, at.arrays(), epoch=epoch if at.step == end else done)
            if at.step < end:
                break
            steps, seconds = at.step - first_step, time.monotonic() - started
            waited = batches.seconds_waited - waited

            record = {"epoch": epoch + 1, "step": at.step}
            sums, steps_of_epoch = jax.device_get(at.sums), at.step - bounds[epoch]
            record |= training_record(sums, steps_of_epoch, config.assigner)
            record |= {"lr": setup.schedule.rates(at.step - 1).kernel}
            if epoch + 1 == config.epochs or (epoch + 1) % config.eval_epochs == 0:
                try:
                    evaluation = setup.evaluate(at.state, interruption.watched)
                except InterruptedRunError:
                    break
                record |= evaluation_record(evaluation, setup.val_set.names, config.assigner)
            record |= speed_record(steps, seconds, waited, config.batch_size)
            record |= {
                "device_memory_mib": device_memory_mib(),
                "compilations": setup.compilations(),
                "seconds": time.monotonic() - started,
            }
            records.append(record)
            if is_first():
                append_record(run, record)
                for log in logs:
                    log.write(at.step, scalars(record))
                if evaluation is not None and "ap" in record:
                    draw_contact_sheet(setup.val_set, evaluation.detections, run / SHEET_FILE)
            checkpoints.rate(at.step, record.get("ap"))
            at.begin_epoch()
            progress.line(epoch_line(record, config))
            for warning in warnings(records, config.assigner):
                progress.line(f"warning: {warning}")

        ended = has_record(records, bounds[-1]) or out_of_patience(records, config.patience)
        if ended and records:
            evaluation = evaluation or setup.evaluate(at.state)
            if is_first():
                write_report(
                    run / REPORT_FILE,
                    title=run.name,
                    config=config,
                    records=records,
                    split=match_split(setup.val_set, setup.truth, evaluation.detections),
                )
    if not ended:
        return RunResult(run, records, at.step, interruption.reason, interruption.signal)
    early = at.step < bounds[-1]
    note = f"no higher AP in {config.patience} epochs, so this is the end" if early else ""
    return RunResult(run, records, at.step, note=note)


def begin(setup: Setup, run: pathlib.Path) -> None:
    """Writes what continues a run from its folder, before anything else is there.

    Raises:
      UserError: another run has begun there since this one was started.
    """
    if holds_run(run):
        raise UserError(f"{run}: another run has begun in this folder; choose another --output")
    write_yaml(setup.config, run / CONFIG_FILE)
    write_fingerprints(run, setup.splits())


def start_or_continue(
    setup: Setup,
    state: TrainState,
    run: pathlib.Path,
    checkpoints: Checkpoints,
    progress: Progress,
) -> Position:
    """Returns where the run stands: at its start, or at its last checkpoint.

    Raises:
      UserError: the data or the settings have changed, or there is no checkpoint that can be read.
    """
    at = Position(0, state, place(no_metrics(), replicated(setup.mesh)), 0)
    lines = [setup.title(), f"run folder {run}", *setup.lines]
    if checkpoints.last_step is None:
        run_on_first(lambda: check_begun_now(run))
        lines.append("compiling: the first step takes longer")
    else:
        described = checkpoints.description()
        run_on_first(lambda: check_same_data(run, setup.splits()))
        run_on_first(lambda: check_same_settings(run, setup.config, described))
        saved = checkpoints.load(
            at.arrays(), {"state": setup.shardings, "sums": replicated(setup.mesh)}
        )
        state = saved["state"]
        at = Position(int(state.step), state, saved["sums"], int(state.skipped_in_row))
        lines += checkpoints.rejected
        lines.append(f"continuing after step {at.step} of {setup.bounds[-1]}")
    progress.start(at.step * setup.config.batch_size)
    for line in lines:
        progress.line(line)
    return at


def check_begun_now(run: pathlib.Path) -> None:
    """Refuses to begin a run whose checkpoints are gone.

    Raises:
      UserError: the folder has records of epochs.
    """
    records = read_records(run)
    if records:
        raise UserError(
            f"{run}: has no checkpoint, but {METRICS_FILE} tells of {len(records)} epochs; put "
            "the checkpoints back, or start a new run with `train`"
        )


def train_steps(
    at: Position, end: int, setup: Setup, batches: Prefetch
) -> Iterator[tuple[int, Batch, Metrics]]:
    """Does the steps up to one; gives number, batch and metrics of each, one step late.

    Waiting for the step before keeps the devices busy and the times honest.
    """
    waiting: tuple[int, Batch, Metrics] | None = None
    while at.step < end:
        batch = next(batches)
        rates, size = setup.schedule.rates(at.step), setup.size_of_step(at.step)
        at.state, metrics = setup.train_step(at.state, batch, rates, size=size)
        at.sums = add_metrics(at.sums, metrics)
        at.step += 1
        if waiting is not None:
            yield *waiting[:2], jax.device_get(waiting[2])
        waiting = at.step - 1, batch, metrics
    if waiting is not None:
        yield *waiting[:2], jax.device_get(waiting[2])


def check_skipped(
    at: Position, step: int, batch: Batch, metrics: Metrics, limit: int, run: pathlib.Path
) -> None:
    """Counts the batches in a row without finite gradients, and stops at too many.

    Raises:
      UserError: there are too many; says where the last one was saved.
    """
    at.skipped_in_row = at.skipped_in_row + 1 if metrics.skipped else 0
    if at.skipped_in_row < limit:
        return
    path = save_batch(run, step, jax.tree.map(own_rows, batch))
    raise UserError(
        f"{run}: the loss or its gradients were not finite for {limit} batches in a row; the last "
        f"of them is in {path}. A lower --optim.lr0, a longer --optim.warmup-epochs or "
        "--optim.max-gradient-norm may help"
    )


def no_metrics() -> Metrics:
    """Returns the sums of no steps at all."""
    zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
    return Metrics(zero, zero, zero, zero, zero, num_matched=none, skipped=none)


@jax.jit
def add_metrics(sums: Metrics, metrics: Metrics) -> Metrics:
    """Adds the numbers of one step; of a skipped one, that it was skipped."""
    counted = jax.tree.map(lambda value: jnp.where(metrics.skipped, 0, value), metrics)
    counted = counted._replace(skipped=metrics.skipped)
    return jax.tree.map(jnp.add, sums, counted)
