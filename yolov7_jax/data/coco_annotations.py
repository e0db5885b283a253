"""The annotations of a COCO file: boxes, outlines and crowd regions, in flat arrays."""

import array
import math
from typing import Any

import numpy as np

from yolov7_jax.data.assemble import Found, Place
from yolov7_jax.data.dataset import Polygons
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
        # Of objects whose outline is that of a mask: their rows, and sides of the masks.
        self.masks, self.mask_sizes = array.array("q"), array.array("i")

    def add(self, annotation: Any, line: int) -> None:
        """Takes an element of the list of annotations."""
        if not isinstance(annotation, dict):
            reason = f"wanted an object, got {quoted(annotation)}"
            self.faults.append(_place(self.file, line, -1).fault(FaultKind.MALFORMED, reason))
            return
        identity = whole_number(annotation.get("id"))
        if identity is None:
            identity = -1
        place = _place(self.file, line, identity)
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
                self.masks.append(len(self.ids) - 1)
                self.mask_sizes.extend(mask.size)
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
        file: str,
        names: tuple[str, ...],
        category_ids: np.ndarray,
        label_of: dict[int, int],
        paths: tuple[str, ...],
        sizes: np.ndarray,
        image_ids: np.ndarray,
    ) -> Found:
        """Joins annotations, images and classes."""
        ids, lines = self.ids, self.lines
        row_of = {identity: row for row, identity in enumerate(image_ids.tolist())}
        image = np.array([row_of.get(image_id, -1) for image_id in self.images], np.int64)
        labels = np.array([label_of.get(category, -1) for category in self.categories], np.int32)
        for row in np.flatnonzero(image < 0):
            reason = f"there is no image with the id {self.images[row]}"
            place = _place(file, lines[row], ids[row])
            self.faults.append(place.fault(FaultKind.UNKNOWN_IMAGE, reason))
        for row in np.flatnonzero((labels < 0) & (image >= 0)):
            reason = f"there is no category with the id {self.categories[row]}"
            place = _place(file, lines[row], ids[row])
            self.faults.append(place.fault(FaultKind.UNKNOWN_CLASS, reason))
        known = np.flatnonzero((image >= 0) & (labels >= 0))
        polygons = self._polygons(image, sizes)
        if len(known) < len(ids):
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
            place_of=lambda row: _place(file, lines[known[row]], ids[known[row]]),
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
        corners = np.asarray(self.corners)
        polygons = Polygons(
            points,
            np.concatenate([[0], np.cumsum(corners, dtype=np.int64)]),
            np.concatenate([[0], np.cumsum(self.parts, dtype=np.int64)]),
        )
        of_part = np.repeat(np.arange(len(self.parts)), self.parts)
        broken = self._broken_outlines(points, np.repeat(of_part, corners), image, sizes)
        if len(broken):
            parts = np.array(self.parts)
            parts[broken] = 0
            kept = ~np.isin(of_part, broken)
            polygons = Polygons(
                points[kept[np.repeat(np.arange(len(corners)), corners)]],
                np.concatenate([[0], np.cumsum(corners[kept], dtype=np.int64)]),
                np.concatenate([[0], np.cumsum(parts, dtype=np.int64)]),
            )
            of_part, corners = of_part[kept], corners[kept]
        side = np.maximum(sizes[image[of_part]], 1).astype(np.float32)  # [parts, 2]
        for axis in (0, 1):
            column = polygons.points[:, axis]
            column /= np.repeat(side[:, axis], corners)
            np.clip(column, 0, 1, out=column)
        return polygons

    def _broken_outlines(
        self, points: np.ndarray, of_point: np.ndarray, image: np.ndarray, sizes: np.ndarray
    ) -> np.ndarray:
        """Returns the rows of objects whose outlines cannot be used, and names them."""
        infinite = np.unique(of_point[~np.isfinite(points).all(axis=1)])
        of_mask = np.asarray(self.masks)
        mask_sizes = np.asarray(self.mask_sizes).reshape(-1, 2)
        wanted = sizes[image[of_mask]]  # [masks, 2]; zeros where the image is left out
        differs = (image[of_mask] >= 0) & wanted.any(axis=1) & (mask_sizes != wanted).any(axis=1)
        reasons = dict.fromkeys(infinite.tolist(), "a polygon must have finite numbers")
        for at in np.flatnonzero(differs):
            (width, height), (wanted_width, wanted_height) = mask_sizes[at], wanted[at]
            reasons[int(of_mask[at])] = (
                f"the mask is of {width} x {height} pixels, and its image of "
                f"{wanted_width} x {wanted_height}"
            )
        for row, reason in reasons.items():
            place = _place(self.file, self.lines[row], self.ids[row])
            self.faults.append(place.fault(FaultKind.BAD_OUTLINE, reason))
        return np.array(list(reasons), np.int64)


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


def _place(file: str, line: int, identity: int) -> Place:
    return Place(file, line, f"annotation {identity}" if identity >= 0 else "annotation")
