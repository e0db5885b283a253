"""What a person sees of a run: its progress, and images of what it detects."""

import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, Self

import cv2
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.detect.drawing import box_tile, grid, write_image
from yolov7_jax.evaluate.coco_ap import ScoredBoxes
from yolov7_jax.training.pipeline.stream import load_sample
from yolov7_jax.training.step import Metrics
from yolov7_jax.training.train_config import TrainConfig

SHEET_ROWS, SHEET_PAIRS = 4, 2
TILE = 320  # pixels; names and scores must be readable beside the objects
SHOWN_SCORE = 0.25  # what prediction shows by default
SHOWN_IOU = 0.45
SECONDS_BETWEEN_LINES = 20.0


class Progress:
    """A bar over the whole run on a terminal; elsewhere a plain line now and then.

    Attributes:
      total_images: what the run will have seen at its end.
      seen: what it has seen.
    """

    def __init__(self, total_images: int, *, silent: bool):
        """Shows nothing yet.

        Args:
          total_images: what the run will have seen at its end.
          silent: show nothing ever: one of several processes speaks for all.
        """
        self.total_images = total_images
        self.seen = 0
        self._silent = silent
        self._plain = silent or not sys.stderr.isatty()
        self._bar = tqdm(
            total=total_images,
            disable=self._plain,
            unit=" images",
            dynamic_ncols=True,
            bar_format="{desc}{percentage:3.0f}% |{bar}| {rate_fmt}, {remaining} left{postfix}",
        )
        self.start(0)

    def start(self, seen: int) -> None:
        """Begins to count time, at so many images."""
        self.seen = self._seen_before = seen
        self._started: float | None = None
        self._last_line = 0.0
        self._bar.reset(self.total_images)
        self._bar.initial = self._bar.n = seen

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def update(self, images: int, epoch: str, metrics: Metrics) -> None:
        """Tells of one step.

        Args:
          images: images of the step.
          epoch: which epoch, for people.
          metrics: of the step.
        """
        self.seen += images
        shown = "  ".join(f"{name} {getattr(metrics, name):.4f}" for name in ("box", "obj", "cls"))
        now = time.monotonic()
        if not self._plain:
            self._bar.set_description_str(f"epoch {epoch} ", refresh=False)
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(images)
        elif self._started is None:  # the first step's time was that of the compilation
            self._seen_before = self.seen
            self._started = self._last_line = now
        elif not self._silent and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = (self.seen - self._seen_before) / (now - self._started)
            left = tqdm.format_interval(max(0, self.total_images - self.seen) / rate)
            percent = 100 * self.seen / self.total_images
            self.line(f"epoch {epoch} {percent:3.0f}% {rate:.1f} images/s, {left} left, {shown}")

    def line(self, text: str) -> None:
        """Writes a line that stays."""
        if self._silent:
            return
        self._bar.write(text, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()


def epoch_line(record: Mapping[str, Any], config: TrainConfig) -> str:
    """Returns one line about an epoch, from its record in metrics.jsonl."""
    width = len(str(config.epochs))
    accuracy = "".join(
        f"  {title} {_number(record[name])}"
        for title, name in (("AP", "ap"), ("AP50", "ap50"))
        if name in record
    )
    losses = "".join(
        f"  {name} {_number(record[f'train/{config.assigner}/{name}'], 4)}"
        for name in ("box", "obj", "cls")
    )
    speed = ""
    if record["images_per_second"] is not None:
        speed = f"{record['images_per_second']:.1f} images/s  waited {record['data_wait']:.0%}  "
    return (
        f"epoch {record['epoch']:{width}d}/{config.epochs}{accuracy}{losses}  {speed}"
        f"{record['seconds']:.0f} s"
    )


def _number(value: float | None, decimals: int = 3) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def draw_contact_sheet(dataset: Dataset, detections: ScoredBoxes, path: pathlib.Path) -> None:
    """Writes a PNG of some images twice: with their objects, and beside with what was detected.

    The images are spread evenly over those that have objects. Detections are drawn from a score
    of 0.25, and one that overlaps a better one of its class by an IoU of 0.45 is not.

    Args:
      dataset: the split.
      detections: of the split, in pixels of the original images.
      path: where to write.
    """
    images = np.flatnonzero(np.diff(dataset.offsets))
    if not len(images):
        images = np.arange(len(dataset))
    count = min(len(images), SHEET_ROWS * SHEET_PAIRS)
    chosen = images[np.linspace(0, len(images) - 1, count).round().astype(int)]
    tiles = [tile for image in chosen for tile in _pair(dataset, detections, int(image))]
    write_image(grid(tiles, 2 * SHEET_PAIRS), path)


def _pair(
    dataset: Dataset, detections: ScoredBoxes, image: int
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Draws the objects of an image, and what was detected in it."""
    sample = load_sample(dataset, image)
    rows = np.flatnonzero(detections.image == image)
    boxes, scores, labels = (
        field[rows] for field in (detections.boxes_xyxy, detections.scores, detections.labels)
    )
    boxes_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    shown = np.asarray(
        cv2.dnn.NMSBoxesBatched(
            boxes_xywh.tolist(), scores.tolist(), labels.tolist(), SHOWN_SCORE, SHOWN_IOU
        ),
        np.int64,
    )
    names = dataset.names
    found = [
        f"{names[label]} {score:.2f}"
        for label, score in zip(labels[shown], scores[shown], strict=True)
    ]
    title = pathlib.Path(dataset.paths[image]).name
    objects = box_tile(
        sample.image,
        sample.boxes_xyxy,
        sample.labels,
        [names[label] for label in sample.labels],
        f"{title}: {_count(len(sample.labels), 'object')}",
        TILE,
    )
    detected = box_tile(
        sample.image,
        boxes[shown],
        labels[shown],
        found,
        _count(len(shown), "detection"),
        TILE,
    )
    return [objects, detected]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
