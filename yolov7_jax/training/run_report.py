"""report.html: what a finished run shows, in one file that needs nothing else."""

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from yolov7_jax.evaluate.report.curves_and_confusion import (
    SECTIONS,
    accuracy_cards,
    accuracy_values,
)
from yolov7_jax.evaluate.report.matched_split import MatchedSplit
from yolov7_jax.evaluate.report.pages import unit, write_page
from yolov7_jax.evaluate.report.worst_images import worst_and_best
from yolov7_jax.training.epoch_charts import epoch_charts, finite_values
from yolov7_jax.training.train_config import TrainConfig


def write_report(
    path: pathlib.Path,
    *,
    title: str,
    config: TrainConfig,
    records: Sequence[Mapping[str, Any]],
    split: MatchedSplit,
) -> None:
    """Writes a page about a run: numbers, curves, faults, images and settings.

    It is one file without scripts, readable anywhere and printable. Images that cannot be read
    are left out and named.

    Args:
      path: where to write.
      title: what the run is.
      config: its settings.
      records: its epochs, as in metrics.jsonl: numbers by name, None where undefined.
      split: detections in the validation split, with scores in [0, 1].

    Raises:
      OSError: the file cannot be written.
    """
    write_page(
        path,
        {"epochs": "Over the epochs"}
        | SECTIONS
        | {"images": "Worst and best images", "settings": "Settings"},
        title=title,
        summary=f"{config.model} at {config.image_size} pixels. Validation images: "
        f"{len(split.dataset)}, objects: {int(split.truth.to_find.sum())}, classes: "
        f"{len(split.dataset.names)}.",
        cards=accuracy_cards(split) | _run_cards(records),
        epoch_charts=epoch_charts(records),
        images=worst_and_best(split),
        settings=_settings(config),
        **accuracy_values(split),
    )


def _run_cards(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the headline numbers of the run itself."""
    cards = {"epochs": str(len(records))}
    aps, seconds, speeds = (
        finite_values(records, name) for name in ("ap", "seconds", "images_per_second")
    )
    if aps:
        epoch, ap = max(aps, key=lambda entry: entry[1])
        cards[f"best AP, epoch {epoch}"] = unit(ap)
    if seconds:
        cards["training time"] = _duration(sum(value for _, value in seconds))
    if speeds:
        cards["images/s, median"] = f"{statistics.median(value for _, value in speeds):.4g}"
    return cards


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"


def _settings(config: TrainConfig) -> dict[str, list[tuple[str, str, bool]]]:
    """Returns name, value and whether it is the default of all settings, by group."""
    groups: dict[str, list[tuple[str, str, bool]]] = {}
    defaults = TrainConfig()
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), getattr(defaults, field.name)
        if not dataclasses.is_dataclass(value):
            groups.setdefault("run", []).append((field.name, _plain(value), value == default))
            continue
        for inner in dataclasses.fields(value):
            own, usual = getattr(value, inner.name), getattr(default, inner.name, None)
            row = (inner.name, _plain(own), own == usual)
            groups.setdefault(field.name, []).append(row)
    return groups


def _plain(value: Any) -> str:
    if value is None or value == ():
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_plain, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)
