"""The files about an evaluation: numbers, detections, pictures and the page."""

import json
import pathlib
from collections.abc import Iterable

from yolov7_jax.data.faults import Fault
from yolov7_jax.drawing import write_picture
from yolov7_jax.evaluation import write_detections
from yolov7_jax.files import write_whole
from yolov7_jax.page.browser import browser_parts, browser_style
from yolov7_jax.page.elements import section, write_page
from yolov7_jax.page.measured import (
    Measured,
    as_numbers,
    curve_pictures,
    summary,
    worst_pictures,
)
from yolov7_jax.page.sections import accuracy_cards, accuracy_sections, page_head

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
    pictures = curve_pictures(measured)
    worst = worst_pictures(measured)
    if worst is not None:
        pictures[WORST_FILE] = worst
    for name, picture in pictures.items():
        write_picture(picture, folder / name)
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
    """Writes a page: numbers, curves, faults and confusions, and a browser of the pictures.

    It is one file that needs no network and no server. At most 200 pictures are in it.

    Raises:
      OSError: the file cannot be written.
    """
    results, accuracy = measured.results, measured.accuracy
    sections = [
        *accuracy_sections(results, accuracy),
        section("browser", "Pictures", *browser_parts(results)),
    ]
    weights = pathlib.PurePath(str(measured.settings["weights"])).name
    title = f"{weights} on {measured.settings['split']}"
    head = page_head(title, summary(measured), accuracy_cards(results, accuracy), sections)
    write_page(path, title, [*head, *sections], style=browser_style())
