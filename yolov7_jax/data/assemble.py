"""From what a source holds to a data set: leaves out what is faulty, whatever the source."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from yolov7_jax.data.dataset import Dataset, Polygons, offsets_of
from yolov7_jax.data.faults import Fault, FaultKind

# Boxes are rounded and counted from 0 or from 1, so a side may lie this far outside its image.
SLACK_PIXELS = 1.0
SLACK = 1e-3  # of the image's side
LEAST_OVERLAP = 0.1  # an outline whose hull and box have a smaller IoU is not this object's
LEAST_INSIDE = 0.1  # a box with a smaller part of its area in the image shows nothing


class Place(NamedTuple):
    """Where an object stands in its source.

    Attributes:
      file: the file.
      line: counted from 1; None where lines mean nothing.
      subject: what the object is called, where a line does not tell; or empty.
    """

    file: str
    line: int | None
    subject: str = ""

    def fault(self, kind: FaultKind, reason: str) -> Fault:
        """Returns a fault at this place."""
        return Fault(kind, self.file, self.line, self.subject + ": " * bool(self.subject) + reason)


class Found(NamedTuple):
    """All that a source holds, in its own order, faulty or not.

    Attributes:
      names, category_ids: the classes, as in `Dataset`.
      paths: every image that the source names.
      sizes: width and height in pixels; zeros where the image is to be left out.
      image_ids: as in `Dataset`.
      image: the row in `paths` of each object.
      labels: in `[0, classes)`.
      boxes: centre, width and height, normalised by the image's size.
      crowd, areas, polygons: as in `Dataset`.
      place_of: where an object stands, for messages.
      faults: what was wrong so far; objects and outlines with these faults are not among those
        above, and images have no size.
      notes: what is no fault, but good to know.
    """

    names: tuple[str, ...]
    category_ids: Int64[np.ndarray, " classes"]
    paths: tuple[str, ...]
    sizes: Int32[np.ndarray, "n 2"]
    image_ids: Int64[np.ndarray, " n"]
    image: Int64[np.ndarray, " objects"]
    labels: Int32[np.ndarray, " objects"]
    boxes: Float64[np.ndarray, "objects 4"]
    crowd: Bool[np.ndarray, " objects"]
    areas: Float32[np.ndarray, " objects"] | None
    polygons: Polygons
    place_of: Callable[[int], Place]
    faults: list[Fault]
    notes: tuple[str, ...] = ()


class Scan(NamedTuple):
    """What one look at all files of a split came to.

    Attributes:
      dataset: what is sound.
      faults: what is not, by file and line.
      notes: what is no fault, but good to know.
      looked_at: every image that the source names, those left out included.
      decoded: whether the images were decoded, not only their headers read.
      from_cache: whether that was an earlier look, since which nothing has changed.
    """

    dataset: Dataset
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    looked_at: tuple[str, ...]
    decoded: bool
    from_cache: bool = False


def assemble(found: Found, *, decoded: bool) -> Scan:
    """Builds the data set of what is sound, and names what is not."""
    faults = list(found.faults)
    boxes, kept = _sift_boxes(found, faults)
    polygons = _sift_outlines(found, boxes, kept, faults)
    # Objects are kept in the source's order within each image.
    order = np.argsort(found.image, kind="stable")
    order = order[kept[order]]
    sound = found.sizes.min(axis=1, initial=1) > 0  # [n]
    counts = np.bincount(found.image[order], minlength=len(found.paths))[sound]
    same = len(order) == len(kept) and bool((np.diff(order) == 1).all())
    dataset = Dataset(
        names=found.names,
        paths=tuple(path for path, is_sound in zip(found.paths, sound, strict=True) if is_sound),
        sizes=found.sizes[sound].astype(np.int32),
        offsets=offsets_of(counts),
        labels=found.labels[order].astype(np.int32),
        boxes=boxes[order].astype(np.float32),
        crowd=found.crowd[order],
        polygons=polygons if same else polygons.take(order),
        image_ids=found.image_ids[sound],
        category_ids=found.category_ids,
        areas=None if found.areas is None else found.areas[order],  # pyright: ignore - filled by the class
    )
    faults.sort(key=lambda fault: (fault.file, fault.line or 0))
    return Scan(dataset, tuple(faults), found.notes, found.paths, decoded)


def _sift_boxes(found: Found, faults: list[Fault]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the boxes, clipped to their images, and which of them to keep."""
    boxes, size = found.boxes, found.sizes[found.image].astype(np.float64)  # [objects, 4 and 2]
    kept = size.min(axis=1, initial=np.inf) > 0  # of images that are kept

    def refuse(wrong: np.ndarray, kind: FaultKind, reason: Callable[[int], str]) -> None:
        for row in np.flatnonzero(wrong & kept):
            faults.append(found.place_of(int(row)).fault(kind, reason(int(row))))
        if kind is not FaultKind.STICKS_OUT:
            np.logical_and(kept, ~wrong, out=kept)

    any_of = functools.partial(np.logical_or.reduce, axis=1)

    def in_pixels(row: int) -> str:
        return f"box of {_in_pixels(found, boxes, row)}"

    with np.errstate(all="ignore"):
        infinite = any_of(~np.isfinite(boxes))
        refuse(infinite, FaultKind.NOT_FINITE, lambda row: f"wanted a finite box, got {boxes[row]}")
        low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
        flat = any_of(boxes[:, 2:].astype(np.float32) < np.finfo(np.float32).tiny)
        refuse(
            flat, FaultKind.ZERO_AREA, lambda row: f"{in_pixels(row)}; wanted a box with an area"
        )
        clipped_low, clipped_high = np.clip(low, 0, 1), np.clip(high, 0, 1)
        inside = (clipped_high - clipped_low) / (high - low)  # [objects, 2]
        outside = ~(inside.prod(axis=1) > LEAST_INSIDE)
        refuse(outside, FaultKind.OUTSIDE, lambda row: f"{in_pixels(row)}; it lies outside")
        slack = np.maximum(SLACK_PIXELS / size, SLACK) + 1e-9  # for the division's own error
        sticks_out = any_of((low < -slack) | (high > 1 + slack))
        refuse(sticks_out, FaultKind.STICKS_OUT, lambda row: f"{in_pixels(row)}; it is clipped")
        refuse(*_duplicates(found, kept))
        cut = any_of(~((low >= 0) & (high <= 1)))
        clipped = np.concatenate(
            [(clipped_low + clipped_high) / 2, clipped_high - clipped_low], axis=1
        )
    # Boxes that need no clipping keep every bit.
    return np.where(cut[:, None], clipped, boxes), kept


def _sift_outlines(
    found: Found, boxes: np.ndarray, kept: np.ndarray, faults: list[Fault]
) -> Polygons:
    """Returns the outlines but for those that do not belong to their boxes.

    Training takes the box of an object from its outline, so one in other units than the box, or
    outside the image, would lose the object.
    """
    polygons = found.polygons
    rows = np.flatnonzero(np.diff(polygons.part_offsets))
    starts = polygons.object_offsets()[rows]
    low, high = np.zeros((2, len(rows), 2))
    for axis in (0, 1) if len(rows) else ():
        column = polygons.points[:, axis]
        low[:, axis] = np.minimum.reduceat(column, starts)
        high[:, axis] = np.maximum.reduceat(column, starts)
    centre, side = boxes[rows, :2], boxes[rows, 2:]
    with np.errstate(all="ignore"):  # boxes that are not kept may be anything
        common = np.minimum(high, centre + side / 2) - np.maximum(low, centre - side / 2)
        intersection = np.clip(common, 0, None).prod(axis=1)
        hull = (high - low).prod(axis=1)
        union = hull + side.prod(axis=1) - intersection
        foreign = kept[rows] & ~((hull > 0) & (intersection >= LEAST_OVERLAP * union))
    if not foreign.any():
        return polygons
    for at in np.flatnonzero(foreign):
        row = int(rows[at])
        size = found.sizes[found.image[row]]
        (x, y), (w, h) = low[at] * size, (high[at] - low[at]) * size
        reason = (
            f"the outline is {w:.6g} x {h:.6g} pixels at x {x:.6g}, y {y:.6g}, cut off at the "
            f"image's border; it does not fit the box of {_in_pixels(found, boxes, row)}"
        )
        faults.append(found.place_of(row).fault(FaultKind.BAD_OUTLINE, reason))
    return polygons.without(rows[foreign])


def _in_pixels(found: Found, boxes: np.ndarray, row: int) -> str:
    size = found.sizes[found.image[row]]
    (x, y), (w, h) = (boxes[row, :2] - boxes[row, 2:] / 2) * size, boxes[row, 2:] * size
    return f"{w:.6g} x {h:.6g} pixels at x {x:.6g}, y {y:.6g} in an image of {size[0]} x {size[1]}"


def _duplicates(
    found: Found, kept: np.ndarray
) -> tuple[np.ndarray, FaultKind, Callable[[int], str]]:
    """Finds objects whose image, class and box another object has that stands before them."""
    rows = np.flatnonzero(kept)
    table = np.concatenate(
        [
            np.stack([found.image[rows], found.labels[rows], found.crowd[rows]], axis=1),
            found.boxes[rows],
        ],
        axis=1,
    )
    order = np.lexsort(table.T[::-1])  # stable, so the first of several comes first
    same = np.zeros(len(rows), bool)
    same[1:] = (table[order[1:]] == table[order[:-1]]).all(axis=1)
    leader = np.maximum.accumulate(np.where(same, 0, np.arange(len(rows))))
    first = np.arange(len(found.labels))
    first[rows[order]] = rows[order[leader]]
    repeats = np.zeros(len(found.labels), bool)
    repeats[rows[order]] = same

    def reason(row: int) -> str:
        place = found.place_of(int(first[row]))
        return f"the same class and box as {place.subject or f'line {place.line}'}"

    return repeats, FaultKind.DUPLICATE, reason
