"""What was measured of weights on a split: as lines of text and as numbers for JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from yolov7_jax.data.faults import plural
from yolov7_jax.evaluate.report.matched_split import MatchedSplit

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


class Validation(NamedTuple):
    """What came of an evaluation of weights.

    Attributes:
      split: detections in a split, matched with its objects.
      images: how many were looked at.
      left_out: what is wrong with images that could not be used, of which neither objects nor
        detections count.
      objects_left_out: how many objects of the others could not be used.
      settings: what was evaluated, and how; plain values by name.
    """

    split: MatchedSplit
    images: int
    left_out: Sequence[str]
    objects_left_out: int
    settings: Mapping[str, str | float | bool]

    @property
    def objects(self) -> int:
        """How many there are to find."""
        return int(self.split.truth.to_find.sum())


def as_lines(validation: Validation) -> list[str]:
    """Returns the numbers as lines of text."""
    split, curves = validation.split, validation.split.curves
    width = min(30, max(len("all classes"), *map(len, split.dataset.names)))

    def line(name: str, objects: int, *metrics: float) -> str:
        shown = name if len(name) <= width else name[: width - 1] + "…"
        ap, ap50, precision, recall, f1 = map(_number, metrics)
        return f"{shown:<{width}}  {objects:>7}  {ap}  {ap50}      {precision}   {recall}  {f1}"

    return [
        as_sentence(validation),
        "",
        f"{'':<10}  {'IoU':<9}  {'objects':<7}  {'detections':>10}",
        *(
            f"{title:<10}  {iou:<9}  {area:<7}  {most:>10}  "
            f"{_number(getattr(split.accuracy, field))}"
            for field, (title, iou, area, most) in NUMBERS.items()
        ),
        "",
        f"{'':<{width}}  objects     AP   AP50  precision  recall     F1",
        line("all classes", int(curves.objects.sum()), *split.class_metrics(None).values()),
        *(line(*split.class_row(label).values()) for label in split.by_ap50()),
        f"Precision, recall and F1 at IoU 0.50, from a score of {curves.best_score:.3f}, which has "
        "the best mean F1."
        if len(split.detections.labels)
        else "Nothing was detected.",
    ]


def as_sentence(validation: Validation) -> str:
    """Returns what was measured."""
    split, settings = validation.split, validation.settings

    def left_out(count: int) -> str:
        return f" ({count} left out)" if count else ""

    images = f"{validation.images} {plural('image', validation.images)}"
    shape = "squares" if settings["square"] else "rectangles"
    augmented = ", test-time augmentation" if settings["augment"] else ""
    return (
        f"{settings['data']}, {settings['split']}: {images}{left_out(len(validation.left_out))} in "
        f"{shape} of {settings['image_size']} pixels{augmented}; {validation.objects} objects"
        f"{left_out(validation.objects_left_out)} of {len(split.dataset.names)} classes, "
        f"{len(split.detections.labels)} detections"
    )


def as_metrics(validation: Validation) -> dict[str, Any]:
    """Returns all numbers as JSON knows them; None where they are undefined."""
    split, curves = validation.split, validation.split.curves
    means = split.class_metrics(None)
    numbers = {
        "settings": dict(validation.settings),
        "images": validation.images,
        "left_out": list(validation.left_out),
        "objects_left_out": validation.objects_left_out,
        "objects": validation.objects,
        "detections": len(split.detections.labels),
        **{field: getattr(split.accuracy, field) for field in NUMBERS},
        "best_score": curves.best_score,
        "at_best_score": {name: means[name] for name in ("precision", "recall", "f1")},
        "classes": [split.class_row(label) for label in range(len(split.dataset.names))],
        "confusion": split.confusion().tolist(),
    }
    return nan_to_none(numbers)


def nan_to_none(value: Any) -> Any:
    """Returns plain values as JSON can hold them: what is undefined or infinite is None."""
    if isinstance(value, dict):
        return {name: nan_to_none(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [nan_to_none(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "    -"
