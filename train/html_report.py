"""report.html: what a finished run shows, in one file that needs nothing else."""

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from train.config import TrainConfig
from train.epoch_charts import epoch_charts, finite_values
from yolov7_jax.confusion import confusion_matrix
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.metrics import CocoAp, GroundTruth, ScoredBoxes
from yolov7_jax.page.accuracy import accuracy_charts, class_table, confusion_parts, fault_tables
from yolov7_jax.page.elements import Element, faint, node, number, section, table, write_page
from yolov7_jax.page.pictures import picture_parts
from yolov7_jax.page.results import Results, results_of


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
    """Writes a page about a run: numbers, curves, faults, pictures and settings.

    It is one file without scripts, readable anywhere and printable. Pictures that cannot be read
    are left out and named.

    Args:
      path: where to write.
      title: what the run is.
      config: its settings.
      records: its epochs, as in metrics.jsonl: numbers by name, None where undefined.
      dataset: the validation split.
      truth: its objects, from `ground_truth`.
      detections: in its pictures, with scores in [0, 1].
      accuracy: of these detections.

    Raises:
      OSError: the file cannot be written.
      ValueError: the boxes cannot be measured, as `metrics.coco_ap` tells.
    """
    results = results_of(dataset, truth, detections)
    curves, names = results.curves, dataset.names
    matrix = confusion_matrix(
        truth,
        detections,
        results.matches,
        num_classes=len(names),
        score_threshold=curves.best_score,
    )
    sections = [
        section("epochs", "Over the epochs", *_epochs(records)),
        section(
            "classes",
            "Accuracy by class",
            faint(
                "AP over the IoUs 0.50 to 0.95 and at 0.50, by COCO's rules; precision, recall and "
                f"F1 of detections with a score of at least {curves.best_score:.3f}, the threshold "
                "with the highest mean F1, at IoU 0.50."
            ),
            class_table(names, accuracy, curves),
        ),
        section("curves", "Precision and recall", *_curves(results, accuracy)),
        section(
            "faults",
            "Faults",
            faint(
                f"From a score of {curves.best_score:.3f}. Duplicate: on an object that a better "
                "detection has found. Wrong class: on an object of another class. Badly placed: at "
                "an IoU from 0.1 to below 0.5. False: nothing of the kind there."
            ),
            fault_tables(results),
        ),
        section(
            "confusion",
            "Confusion",
            faint(
                "Rows: what objects are; columns: what they were detected as, from a score of "
                f"{curves.best_score:.3f}. Last column: missed objects; last row: detections that "
                "found no object. Colours show shares of a row."
            ),
            *confusion_parts(names, matrix),
        ),
        section("pictures", "Worst and best pictures", *picture_parts(results)),
        section("settings", "Settings", *_settings(config)),
    ]
    links = [node("a", {"href": f"#{part.get('id')}"}, part[0].text or "") for part in sections]
    head = [
        node("h1", {}, title),
        node("p", {"class": "faint"}, _summary(config, results)),
        node("nav", {}, *links),
        node("div", {"class": "cards"}, *_cards(records, results, accuracy)),
    ]
    write_page(path, title, [*head, *sections])


def _summary(config: TrainConfig, results: Results) -> str:
    return (
        f"{config.model} at {config.image_size} pixels. Validation pictures: "
        f"{len(results.dataset)}, objects: {int(results.real.sum())}, classes: "
        f"{len(results.dataset.names)}."
    )


def _cards(
    records: Sequence[Mapping[str, Any]], results: Results, accuracy: CocoAp
) -> list[Element]:
    """Returns the headline numbers."""
    curves, best = results.curves, results.curves.best
    with_objects = curves.objects > 0
    entries = [
        ("AP", number(accuracy.ap)),
        ("AP50", number(accuracy.ap50)),
        ("AP75", number(accuracy.ap75)),
        ("AP small", number(accuracy.ap_small)),
        ("AP medium", number(accuracy.ap_medium)),
        ("AP large", number(accuracy.ap_large)),
        ("best mean F1", number(_mean(curves.f1[with_objects, best]))),
        ("at score", number(curves.best_score)),
        ("epochs", str(len(records))),
    ]
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
    return [
        node("div", {"class": "card"}, node("b", {}, value), node("span", {}, name))
        for name, value in entries
    ]


def _mean(values: Float64[np.ndarray, " c"]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"


def _epochs(records: Sequence[Mapping[str, Any]]) -> list[Element]:
    return epoch_charts(records) or [faint("No epoch has ended yet.")]


def _curves(results: Results, accuracy: CocoAp) -> list[Element]:
    charts = accuracy_charts(results.dataset.names, accuracy, results.curves)
    if not charts:
        return [faint("There is no object to find, so neither is defined.")]
    return [node("div", {"class": "grid wide"}, *charts)]


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
