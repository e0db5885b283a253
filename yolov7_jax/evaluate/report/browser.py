"""A browser of images in a page: which have which faults, and every box in them."""

import json
import pathlib
from importlib import resources
from typing import Any

import numpy as np

from yolov7_jax.data.faults import plural
from yolov7_jax.data.images import UnreadableImageError, read_image, resize
from yolov7_jax.evaluate.matching import Kind
from yolov7_jax.evaluate.report.html import Element, faint, node
from yolov7_jax.evaluate.report.report_images import (
    jpeg_address,
    kind_class,
    kind_legend,
    kind_name,
    rank_images,
)
from yolov7_jax.evaluate.report.results import Results

MOST_IMAGES = 200
SIDE = 640  # pixels of the longer side
MOST_BYTES = 80_000  # of a JPEG
LEAST_SCORE = 0.05  # detections with less are left out: there are hundreds in an image
MISSED = "missed"
FAULTS = (Kind.FALSE, Kind.WRONG_CLASS, Kind.BADLY_PLACED, Kind.DUPLICATE)


def browser_parts(results: Results) -> list[Element]:
    """Returns the browser: what it consists of, its data and its script.

    The page has the images with the most faults, at most 200, so it stays below 25 MB whatever
    is in them. Images that cannot be read are left out and named.
    """
    ranking = rank_images(results)
    faults = ranking.objects - ranking.found + ranking.wrong
    images, unreadable = [], []
    for image in np.argsort(-faults, kind="stable").tolist():
        if len(images) == MOST_IMAGES:
            break
        try:
            images.append(_image(results, image))
        except UnreadableImageError as error:
            unreadable.append(str(error))
    least = _least_score(results)
    data = {
        "names": list(results.dataset.names),
        "kinds": [kind_class(kind) for kind in Kind],
        "images": images,
    }
    total = len(results.dataset)
    which = f"{len(images)} of {total}"
    if len(images) == total:
        which = f"All {total} {plural('image', total)}"
    if len(images) == MOST_IMAGES < total:
        which = f"The {MOST_IMAGES} images with the most faults, of {total}"
    parts = [
        faint(
            f"{which}, shown with at most {SIDE} pixels; detections from a score of {least:.3g}. "
            "A wrong class counts for both classes. An image opens larger; arrow keys go to the "
            "next and the one before, Escape closes it."
        ),
        node("noscript", {}, node("p", {}, "The images are shown by a script, which is off.")),
        _filters(results, least),
        node("p", {"id": "browser-count", "role": "status", "class": "faint needs-script"}),
        kind_legend(),
        node("div", {"id": "browser-thumbs", "class": "thumbs needs-script"}),
        node(
            "button",
            {"id": "browser-more", "type": "button", "class": "more needs-script"},
            "More images",
        ),
        _viewer(),
        node("script", {"id": "browser-data", "type": "application/json"}, _as_script(data)),
        node("script", {}, _own_file("browser.js")),
    ]
    if unreadable:
        more = "" if len(unreadable) == 1 else f" and {len(unreadable) - 1} more"
        parts.insert(1, faint(f"Left out: {unreadable[0]}{more}"))
    return parts


def browser_style() -> str:
    """Returns the style that the browser needs beside that of all pages."""
    return _own_file("browser.css")


def _own_file(name: str) -> str:
    return resources.files("yolov7_jax.evaluate.report").joinpath(name).read_text("utf-8")


def _least_score(results: Results) -> float:
    return min(LEAST_SCORE, results.curves.best_score)


def _image(results: Results, image: int) -> dict[str, Any]:
    """Returns what the script needs to know of an image.

    Raises:
      UnreadableImageError: it cannot be read.
    """
    path = results.dataset.paths[image]
    pixels = read_image(path)
    scale = min(1.0, SIDE / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    truth, detections, matches = results.truth, results.detections, results.matches
    objects = np.flatnonzero(np.asarray(truth.image) == image)
    place = {int(row): number for number, row in enumerate(objects)} | {-1: -1}
    rows = np.flatnonzero(
        (np.asarray(detections.image) == image)
        & (np.asarray(detections.scores, np.float64) >= _least_score(results))
        & (matches.kinds != Kind.IGNORED)
    )
    scores = np.append(np.asarray(detections.scores, np.float64), -1.0)  # -1: the last
    return {
        "name": pathlib.PurePath(path).name,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "jpeg": jpeg_address(resize(pixels, width, height), MOST_BYTES),
        # Label, score of the detection that found it or -1, whether a crowd region, corners.
        "objects": [
            [
                int(truth.labels[row]),
                _rounded(float(scores[matches.finders[row]])),
                int(not results.real[row]),
                *_corners(truth.boxes_xyxy[row]),
            ]
            for row in objects
        ],
        # Label, score, kind, which of the objects or -1, IoU with it, corners.
        "detections": [
            [
                int(detections.labels[row]),
                _rounded(float(scores[row])),
                int(matches.kinds[row]),
                place[int(matches.objects[row])],
                round(float(matches.ious[row]), 3),
                *_corners(detections.boxes_xyxy[row]),
            ]
            for row in rows
        ],
    }


def _rounded(score: float) -> float:
    # As exact as float32, so that scores pass the same thresholds in the script.
    return round(score, 8)


def _corners(box_xyxy: np.ndarray) -> list[float]:
    return [round(float(value), 1) for value in box_xyxy]


def _as_script(data: dict[str, Any]) -> str:
    """Returns JSON that can stand in an element of HTML: no name in it can end that."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _filters(results: Results, least: float) -> Element:
    options = [
        node("option", {"value": str(label)}, name)
        for label, name in enumerate(results.dataset.names)
    ]
    kinds = [(MISSED, MISSED), *((kind_class(kind), kind_name(kind)) for kind in FAULTS)]
    boxes = [
        node(
            "label",
            {},
            node("input", {"type": "checkbox", "name": "kind", "value": kind, "checked": ""}),
            node("i", {"class": f"swatch {kind}", "aria-hidden": "true"}),
            name,
            node("b", {"id": f"count-{kind}"}),
        )
        for kind, name in kinds
    ]
    best = results.curves.best_score
    slider = {"type": "range", "id": "browser-score", "min": least, "max": 1.0, "step": 0.001}
    return node(
        "form",
        {"id": "browser-filters", "class": "filters needs-script", "autocomplete": "off"},
        node(
            "label",
            {},
            "Class ",
            node("select", {"id": "browser-class"}, node("option", {"value": ""}, "all"), *options),
        ),
        node(
            "label",
            {},
            "Score from ",
            node("input", {**slider, "value": best}),
            node("output", {"id": "browser-score-shown", "for": "browser-score"}),
        ),
        node("fieldset", {}, node("legend", {}, "Faults"), *boxes),
        node(
            "label",
            {},
            node("input", {"type": "checkbox", "id": "browser-faultless"}),
            "images without faults too",
        ),
        node("button", {"type": "reset"}, "Reset"),
    )


def _viewer() -> Element:
    def button(name: str, text: str) -> Element:
        return node("button", {"id": f"viewer-{name}", "type": "button"}, text)

    return node(
        "dialog",
        {"id": "viewer", "aria-labelledby": "viewer-name", "tabindex": "-1"},
        node(
            "div",
            {"class": "viewer-head"},
            node("h3", {"id": "viewer-name"}),
            node("span", {"id": "viewer-place", "class": "faint", "role": "status"}),
            button("previous", "Previous"),
            button("next", "Next"),
            button("close", "Close"),
        ),
        node(
            "div",
            {"class": "viewer-body"},
            node(
                "div",
                {"class": "viewer-image"},
                node("svg", {"id": "viewer-stage", "role": "img"}),
                node("p", {"id": "viewer-hint"}),
            ),
            node("ul", {"id": "viewer-boxes", "aria-label": "boxes in the image"}),
        ),
    )
