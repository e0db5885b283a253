"""report.html: what a finished run shows, in one file that needs nothing else."""

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.evaluate.coco_ap import CocoAp, GroundTruth, ScoredBoxes
from yolov7_jax.evaluate.report.html import Element, faint, node, number, section, table, write_page
from yolov7_jax.evaluate.report.report_images import image_parts
from yolov7_jax.evaluate.report.results import Results, results_of
from yolov7_jax.evaluate.report.sections import accuracy_cards, accuracy_sections, page_head
from yolov7_jax.training.epoch_charts import epoch_charts, finite_values
from yolov7_jax.training.train_config import TrainConfig


def write_report(
    path: pathlib.Path,
    *,
    title: str,
    config: TrainConfig,
    records: Sequence[Mapping[str, Any]],
    dataset: Dataset,
    truth: GroundTruth,
    detections: ScoredBoxes,
    accuracy: CocoAp,
) -> None:
    """Writes a page about a run: numbers, curves, faults, images and settings.

    It is one file without scripts, readable anywhere and printable. Images that cannot be read
    are left out and named.

    Args:
      path: where to write.
      title: what the run is.
      config: its settings.
      records: its epochs, as in metrics.jsonl: numbers by name, None where undefined.
      dataset: the validation split.
      truth: its objects, from `ground_truth`.
      detections: in its images, with scores in [0, 1].
      accuracy: of these detections.

    Raises:
      OSError: the file cannot be written.
      ValueError: the boxes cannot be measured, as `metrics.coco_ap` tells.
    """
    results = results_of(dataset, truth, detections)
    sections = [
        section("epochs", "Over the epochs", *_epochs(records)),
        *accuracy_sections(results, accuracy),
        section("images", "Worst and best images", *image_parts(results)),
        section("settings", "Settings", *_settings(config)),
    ]
    cards = [*accuracy_cards(results, accuracy), *_cards(records)]
    write_page(
        path, title, [*page_head(title, _summary(config, results), cards, sections), *sections]
    )


def _summary(config: TrainConfig, results: Results) -> str:
    return (
        f"{config.model} at {config.image_size} pixels. Validation images: "
        f"{len(results.dataset)}, objects: {int(results.real.sum())}, classes: "
        f"{len(results.dataset.names)}."
    )


def _cards(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Returns the headline numbers of the run itself."""
    entries = [("epochs", str(len(records)))]
    accurate = finite_values(records, "ap")
    if accurate:
        epoch, ap = max(accurate, key=lambda entry: entry[1])
        entries.append((f"best AP, epoch {epoch}", number(ap)))
    seconds = [value for _, value in finite_values(records, "seconds")]
    if seconds:
        entries.append(("training time", _duration(sum(seconds))))
    speeds = [value for _, value in finite_values(records, "images_per_second")]
    if speeds:
        entries.append(("images/s, median", f"{statistics.median(speeds):.4g}"))
    return entries


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"


def _epochs(records: Sequence[Mapping[str, Any]]) -> list[Element]:
    return epoch_charts(records) or [faint("No epoch has ended yet.")]


def _settings(config: TrainConfig) -> list[Element]:
    """Returns a table for each group of settings; those that differ from the default are bold."""
    groups: dict[str, list[list[Element | str]]] = {}
    usual = TrainConfig()
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), getattr(usual, field.name)
        if dataclasses.is_dataclass(value):
            groups[field.name] = [
                _setting(inner.name, getattr(value, inner.name), getattr(default, inner.name, None))
                for inner in dataclasses.fields(value)
            ]
        else:
            groups.setdefault("run", []).append(_setting(field.name, value, default))
    tables = [table([name, ""], rows) for name, rows in groups.items()]
    return [
        faint("Bold: not the default."),
        node("div", {"class": "columns long"}, *tables),
    ]


def _setting(name: str, value: Any, default: Any) -> list[Element | str]:
    text = _plain(value)
    shown = text if value == default else node("b", {}, text)
    return [name, node("td", {"class": "number wrapped"}, shown)]


def _plain(value: Any) -> str:
    if value is None or value == ():
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_plain, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)
