"""The annotations of a COCO file: boxes, outlines and crowd regions, in flat arrays."""

import array
import math
from typing import Any

import numpy as np

from yolov7_jax.data.assemble import Found, Place
from yolov7_jax.data.dataset import Polygons, offsets_of
from yolov7_jax.data.faults import Fault, FaultKind, plural, quoted
from yolov7_jax.data.mask_outline import trace_mask

LEAST_CORNERS = 3
_LARGEST_ID = 2**62
_LARGEST_FLOAT_ID = 2**53  # beyond, a floating-point number stands for several whole ones


class Annotations:
    """The annotations as they come, in flat arrays; image and class still by their ids."""

    def __init__(self, file: str):
        self.file = file
        self.faults: list[Fault] = []
        self.ids, self.images = array.array("q"), array.array("q")
        self.categories, self.lines = array.array("q"), array.array("i")
        self.boxes, self.areas = array.array("d"), array.array("f")
        self.crowd = array.array("b")
        self.points = array.array("f")
        self.corners, self.parts = array.array("i"), array.array("i")
        self.masks: dict[int, tuple[int, int]] = {}  # by row, the sides of a mask that is traced

    def add(self, annotation: Any, line: int) -> None:
        """Takes an element of the list of annotations."""
        if not isinstance(annotation, dict):
            reason = f"wanted an object, got {quoted(annotation)}"
            place = Place(self.file, line, "annotation")
            self.faults.append(place.fault(FaultKind.MALFORMED, reason))
            return
        identity = whole_number(annotation.get("id"))
        if identity is None:
            identity = -1
        place = self._place(identity, line)
        image_id = whole_number(annotation.get("image_id"))
        category = whole_number(annotation.get("category_id"))
        if image_id is None or category is None or not _is_box(annotation.get("bbox")):
            self.faults.append(place.fault(FaultKind.MALFORMED, _problem(annotation)))
            return
        self.ids.append(identity)
        self.images.append(image_id)
        self.categories.append(category)
        self.lines.append(line)
        self.boxes.extend(annotation["bbox"])
        area = annotation.get("area")
        if not isinstance(area, (int, float)) or not 0 < area < _LARGEST_ID:
            area = math.nan
        self.areas.append(area)
        crowd = annotation.get("iscrowd") in (1, "1")
        self.crowd.append(crowd)
        self._outline(annotation.get("segmentation"), crowd, place)

    def _outline(self, parts: Any, crowd: bool, place: Place) -> None:
        problem = ""
        if crowd or parts is None:
            parts = []
        elif isinstance(parts, dict):
            try:
                mask = trace_mask(parts)
            except ValueError as error:
                problem, parts = str(error), []
            else:
                self.masks[len(self.ids) - 1] = mask.size
                parts = [part.ravel().tolist() for part in mask.parts]
        elif not isinstance(parts, list):
            problem = f"segmentation must be a list of polygons, got {quoted(parts)}"
            parts = []
        before, count = len(self.points), 0
        for part in parts:
            if not isinstance(part, list) or len(part) < 2 * LEAST_CORNERS or len(part) % 2:
                got = f"{len(part)} numbers" if isinstance(part, list) else quoted(part)
                problem = f"a polygon must be x1 y1 x2 y2 x3 y3 ..., got {got}"
                break
            try:
                self.points.extend(part)
            except (TypeError, OverflowError):
                problem = "a polygon must have numbers alone"
                break
            self.corners.append(len(part) // 2)
            count += 1
        if problem:
            self.faults.append(place.fault(FaultKind.BAD_OUTLINE, problem))
            del self.points[before:]
            del self.corners[len(self.corners) - count :]
            count = 0
        self.parts.append(count)

    def found(
        self,
        names: tuple[str, ...],
        category_ids: np.ndarray,
        label_of: dict[int, int],
        paths: tuple[str, ...],
        sizes: np.ndarray,
        image_ids: np.ndarray,
    ) -> Found:
        """Joins annotations, images and classes."""
        row_of = {identity: row for row, identity in enumerate(image_ids.tolist())}
        image = np.array([row_of.get(image_id, -1) for image_id in self.images], np.int64)
        labels = np.array([label_of.get(category, -1) for category in self.categories], np.int32)
        for row in np.flatnonzero(image < 0).tolist():
            reason = f"there is no image with the id {self.images[row]}"
            self.faults.append(self._place_of(row).fault(FaultKind.UNKNOWN_IMAGE, reason))
        for row in np.flatnonzero((labels < 0) & (image >= 0)).tolist():
            reason = f"there is no category with the id {self.categories[row]}"
            self.faults.append(self._place_of(row).fault(FaultKind.UNKNOWN_CLASS, reason))
        known = np.flatnonzero((image >= 0) & (labels >= 0))
        polygons = self._polygons(image, sizes)
        if len(known) < len(image):
            image, labels = image[known], labels[known]
            polygons = polygons.take(known)
        size = np.maximum(sizes[image], 1).astype(np.float64)  # [objects, 2]
        boxes = np.array(self.boxes).reshape(-1, 4)[known]
        with np.errstate(all="ignore"):
            boxes[:, :2] += boxes[:, 2:] / 2
            boxes /= np.concatenate([size, size], axis=1)
            areas = np.array(self.areas, np.float32)[known]
            box_areas = (boxes[:, 2:] * size).prod(axis=1)
            areas = np.where(np.isfinite(areas), areas, box_areas).astype(np.float32)
        return Found(
            names=names,
            category_ids=category_ids,
            paths=paths,
            sizes=sizes,
            image_ids=image_ids,
            image=image,
            labels=labels,
            boxes=boxes,
            crowd=np.array(self.crowd, bool)[known],
            areas=areas,
            polygons=polygons,
            place_of=lambda row: self._place_of(int(known[row])),
            faults=self.faults,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        if not self.masks:
            return ()
        masks = f"{len(self.masks)} {plural('mask', len(self.masks))}"
        return (f"{masks} in run lengths (RLE): outlines are traced, without holes",)

    def _polygons(self, image: np.ndarray, sizes: np.ndarray) -> Polygons:
        """Returns the outlines, normalised and clipped to their images."""
        points = np.asarray(self.points).reshape(-1, 2)  # the same memory
        polygons = Polygons(points, offsets_of(self.corners), offsets_of(self.parts))
        broken = self._broken_outlines(polygons, image, sizes)
        if broken:
            polygons = polygons.without(broken)
        corners = np.diff(polygons.object_offsets())
        side = np.maximum(sizes[image], 1).astype(np.float32)  # [objects, 2]
        for axis in (0, 1):
            column = polygons.points[:, axis]
            column /= np.repeat(side[:, axis], corners)
            np.clip(column, 0, 1, out=column)
        return polygons

    def _broken_outlines(
        self, polygons: Polygons, image: np.ndarray, sizes: np.ndarray
    ) -> list[int]:
        """Returns the rows of objects whose outlines cannot be used, and names them."""
        infinite = np.flatnonzero(~np.isfinite(polygons.points).all(axis=1))
        rows = np.unique(np.searchsorted(polygons.object_offsets(), infinite, "right") - 1)
        reasons = dict.fromkeys(rows.tolist(), "a polygon must have finite numbers")
        for row, (width, height) in self.masks.items():
            wanted = sizes[image[row]].tolist()  # zeros where the image is left out
            if image[row] >= 0 and any(wanted) and wanted != [width, height]:
                reasons[row] = (
                    f"the mask is of {width} x {height} pixels, and its image of "
                    f"{wanted[0]} x {wanted[1]}"
                )
        for row, reason in reasons.items():
            self.faults.append(self._place_of(row).fault(FaultKind.BAD_OUTLINE, reason))
        return list(reasons)

    def _place(self, identity: int, line: int) -> Place:
        subject = f"annotation {identity}" if identity >= 0 else "annotation"
        return Place(self.file, line, subject)

    def _place_of(self, row: int) -> Place:
        return self._place(self.ids[row], self.lines[row])


def _problem(annotation: dict[str, Any]) -> str:
    """Returns what is wrong with an annotation that cannot be used."""
    for key in ("image_id", "category_id"):
        if whole_number(annotation.get(key)) is None:
            return f"{key} must be an integer, got {quoted(annotation.get(key))}"
    return f"bbox must be 4 numbers, x y width height; got {quoted(annotation.get('bbox'))}"


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(type(side) is float or whole_number(side) is not None for side in box)
    )


def whole_number(value: Any) -> int | None:
    """Returns an integer, also where it is written as 3.0; None for everything else."""
    if type(value) is int:
        return value if -_LARGEST_ID < value < _LARGEST_ID else None
    if type(value) is float and value.is_integer() and abs(value) < _LARGEST_FLOAT_ID:
        return int(value)
    return None
