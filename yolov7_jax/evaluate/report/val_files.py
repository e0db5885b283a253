"""The files that `yolov7-jax val` writes: numbers, detections, plots and the page."""

import json
import pathlib
from collections.abc import Iterable

import numpy as np

from yolov7_jax.data.faults import Fault
from yolov7_jax.detect.drawing import write_image
from yolov7_jax.evaluate.coco_results import write_coco_results
from yolov7_jax.evaluate.report.curves_and_confusion import (
    BACKGROUND,
    SECTIONS,
    accuracy_cards,
    accuracy_charts,
    accuracy_values,
    most_confused,
)
from yolov7_jax.evaluate.report.image_browser import browser_values
from yolov7_jax.evaluate.report.matched_split import MatchedSplit
from yolov7_jax.evaluate.report.metrics_text import Validation, as_metrics, as_sentence
from yolov7_jax.evaluate.report.pages import write_page
from yolov7_jax.evaluate.report.png_plots import Image, chart_plot, matrix_plot
from yolov7_jax.evaluate.report.worst_images import worst_sheet
from yolov7_jax.files import write_whole

DETECTIONS_FILE = "detections.json"
FAULTS_FILE = "faults.txt"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"


def write_files(folder: pathlib.Path, validation: Validation, *, report: bool) -> list[str]:
    """Writes all that there is to tell about an evaluation.

    Args:
      folder: where to write; it exists.
      validation: the evaluation.
      report: whether a page is among the files.

    Returns:
      The names of the files.

    Raises:
      OSError: a file cannot be written.
    """
    split = validation.split
    write_coco_results(split.dataset, split.detections, folder / DETECTIONS_FILE)
    numbers = json.dumps(as_metrics(validation), indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / METRICS_FILE, numbers.encode("utf-8", "backslashreplace"))
    plots = _plots(split)
    for name, image in plots.items():
        write_image(image, folder / name)
    written = [DETECTIONS_FILE, METRICS_FILE, *plots]
    if report:
        write_report(folder / REPORT_FILE, validation)
        written.append(REPORT_FILE)
    return written


def write_faults(folder: pathlib.Path, faults: Iterable[Fault]) -> str:
    """Writes a line for everything that is wrong with a data set.

    Returns:
      The name of the file.

    Raises:
      OSError: it cannot be written.
    """
    lines = "".join(f"{fault} ({fault.kind.effect.value})\n" for fault in faults)
    write_whole(folder / FAULTS_FILE, lines.encode("utf-8", "backslashreplace"))
    return FAULTS_FILE


def write_report(path: pathlib.Path, validation: Validation) -> None:
    """Writes a page: numbers, curves, faults and confusions, and a browser of the images.

    It is one file that needs no network and no server. At most 200 images are in it.

    Raises:
      OSError: the file cannot be written.
    """
    weights = pathlib.PurePath(str(validation.settings["weights"])).name
    write_page(
        path,
        SECTIONS | {"browser": "Images"},
        title=f"{weights} on {validation.settings['split']}",
        summary=as_sentence(validation),
        cards=accuracy_cards(validation.split),
        **accuracy_values(validation.split),
        **browser_values(validation.split),
    )


def _plots(split: MatchedSplit) -> dict[str, Image]:
    """Returns confusion matrix, curves and worst images, each with the name of its file."""
    matrix = split.confusion()
    rows = most_confused(matrix)
    names = [[*split.dataset.names, BACKGROUND][row] for row in rows]
    title = f"Confusion from a score of {split.curves.best_score:.3f}"
    plots = {"confusion.png": matrix_plot(title, names, matrix[np.ix_(rows, rows)])}
    plots |= {f"{name}.png": chart_plot(chart) for name, chart in accuracy_charts(split).items()}
    sheet = worst_sheet(split)
    return plots if sheet is None else plots | {"worst.png": sheet}
