"""What a person sees of a run: its progress, and pictures of what it detects."""

import pathlib
import sys
import time
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from tqdm import tqdm

from train.data.dataset import Dataset
from train.data.pipeline import load_sample
from yolov7_jax.metrics import ScoredBoxes

SHEET_ROWS, SHEET_PAIRS = 4, 2
TILE = 320  # pixels; names and scores must be readable beside the objects
GAP = 8
HEADER = 22
SHOWN_SCORE = 0.25  # what prediction shows by default
SHOWN_IOU = 0.45
SECONDS_BETWEEN_LINES = 20.0
WHITE = (255, 255, 255)
COLOURS = (  # told apart on light and dark pictures; RGB
    (230, 25, 75),
    (0, 130, 200),
    (60, 180, 75),
    (245, 130, 48),
    (145, 30, 180),
    (0, 128, 128),
    (240, 50, 230),
    (170, 110, 40),
    (128, 0, 0),
    (128, 128, 0),
)


class Progress:
    """A bar over the whole run on a terminal; elsewhere a plain line now and then.

    Attributes:
      total_images: what the run will have seen at its end.
      seen: what it has seen.
    """

    def __init__(self, total_images: int, seen: int):
        self.total_images = total_images
        self.seen = seen
        self._plain = not sys.stderr.isatty()
        self._started = self._last_line = time.monotonic()
        self._seen_before = seen
        self._bar = tqdm(
            total=total_images,
            initial=seen,
            disable=self._plain,
            unit=" images",
            dynamic_ncols=True,
            bar_format="{desc}{percentage:3.0f}% |{bar}| {rate_fmt}, {remaining} left{postfix}",
        )

    def update(self, images: int, epoch: str, losses: dict[str, float]) -> None:
        """Tells of one step.

        Args:
          images: pictures of the step.
          epoch: which epoch, for people.
          losses: name to value.
        """
        self.seen += images
        shown = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        now = time.monotonic()
        if not self._plain:
            self._bar.set_description_str(f"epoch {epoch} ", refresh=False)
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(images)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = (self.seen - self._seen_before) / (now - self._started)
            left = tqdm.format_interval(max(0, self.total_images - self.seen) / rate)
            percent = 100 * self.seen / self.total_images
            self.line(f"epoch {epoch} {percent:3.0f}% {rate:.1f} images/s, {left} left, {shown}")

    def line(self, text: str) -> None:
        """Writes a line that stays."""
        self._bar.write(text, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """Returns one line about an epoch, from its record in metrics.jsonl."""
    width = len(str(epochs))
    ap, ap50 = (_number(record[name]) for name in ("ap", "ap50"))
    return (
        f"epoch {record['epoch']:{width}d}/{epochs}  AP {ap}  AP50 {ap50}  "
        f"box {record['box']:.4f}  obj {record['obj']:.4f}  cls {record['cls']:.4f}  "
        f"{record['images_per_second']:.1f} images/s  {record['seconds']:.0f} s"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def draw_contact_sheet(dataset: Dataset, detections: ScoredBoxes, path: pathlib.Path) -> None:
    """Writes a PNG of some pictures twice: with their objects, and beside with what was detected.

    The pictures are spread evenly over those that have objects. Detections are drawn from a score
    of 0.25, and one that overlaps a better one of its class by an IoU of 0.45 is not.

    Args:
      dataset: the split.
      detections: of the split, in pixels of the original pictures.
      path: where to write.
    """
    images = np.flatnonzero(np.diff(dataset.offsets))
    if not len(images):
        images = np.arange(len(dataset))
    count = min(len(images), SHEET_ROWS * SHEET_PAIRS)
    chosen = images[np.linspace(0, len(images) - 1, count).round().astype(int)]
    pairs = [_pair(dataset, detections, int(image)) for image in chosen]
    rows = [_row(pairs[i : i + SHEET_PAIRS]) for i in range(0, count, SHEET_PAIRS)]
    encoded, png = cv2.imencode(".png", cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    if not encoded:
        raise RuntimeError(f"{path}: OpenCV could not encode the contact sheet")
    path.write_bytes(png.tobytes())


def _row(pairs: list[UInt8[np.ndarray, "_h w 3"]]) -> UInt8[np.ndarray, "H W 3"]:
    """Joins pairs of different heights, and fills up a row that has too few."""
    height, width = max(len(pair) for pair in pairs), pairs[0].shape[1]
    row = np.full((height, SHEET_PAIRS * width, 3), WHITE, np.uint8)
    for number, pair in enumerate(pairs):
        row[: len(pair), number * width : (number + 1) * width] = pair
    return row


def _pair(dataset: Dataset, detections: ScoredBoxes, image: int) -> UInt8[np.ndarray, "h w 3"]:
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
    left = _tile(
        sample.image,
        sample.boxes_xyxy,
        sample.labels,
        [names[label] for label in sample.labels],
        f"{title}: {_count(len(sample.labels), 'object')}",
    )
    right = _tile(sample.image, boxes[shown], labels[shown], found, _count(len(shown), "detection"))
    return np.hstack([left, right])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _tile(
    image: UInt8[np.ndarray, "h w 3"],
    boxes_xyxy: Float[np.ndarray, "n 4"],
    labels: Int[np.ndarray, " n"],
    captions: list[str],
    title: str,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws boxes on a picture, scaled into a square with a title above."""
    height, width = image.shape[:2]
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    corners = (boxes_xyxy * scale).round().astype(int).tolist()
    colours = [COLOURS[int(label) % len(COLOURS)] for label in labels]
    for (x0, y0, x1, y1), colour in zip(corners, colours, strict=True):
        cv2.rectangle(picture, (x0, y0), (x1, y1), colour, 2)
    for (x0, y0, _, _), colour, caption in zip(corners, colours, captions, strict=True):
        _caption(picture, caption, x0, y0, colour)
    tile = np.full((HEADER + size[1] + GAP, TILE + GAP, 3), WHITE, np.uint8)
    tile[HEADER : HEADER + size[1], : size[0]] = picture
    cv2.putText(
        tile, title[:48], (2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA
    )
    return tile


def _caption(
    picture: UInt8[np.ndarray, "h w 3"], text: str, x: int, y: int, colour: tuple[int, int, int]
) -> None:
    """Writes on a coloured ground above a box, or inside where there is no room above."""
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.36, 1)
    x = min(max(x, 0), max(0, picture.shape[1] - width - 3))
    bottom = y if y >= height + 4 else min(y + height + 4, picture.shape[0])
    cv2.rectangle(picture, (x, bottom - height - 4), (x + width + 3, bottom), colour, cv2.FILLED)
    cv2.putText(
        picture, text, (x + 2, bottom - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.36, WHITE, 1, cv2.LINE_AA
    )
