"""`yolov7-jax preview`: what a run would be trained on, and which cells its objects get."""

import functools
import logging
import pathlib
from collections.abc import Callable

import cv2
import jax
import numpy as np
from jaxtyping import Int, UInt8

from yolov7_jax import Outputs, Targets, apply, assign_anchor, assign_ota, split
from yolov7_jax.config import HeadConfig
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.data.faults import plural
from yolov7_jax.detect.drawing import (
    GAP,
    box_tile,
    colour_of,
    draw_boxes,
    grid,
    titled,
    write_image,
)
from yolov7_jax.losses import AUXILIARY_CENTER_RADIUS, AUXILIARY_TOP_K
from yolov7_jax.model import Yolov7, normalize_images
from yolov7_jax.training.choose_anchors import choose_anchors, head_with_anchors
from yolov7_jax.training.pipeline.stream import Batch, train_batches
from yolov7_jax.training.train_config import TrainConfig
from yolov7_jax.types import Assignment

SHEET_FILE = "batches.png"
SHEET_TILE, SHEET_COLUMNS = 320, 4
MOST_PAGES = 8  # a page takes more than a second, and megabytes
PAGE_TILE = 640  # pixels; a cell of stride 8 of a 640-pixel image is then as large as there
FADE = 0.45  # of the image that remains under the cells
MOST_LISTED = 40  # objects without a cell, in the title of a row

Image = UInt8[np.ndarray, "h w 3"]
Assigner = Callable[..., Assignment]  # as for `detection_loss`

_log = logging.getLogger(__name__)


def choices(has_auxiliary: bool) -> dict[str, Assigner]:
    """Returns the ways in which training gives cells to objects, by name, coarse to fine."""
    coarse = {"coarse: cells in reach of the object, anchors of like shape": assign_anchor}
    if not has_auxiliary:
        return {**coarse, "fine: what OTA keeps of them": assign_ota}
    ota = functools.partial(assign_ota, top_k=AUXILIARY_TOP_K)
    wide = functools.partial(ota, center_radius=AUXILIARY_CENTER_RADIUS)
    return {
        **coarse,
        "auxiliary heads: what OTA keeps of cells within a whole cell's reach": wide,
        "lead heads: what OTA keeps": ota,
    }


def write_preview(
    config: TrainConfig, dataset: Dataset, model: Yolov7, folder: pathlib.Path
) -> list[pathlib.Path]:
    """Writes one augmented batch as a sheet, and a page for each of its first 8 images.

    That others have no page is a warning.

    Args:
      config: the run that would be started.
      dataset: its training split.
      model: the network whose predictions the fine choice looks at, fresh or trained.
      folder: where to write; must exist. Pages of an earlier preview in it are replaced.

    Returns:
      The files written.

    Raises:
      UserError: the config's anchors do not fit the network.
    """
    anchors = choose_anchors(config, dataset, model.head)
    model.head = head_with_anchors(model.head, anchors.chosen)
    batches = train_batches(
        dataset,
        image_size=config.image_size,
        batch_size=config.batch_size,
        seed=config.seed,
        augment=config.augment,
        num_workers=0,
    )
    batch = next(batches)
    batches.close()
    for page in folder.glob("assignment-[0-9][0-9][0-9].png"):
        page.unlink()  # of a preview with more images
    write_image(batch_sheet(batch, dataset.names), folder / SHEET_FILE)
    ways = choices(bool(len(model.detect.auxiliary)))
    assignments = _assign(config, model, batch, list(ways.values()))
    written = [folder / SHEET_FILE]
    pages = min(len(batch.images), MOST_PAGES)
    if pages < len(batch.images):
        _log.warning(
            "the first %d of the %d images of the batch have pages; another --seed gives others",
            *(pages, len(batch.images)),
        )
    for image in range(pages):
        path = folder / f"assignment-{image:03d}.png"
        write_image(assignment_page(batch, image, model.head, list(ways), assignments), path)
        written.append(path)
    return written


def batch_sheet(batch: Batch, names: tuple[str, ...]) -> Image:
    """Draws the images of a batch with their boxes, side by side."""
    tiles = []
    for image, pixels in enumerate(batch.images):
        boxes, labels = _objects(batch.targets, image, SHEET_TILE)
        captions = [names[label] for label in labels]
        title = f"{image:03d}: {len(labels)} {plural('object', len(labels))}"
        boxes *= len(pixels) / SHEET_TILE
        tiles.append(box_tile(pixels, boxes, labels, captions, title, SHEET_TILE))
    return grid(tiles, min(SHEET_COLUMNS, len(tiles)))


def assignment_page(
    batch: Batch,
    image: int,
    head: HeadConfig,
    names: list[str],
    assignments: list[Assignment],
) -> Image:
    """Draws which cells and anchors the objects of one image get.

    A row for each way of choosing, a column for each level. A cell is divided into as many upright
    strips as there are anchors; a strip that is given to an object has the object's colour. One
    that is given to several is divided among them, from top to bottom.

    Args:
      batch: the images and their objects.
      image: which one.
      head: strides and anchors.
      names: of the ways.
      assignments: one per way; numpy arrays.
    """
    boxes, labels = _objects(batch.targets, image, PAGE_TILE)
    rows = []
    for name, assignment in zip(names, assignments, strict=True):
        matched, objects, level, anchor, row, column = (
            np.asarray(field)[image] for field in assignment
        )
        tiles = []
        for number, stride in enumerate(head.strides):
            here = matched & (level == number)
            cells = np.stack([row[here], column[here], anchor[here], objects[here]], axis=1)
            canvas = _cells_tile(
                np.asarray(batch.images[image]), stride, head.num_anchors, cells, boxes
            )
            shared = _count_shared(cells)
            shapes = "  ".join(f"{w:g}x{h:g}" for w, h in head.anchors[number])
            title = f"stride {stride}: {len(cells)} {'match' if len(cells) == 1 else 'matches'}"
            title += f", {shared} {plural('cell', shared)} shared" * (shared > 0)
            title += f"; anchors {shapes}"
            tiles.append(titled(canvas, title, PAGE_TILE))
        tiles = grid(tiles, head.num_levels)
        unmatched = sorted(set(range(len(labels))) - set(objects[matched].tolist()))
        if unmatched:
            more = " ..." if len(unmatched) > MOST_LISTED else ""
            listed = " ".join(map(str, unmatched[:MOST_LISTED]))
            name += f"; objects without a match: {listed}{more}"
        rows += [titled(tiles[:0], name, tiles.shape[1] - GAP), tiles]
    return np.vstack(rows)


def _count_shared(cells: Int[np.ndarray, "k 4"]) -> int:
    """Returns how many strips of cells are given to more than one object."""
    _, objects = np.unique(cells[:, :3], axis=0, return_counts=True)
    return int(np.count_nonzero(objects > 1))


def _cells_tile(
    image: Image,
    stride: int,
    num_anchors: int,
    cells: Int[np.ndarray, "k 4"],
    boxes_xyxy: np.ndarray,
) -> Image:
    """Draws the cells `(row, column, anchor, object)` of one level over a faded image."""
    scale = PAGE_TILE / len(image)
    canvas = cv2.resize(image, (PAGE_TILE, PAGE_TILE), interpolation=cv2.INTER_AREA)
    canvas = np.asarray(255 * (1 - FADE) + FADE * canvas, np.uint8)
    side = stride * scale
    objects_of: dict[tuple[int, int, int], list[int]] = {}
    for row, column, anchor, number in sorted(cells.tolist()):
        objects_of.setdefault((row, column, anchor), []).append(number)
    for (row, column, anchor), numbers in objects_of.items():
        left = (column + anchor / num_anchors) * side
        x0, x1 = round(left), round(left + side / num_anchors)
        for place, number in enumerate(numbers):
            y0, y1 = (round((row + share / len(numbers)) * side) for share in (place, place + 1))
            last = (max(x0, x1 - 1), max(y0, y1 - 1))
            cv2.rectangle(canvas, (x0, y0), last, colour_of(number), cv2.FILLED)
    if side >= 8:  # a finer mesh would hide everything; above the strips it tells cells apart
        for line in range(round(PAGE_TILE / side) + 1):
            at = round(line * side)
            cv2.line(canvas, (at, 0), (at, PAGE_TILE), (200, 200, 200), 1)
            cv2.line(canvas, (0, at), (PAGE_TILE, at), (200, 200, 200), 1)
    colours = [colour_of(number) for number in range(len(boxes_xyxy))]
    draw_boxes(canvas, boxes_xyxy, colours, [str(number) for number in range(len(boxes_xyxy))])
    return canvas


def _objects(targets: Targets, image: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns corners, in pixels of an image of a side, and labels of the objects of an image."""
    valid = np.asarray(targets.valid[image])
    boxes = np.asarray(targets.boxes[image])[valid] * side
    half = boxes[:, 2:] / 2
    corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    return corners, np.asarray(targets.labels[image])[valid]


def _assign(
    config: TrainConfig,
    model: Yolov7,
    batch: Batch,
    assigners: list[Assigner],
) -> list[Assignment]:
    graphdef, params, batch_stats = split(model)

    @jax.jit
    def assign(images: jax.Array, targets: Targets) -> list[Assignment]:
        outputs: Outputs
        outputs, _ = apply(graphdef, params, batch_stats, normalize_images(images), train=True)
        return [one(outputs.lead, targets, model.head, config.loss) for one in assigners]

    return jax.device_get(assign(batch.images, batch.targets))
