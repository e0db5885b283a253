"""Records of epochs: what the line of one in metrics.jsonl says, and what several tell."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from yolov7_jax.evaluate.report.metrics_text import nan_to_none
from yolov7_jax.training.evaluation import Evaluation
from yolov7_jax.training.step import Metrics

LOSS_COLLAPSE = 1.5  # times the lowest loss of the run
AP_COLLAPSE = 0.5  # times the highest AP of the run
LEAST_AP = 0.02  # below that, AP is noise
AGAINST_DIVERGENCE = (
    "a lower --optim.lr0, a longer --optim.warmup-epochs or --optim.max-gradient-norm may help"
)


def training_record(sums: Metrics, steps: int, assigner: str) -> dict[str, Any]:
    """Returns the means of an epoch's steps, by name; None where all were skipped.

    Args:
      sums: over its steps, those that were skipped left out; on the host.
      steps: how many there were.
      assigner: whose losses these are.
    """
    steps_trained = steps - int(sums.skipped)

    def mean(total: Any) -> float | None:
        return float(total) / steps_trained if steps_trained else None

    terms = {name: getattr(sums, name) for name in ("box", "obj", "cls")}
    losses = terms | {"total": sum(terms.values())}
    return nan_to_none(
        {
            **{f"train/{assigner}/{name}": mean(sum_) for name, sum_ in losses.items()},
            "matched": mean(sums.num_matched),
            "gradient_norm": mean(sums.gradient_norm),
            "skipped": int(sums.skipped),
        }
    )


def evaluation_record(
    evaluation: Evaluation, names: Sequence[str], assigner: str
) -> dict[str, Any]:
    """Returns the results of an evaluation, by name."""
    accuracy = evaluation.accuracy
    losses = evaluation.losses | {"total": sum(evaluation.losses.values())}
    return nan_to_none(
        {
            **{f"val/{assigner}/{name}": loss for name, loss in losses.items()},
            "ap": accuracy.ap,
            "ap50": accuracy.ap50,
            "ap75": accuracy.ap75,
            "class_ap": dict(zip(names, accuracy.class_ap.tolist(), strict=True)),
            "class_ap50": dict(zip(names, accuracy.class_ap50.tolist(), strict=True)),
        }
    )


def speed_record(steps: int, seconds: float, waited: float, batch_size: int) -> dict[str, Any]:
    """Returns how fast steps were done; None where only the evaluation was left to do."""
    return {
        "images_per_second": steps * batch_size / seconds if steps else None,
        "step_seconds": seconds / steps if steps else None,
        "data_wait": waited / seconds if steps else None,
    }


def device_memory_mib() -> float | None:
    """Returns the most memory that a device of this process has used; None where none tells."""
    known = [device.memory_stats() for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in known if stats]
    return max(peaks) / 2**20 if peaks else None


def has_record(records: Sequence[Mapping[str, Any]], step: int) -> bool:
    """Says whether the last record is that of the epoch that a step ended."""
    return bool(records) and records[-1]["step"] == step


def warnings(records: Sequence[Mapping[str, Any]], assigner: str) -> list[str]:
    """Returns what is wrong with the last epoch of a run, measured by its own best.

    Args:
      records: the epochs so far.
      assigner: whose losses the records have.
    """
    messages = []
    loss = f"train/{assigner}/total"
    last, before = records[-1], records[:-1]
    if last["skipped"]:
        messages.append(
            f"{last['skipped']} batches of epoch {last['epoch']} were left out, because their loss "
            "or gradients were not finite"
        )
    known = [record[loss] for record in before if record[loss] is not None]
    lowest = min(known, default=math.inf)
    if last[loss] is not None and last[loss] > LOSS_COLLAPSE * lowest:
        messages.append(
            f"the training loss is {last[loss]:.4g}, and was {lowest:.4g}: training diverges; "
            f"{AGAINST_DIVERGENCE}"
        )
    if last.get(f"val/{assigner}/total", 0) is None:
        messages.append(
            "the averaged weights give no finite losses any more: training diverges; "
            f"{AGAINST_DIVERGENCE}"
        )
    best = highest_ap(before)
    now = last.get("ap")
    if best is not None and now is not None and LEAST_AP < best["ap"] > now / AP_COLLAPSE:
        messages.append(
            f"AP is {now:.3f}, and was {best['ap']:.3f} after epoch {best['epoch']}: "
            "accuracy collapses; the best checkpoint is kept"
        )
    return messages


def highest_ap(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Returns the epoch with the highest AP, the earliest of several; None without any."""
    evaluated = [record for record in records if record.get("ap") is not None]
    return max(evaluated, key=lambda record: record["ap"], default=None)


def out_of_patience(records: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Says whether the AP has not risen for so many epochs; never if `patience` is 0."""
    best = highest_ap(records)
    if not patience or best is None:
        return False
    # Epochs without an evaluation tell nothing.
    last = max(record["epoch"] for record in records if "ap" in record)
    return last - best["epoch"] >= patience
