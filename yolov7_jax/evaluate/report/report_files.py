"""The files about an evaluation: numbers, detections, images and the page."""

import json
import pathlib
from collections.abc import Iterable

from yolov7_jax.data.faults import Fault
from yolov7_jax.detect.drawing import write_image
from yolov7_jax.evaluate.detect_split import write_detections
from yolov7_jax.evaluate.report.browser import browser_parts, browser_style
from yolov7_jax.evaluate.report.html import section, write_page
from yolov7_jax.evaluate.report.sections import accuracy_cards, accuracy_sections, page_head
from yolov7_jax.evaluate.report.summary_text import (
    Measured,
    as_numbers,
    curve_images,
    summary,
    worst_images,
)
from yolov7_jax.files import write_whole

DETECTIONS_FILE = "detections.json"
FAULTS_FILE = "faults.txt"
METRICS_FILE = "metrics.json"
WORST_FILE = "worst.png"
REPORT_FILE = "report.html"


def write_files(folder: pathlib.Path, measured: Measured, *, report: bool) -> list[str]:
    """Writes all that there is to tell about an evaluation.

    Args:
      folder: where to write; it exists.
      measured: the evaluation.
      report: whether a page is among the files.

    Returns:
      The names of the files.

    Raises:
      OSError: a file cannot be written.
    """
    results = measured.results
    write_detections(results.dataset, results.detections, folder / DETECTIONS_FILE)
    numbers = json.dumps(as_numbers(measured), indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / METRICS_FILE, numbers.encode("utf-8", "backslashreplace"))
    written = [DETECTIONS_FILE, METRICS_FILE]
    images = curve_images(measured)
    worst = worst_images(measured)
    if worst is not None:
        images[WORST_FILE] = worst
    for name, image in images.items():
        write_image(image, folder / name)
        written.append(name)
    if report:
        write_report(folder / REPORT_FILE, measured)
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


def write_report(path: pathlib.Path, measured: Measured) -> None:
    """Writes a page: numbers, curves, faults and confusions, and a browser of the images.

    It is one file that needs no network and no server. At most 200 images are in it.

    Raises:
      OSError: the file cannot be written.
    """
    results, accuracy = measured.results, measured.accuracy
    sections = [
        *accuracy_sections(results, accuracy),
        section("browser", "Images", *browser_parts(results)),
    ]
    weights = pathlib.PurePath(str(measured.settings["weights"])).name
    title = f"{weights} on {measured.settings['split']}"
    head = page_head(title, summary(measured), accuracy_cards(results, accuracy), sections)
    write_page(path, title, [*head, *sections], style=browser_style())
