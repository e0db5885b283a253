"""What was measured of weights on a split: as numbers, as text and as images."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from yolov7_jax.data.faults import plural
from yolov7_jax.data.images import UnreadableImageError, read_image
from yolov7_jax.detect.drawing import GAP, Colour, draw_boxes, grid, titled
from yolov7_jax.evaluate.coco_ap import CocoAp
from yolov7_jax.evaluate.curves import class_mean
from yolov7_jax.evaluate.report.accuracy import (
    BACKGROUND,
    by_ap50,
    confused_classes,
    recall_lines,
    score_lines,
)
from yolov7_jax.evaluate.report.plots import matrix_plot, unit_plot
from yolov7_jax.evaluate.report.report_images import kind_name, rank_images
from yolov7_jax.evaluate.report.results import Results

Image = UInt8[np.ndarray, "h w 3"]

# What pycocotools calls the numbers of `CocoAp`: IoU, size of the objects, detections per image.
NUMBERS = {
    "ap": ("AP", "0.50:0.95", "all", 100),
    "ap50": ("AP50", "0.50", "all", 100),
    "ap75": ("AP75", "0.75", "all", 100),
    "ap_small": ("AP small", "0.50:0.95", "small", 100),
    "ap_medium": ("AP medium", "0.50:0.95", "medium", 100),
    "ap_large": ("AP large", "0.50:0.95", "large", 100),
    "ar1": ("AR1", "0.50:0.95", "all", 1),
    "ar10": ("AR10", "0.50:0.95", "all", 10),
    "ar100": ("AR100", "0.50:0.95", "all", 100),
    "ar_small": ("AR small", "0.50:0.95", "small", 100),
    "ar_medium": ("AR medium", "0.50:0.95", "medium", 100),
    "ar_large": ("AR large", "0.50:0.95", "large", 100),
}
SHEET_IMAGES, SHEET_COLUMNS = 12, 4
TILE = 420  # pixels
MISSED = "missed"
KIND_COLOURS: Mapping[str, Colour] = {  # RGB, those of the page
    "correct": (56, 176, 0),
    "duplicate": (58, 134, 255),
    "wrong class": (192, 91, 255),
    "badly placed": (255, 183, 3),
    "false": (255, 45, 63),
    MISSED: (255, 20, 147),
}


class Measured(NamedTuple):
    """What came of an evaluation.

    Attributes:
      results: detections in a split, matched with its objects.
      accuracy: of these detections.
      images: how many were looked at.
      left_out: what is wrong with images that could not be used, of which neither objects nor
        detections count.
      objects_left_out: how many objects of the others could not be used.
      settings: what was evaluated, and how; plain values by name.
    """

    results: Results
    accuracy: CocoAp
    images: int
    left_out: Sequence[str]
    objects_left_out: int
    settings: Mapping[str, str | float | bool]


def as_lines(measured: Measured) -> list[str]:
    """Returns the numbers as lines of text."""
    results, accuracy, curves = measured.results, measured.accuracy, measured.results.curves
    names = results.dataset.names
    lines = [summary(measured), ""]
    lines.append(f"{'':<10}  {'IoU':<9}  {'objects':<7}  {'detections':>10}")
    for field, (title, iou, area, most) in NUMBERS.items():
        lines.append(
            f"{title:<10}  {iou:<9}  {area:<7}  {most:>10}  {_number(getattr(accuracy, field))}"
        )
    width = min(30, max(len("all classes"), *map(len, names)))
    lines += [
        "",
        f"{'':<{width}}  objects     AP   AP50  precision  recall     F1",
        _row("all classes", int(curves.objects.sum()), class_numbers(measured, None), width),
    ]
    lines += [
        _row(names[label], int(curves.objects[label]), class_numbers(measured, label), width)
        for label in by_ap50(accuracy)
    ]
    lines.append(
        f"Precision, recall and F1 at IoU 0.50, from a score of {curves.best_score:.3f}, which has "
        "the best mean F1."
        if len(results.detections.labels)
        else "Nothing was detected."
    )
    return lines


def summary(measured: Measured) -> str:
    """Returns what was measured, as a sentence."""
    results, settings = measured.results, measured.settings
    images = f"{measured.images} {plural('image', measured.images)}"
    images += _left_out(len(measured.left_out))
    objects = f"{int(results.real.sum())} objects{_left_out(measured.objects_left_out)}"
    shape = "squares" if settings["square"] else "rectangles"
    augmented = ", test-time augmentation" if settings["augment"] else ""
    return (
        f"{settings['data']}, {settings['split']}: {images} in {shape} of "
        f"{settings['image_size']} pixels{augmented}; {objects} of {len(results.dataset.names)} "
        f"classes, {len(results.detections.labels)} detections"
    )


def _left_out(count: int) -> str:
    return f" ({count} left out)" if count else ""


def class_numbers(measured: Measured, label: int | None) -> dict[str, float]:
    """Returns the numbers of a class, or without one the means over all of them."""
    accuracy, curves = measured.accuracy, measured.results.curves
    table = {
        "ap": accuracy.class_ap,
        "ap50": accuracy.class_ap50,
        "precision": curves.precision[:, curves.best],
        "recall": curves.recall[:, curves.best],
        "f1": curves.f1[:, curves.best],
    }
    if label is None:
        return {name: float(class_mean(values[:, None])[0]) for name, values in table.items()}
    return {name: float(values[label]) for name, values in table.items()}


def as_numbers(measured: Measured) -> dict[str, Any]:
    """Returns all numbers as JSON knows them; None where they are undefined."""
    results, accuracy, curves = measured.results, measured.accuracy, measured.results.curves
    names = results.dataset.names
    means = class_numbers(measured, None)
    numbers = {
        "settings": dict(measured.settings),
        "images": measured.images,
        "left_out": list(measured.left_out),
        "objects_left_out": measured.objects_left_out,
        "objects": int(results.real.sum()),
        "detections": len(results.detections.labels),
        **{field: getattr(accuracy, field) for field in NUMBERS},
        "best_score": curves.best_score,
        "at_best_score": {name: means[name] for name in ("precision", "recall", "f1")},
        "classes": [
            {"name": name, "objects": int(curves.objects[label])} | class_numbers(measured, label)
            for label, name in enumerate(names)
        ],
        "confusion": results.confusion().tolist(),
    }
    return _defined(numbers)


def curve_images(measured: Measured) -> dict[str, Image]:
    """Returns curves and confusion matrix, each with the name of its file."""
    results, curves = measured.results, measured.results.curves
    names = results.dataset.names
    matrix = results.confusion()
    shown = confused_classes(matrix)
    best = f"{curves.best_score:.3f}"
    images = {
        "confusion.png": matrix_plot(
            f"Confusion from a score of {best}",
            [[*names, BACKGROUND][row] for row in shown],
            matrix[np.ix_(shown, shown)],
            row_name="what objects are",
            column_name="what they were detected as",
        )
    }
    lines = recall_lines(names, measured.accuracy, curves)
    if lines:
        images["precision_recall.png"] = unit_plot(
            "Precision over recall at IoU 0.50", lines, x_name="recall", y_name="precision"
        )
        images["f1.png"] = unit_plot(
            f"Means over the score threshold at IoU 0.50; best F1 at {best}",
            score_lines(curves),
            x_name="score",
            y_name="mean over the classes",
            mark=curves.best_score,
        )
    return images


def worst_images(measured: Measured) -> Image | None:
    """Returns the images with the lowest F1, with what is wrong in them; None if nothing is.

    Those that cannot be read are left out.
    """
    results, ranking = measured.results, rank_images(measured.results)
    tiles = []
    for image in ranking.worst:
        if len(tiles) == SHEET_IMAGES:
            break
        try:
            tiles.append(_tile(results, image, ranking.caption(image)))
        except UnreadableImageError:
            continue
    if not tiles:
        return None
    sheet = grid(tiles, min(len(tiles), SHEET_COLUMNS))
    return np.vstack([_legend(sheet.shape[1]), sheet])


def _row(name: str, objects: int, numbers: Mapping[str, float], width: int) -> str:
    shown = name if len(name) <= width else name[: width - 1] + "…"
    ap, ap50, precision, recall, f1 = map(_number, numbers.values())
    return f"{shown:<{width}}  {objects:>7}  {ap}  {ap50}      {precision}   {recall}  {f1}"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "    -"


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _defined(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_defined(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tile(results: Results, image: int, caption: str) -> Image:
    """Returns an image with missed objects and all detections, by kind.

    Raises:
      UnreadableImageError: it cannot be read.
    """
    path = results.dataset.paths[image]
    pixels = read_image(path)
    scale = TILE / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas = np.ascontiguousarray(cv2.resize(pixels, (width, height), interpolation=method))
    names, truth, detections = results.dataset.names, results.truth, results.detections
    missed = np.flatnonzero((truth.image == image) & results.real & ~results.found)
    rows = np.flatnonzero(results.shown & (detections.image == image))
    rows = rows[np.argsort(detections.scores[rows], kind="stable")]
    kinds = [kind_name(kind) for kind in results.matches.kinds[rows]]
    draw_boxes(
        canvas,
        np.concatenate([truth.boxes_xyxy[missed], detections.boxes_xyxy[rows]]) * scale,
        [KIND_COLOURS[kind] for kind in [MISSED] * len(missed) + kinds],
        [names[label] for label in truth.labels[missed]]
        + [
            f"{names[label]} {score:.2f}"
            for label, score in zip(detections.labels[rows], detections.scores[rows], strict=True)
        ],
    )
    name = pathlib.PurePath(path).name
    return titled(canvas.astype(np.uint8), f"{name}  {caption}", TILE)


def _legend(width: int) -> Image:
    """Returns what the colours mean, on a white strip."""
    strip = np.full((30 + GAP, width, 3), 255, np.uint8)
    x = 4
    for kind, colour in KIND_COLOURS.items():
        cv2.rectangle(strip, (x, 9), (x + 16, 25), colour, 3)
        end, _ = cv2.putText(strip, kind, (x + 24, 23), (0, 0, 0), cv2.FontFace("sans"), 16)
        x = int(end[0]) + 24
    return strip
