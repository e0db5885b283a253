"""Writes what was found: drawn images and videos, crops, and tables of several formats."""

import contextlib
import csv
import dataclasses
import errno
import json
import math
import pathlib
import re
from typing import IO, Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float32, Int32

from yolov7_jax.data.images import resize
from yolov7_jax.detect.coco_stream import ERRORS, UTF8, CocoFile
from yolov7_jax.detect.drawing import colour_of, draw_boxes, readable_scale, write_image
from yolov7_jax.detect.sources import Frame, Image
from yolov7_jax.extras import from_extra
from yolov7_jax.files import naming, write_whole
from yolov7_jax.types import Detections

with from_extra("images"):
    import cv2

LABELS, CROPS = "labels", "crops"
COCO_FILE, CSV_FILE, JSON_LINES_FILE = "detections.json", "detections.csv", "detections.jsonl"
MP4 = cv2.VideoWriter.fourcc(*"mp4v")
CSV_COLUMNS = ("source", "frame", "label", "name", "score", "x0", "y0", "x1", "y1", "output")
# What OpenCV both reads and writes without loss of its kind; others become PNG.
WRITTEN = frozenset([".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"])


class Found(NamedTuple):
    """The objects in one image, best first.

    Attributes:
      boxes_xyxy: corners in pixels of the image.
      scores: in [0, 1].
      labels: class indices.
    """

    boxes_xyxy: Float32[np.ndarray, "k 4"]
    scores: Float32[np.ndarray, " k"]
    labels: Int32[np.ndarray, " k"]


class _Video(NamedTuple):
    """A video that is being written.

    Attributes:
      source: what it shows.
      path: of its file.
      writer: OpenCV's.
      size: width and height in pixels.
      written: images so far.
    """

    source: str
    path: pathlib.Path
    writer: Any
    size: tuple[int, int]
    written: int = 0


def found_in(detections: Detections) -> Found:
    """Returns the detections of one image without padding."""
    valid = np.asarray(detections.valid)
    return Found(*(np.asarray(field)[valid] for field in detections[:3]))


@dataclasses.dataclass(frozen=True)
class SaveConfig:
    """What is written.

    Attributes:
      images: each image and video with boxes drawn into it.
      txt: a YOLO txt file for each image: rows `class cx cy w h score`, in shares of the sides.
      coco: one COCO .json file, with images, categories and annotations that have a score.
      csv: one .csv file with a row for each object, and the image or video it is drawn into.
      json_lines: one .jsonl file with a line for each image, likewise; those that cannot be read
        too.
      crops: an image of each object, in a folder for each class.
    """

    images: bool = True
    txt: bool = False
    coco: bool = False
    csv: bool = False
    json_lines: bool = False
    crops: bool = False


class Saver:
    """Writes into a folder; a context manager.

    Every image has a place of its own: where two would have the same, the later is called
    name-2, name-3 ...
    """

    def __init__(self, folder: pathlib.Path, names: tuple[str, ...], config: SaveConfig):
        self.folder = folder
        self._names, self._config = names, config
        self._stack = contextlib.ExitStack()
        self._taken: set[str] = set()
        self._known: dict[str, pathlib.PurePath] = {}
        self._video: _Video | None = None
        self._coco: CocoFile | None = None
        self._rows: Any = None
        self._lines: IO[str] | None = None

    def __enter__(self) -> Self:
        if self._config.csv:
            file = (self.folder / CSV_FILE).open("w", newline="", encoding=UTF8, errors=ERRORS)
            self._rows = csv.writer(self._stack.enter_context(file))
            self._rows.writerow(CSV_COLUMNS)
        if self._config.json_lines:
            file = (self.folder / JSON_LINES_FILE).open("w", encoding=UTF8, errors=ERRORS)
            self._lines = self._stack.enter_context(file)
        if self._config.coco:
            file = CocoFile(self.folder / COCO_FILE, self._names)
            self._coco = self._stack.enter_context(file)
        return self

    def __exit__(self, *exception: object) -> None:
        with naming(self.folder), self._stack:
            self._end_video()

    def write_fault(self, frame: Frame) -> None:
        """Writes that an image could not be read.

        Raises:
          OSError: a file cannot be written; names it or the folder.
        """
        with naming(self.folder):
            self._write_line({"source": frame.source, "fault": frame.fault})

    def write(self, frame: Frame, found: Found) -> None:
        """Writes what was found in an image that could be read.

        Raises:
          OSError: a file cannot be written; names it or the folder.
        """
        with naming(self.folder):
            self._write(frame, found)

    def _write(self, frame: Frame, found: Found) -> None:
        name = of_source = self._name_of(frame)
        if frame.number is not None:
            name = self._free(of_source.with_name(f"{of_source.name}-{frame.number:06d}"))
        image = frame.image
        if image is None:
            raise ValueError(f"{frame.source} has no image: {frame.fault}")
        height, width = image.shape[:2]
        boxes, scores, labels = found
        rows = list(zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True))
        suffix = _written_suffix(frame)
        output = None
        if self._config.images:
            output = of_source.with_name(of_source.name + suffix).as_posix()
        if self._config.txt:
            side = np.asarray((width, height) * 2)
            corners = boxes / side
            centres = (corners[:, :2] + corners[:, 2:]) / 2
            shares = np.concatenate([centres, corners[:, 2:] - corners[:, :2]], 1).tolist()
            lines = [
                f"{label} {' '.join(f'{share:.6f}' for share in of_box)} {score:.6f}\n"
                for of_box, (_, score, label) in zip(shares, rows, strict=True)
            ]
            write_whole(self._file(LABELS, name, ".txt"), "".join(lines).encode())
        if self._rows is not None:
            for (x0, y0, x1, y1), score, label in rows:
                number = "" if frame.number is None else frame.number
                start = frame.source, number, label, self._names[label], f"{score:.6f}"
                corners = (f"{side:.3f}" for side in (x0, y0, x1, y1))
                self._rows.writerow((*start, *corners, output or ""))
        if self._lines is not None:
            objects = [
                {
                    "label": label,
                    "name": self._names[label],
                    "score": round(score, 6),
                    "box_xyxy": [round(side, 3) for side in box],
                }
                for box, score, label in rows
            ]
            about = {"source": frame.source, "frame": frame.number, "output": output}
            self._write_line(about | {"width": width, "height": height, "objects": objects})
        if self._coco is not None:
            number = "" if frame.number is None else f"#{frame.number}"
            self._coco.add(frame.source + number, (width, height), rows)
        if self._config.crops:
            self._write_crops(name, image, rows)
        if self._config.images:
            drawn = self._drawn(image, found)
            if frame.number is None:
                write_image(drawn, self._file("", name, suffix))
            else:
                self._write_to_video(frame, self._file("", of_source, suffix), drawn)

    def _name_of(self, frame: Frame) -> pathlib.PurePath:
        """Returns what the files of an image or a video are called, without a suffix."""
        if frame.number:
            return self._known[frame.source]
        # A name that is no text could be written, but not by OpenCV.
        place = pathlib.PurePath(str(frame.place).encode(errors="replace").decode())
        self._known[frame.source] = name = self._free(place.with_name(place.stem))
        return name

    def _free(self, wanted: pathlib.PurePath) -> pathlib.PurePath:
        """Returns a name that nothing else has: the wanted one, or name-2, name-3 ..."""
        first, *others = wanted.parts
        if others and first.casefold() in (LABELS, CROPS):  # folders of our own
            wanted = pathlib.PurePath(f"{first}-2", *others)
        name, number = wanted, 2
        while str(name).casefold() in self._taken:  # some file systems tell no A from a
            name, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
        self._taken.add(str(name).casefold())
        return name

    def _file(self, folder: str, name: pathlib.PurePath, suffix: str) -> pathlib.Path:
        path = self.folder / folder / name.with_name(name.name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write_line(self, values: dict[str, Any]) -> None:
        if self._lines is not None:
            self._lines.write(json.dumps(values, ensure_ascii=False) + "\n")
            self._lines.flush()  # for who follows the file

    def _write_crops(
        self, name: pathlib.PurePath, image: Image, rows: list[tuple[list[float], float, int]]
    ) -> None:
        height, width = image.shape[:2]
        for number, ((x0, y0, x1, y1), _, label) in enumerate(rows):
            left, top = min(int(x0), width - 1), min(int(y0), height - 1)
            right, bottom = max(left + 1, math.ceil(x1)), max(top + 1, math.ceil(y1))
            folder = f"{CROPS}/{_as_folder(self._names[label], label)}"
            path = self._file(folder, name, f"-{number}.jpg")
            write_image(image[top:bottom, left:right], path)

    def _drawn(self, image: Image, found: Found) -> Image:
        """Returns a copy of an image with boxes, the best in front."""
        drawn = image.copy()
        order = slice(None, None, -1)
        captions = [
            f"{self._names[label]} {score:.2f}"
            for score, label in zip(found.scores.tolist(), found.labels.tolist(), strict=True)
        ]
        colours = [colour_of(label) for label in found.labels.tolist()]
        scale = readable_scale(*image.shape[:2])
        draw_boxes(drawn, found.boxes_xyxy[order], colours[order], captions[order], scale)
        return drawn

    def _write_to_video(self, frame: Frame, path: pathlib.Path, drawn: Image) -> None:
        height, width = drawn.shape[:2]
        if self._video is None or frame.number == 0:
            self._end_video()
            writer = cv2.VideoWriter(str(path), MP4, frame.rate, (width, height))
            if not writer.isOpened():
                raise OSError(errno.EIO, "OpenCV cannot write a video", str(path))
            self._video = _Video(frame.source, path, writer, (width, height))
        if self._video.size != (width, height):  # streams may change theirs
            drawn = resize(drawn, *self._video.size)
        self._video.writer.write(drawn[..., ::-1])
        self._video = self._video._replace(written=self._video.written + 1)

    def _end_video(self) -> None:
        """Completes the video; OpenCV itself tells nothing of a disk that is full."""
        if self._video is None:
            return
        video, self._video = self._video, None
        video.writer.release()
        there = cv2.VideoCapture(str(video.path), cv2.CAP_FFMPEG)
        count = int(there.get(cv2.CAP_PROP_FRAME_COUNT)) if there.isOpened() else 0
        there.release()
        if count < video.written:
            raise OSError(errno.EIO, "the video could not be written whole", str(video.path))


def _written_suffix(frame: Frame) -> str:
    """Returns how the name of what is drawn ends."""
    if frame.number is not None:
        return ".mp4"
    suffix = frame.place.suffix.lower()
    return suffix if suffix in WRITTEN else ".png"


def _as_folder(name: str, label: int) -> str:
    """Returns the name of a class as it can name a folder anywhere."""
    kept = re.sub(r"[^\w\- ]", "_", name).strip()
    return kept or str(label)
