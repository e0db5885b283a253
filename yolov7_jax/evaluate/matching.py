"""Which object every detection found, and what is wrong with those that found none."""

import enum
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from yolov7_jax.evaluate.coco_ap import GroundTruth, ScoredBoxes, check_boxes, xyxy_to_xywh

FOUND_IOU = 0.5  # from which a detection has found an object
NEAR_IOU = 0.1  # from which it is taken for a try at that object
MOST_DETECTIONS = 100  # per image and class, as COCO counts


class DetectionKind(enum.IntEnum):
    """What a detection is; every detection is exactly one.

    Attributes:
      CORRECT: the first, by score, to find an object of its class.
      DUPLICATE: on an object of its class that a better one has found.
      WRONG_CLASS: on an object of another class.
      BADLY_PLACED: near an object of its class, at an IoU from 0.1 to below 0.5.
      FALSE: near no object of its class, and on none of another.
      IGNORED: neither right nor wrong: in a crowd region of its class, or not among the best 100
        of its image and class.
    """

    CORRECT = 0
    DUPLICATE = 1
    WRONG_CLASS = 2
    BADLY_PLACED = 3
    FALSE = 4
    IGNORED = 5

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name.lower().replace("_", " ")


class DetectionMatches(NamedTuple):
    """Detections and the objects that they found, at an IoU of 0.5.

    A detection is served before all with lower scores, so those from any score on are matched as if
    there were no others: one matching serves all score thresholds.

    Attributes:
      kinds: a `DetectionKind` per detection.
      objects: the row of the object that the kind is about; -1 for FALSE and IGNORED.
      ious: with that object; 0 without one.
      finders: per object, the row of the detection that found it; -1 for a crowd region, and for
        an object that was missed.
    """

    kinds: Int64[np.ndarray, " n"]
    objects: Int64[np.ndarray, " n"]
    ious: Float64[np.ndarray, " n"]
    finders: Int64[np.ndarray, " objects"]

    def found_objects(
        self, detections: ScoredBoxes, score_threshold: float
    ) -> Bool[np.ndarray, " objects"]:
        """Returns which objects detections with at least that score have found."""
        scores = np.append(detections.scores.astype(np.float64), -np.inf)  # -1: the last
        return scores[self.finders] >= score_threshold


def match_detections(
    truth: GroundTruth, detections: ScoredBoxes, *, num_images: int, num_classes: int
) -> DetectionMatches:
    """Matches detections with objects as COCO does at an IoU of 0.5.

    In the order of their scores (equal ones in their own order), detections take the free object of
    their image and class with the highest IoU (of equal ones the last).

    Args:
      truth: all objects.
      detections: of all images, in any order.
      num_images: images in the data set.
      num_classes: classes in the data set.

    Raises:
      ValueError: as `coco_ap`.
    """
    check_boxes(truth, detections, num_images, num_classes)
    order = np.lexsort((-detections.scores.astype(np.float64), detections.image))
    best_first = ScoredBoxes(*(field[order] for field in detections))  # image by image
    labels = best_first.labels
    ignored = _beyond_limit(best_first)
    in_crowd, pairs = _near_pairs(truth, best_first)
    pairs = pairs.take(~ignored[pairs.detection])
    other_class = labels[pairs.detection] != truth.labels[pairs.object]
    # Best detection first, for each the best object first.
    by_preference = np.lexsort((-pairs.object, other_class, -pairs.iou, pairs.detection))
    pairs, other_class = pairs.take(by_preference), other_class[by_preference]

    kinds = np.full(len(order), int(DetectionKind.FALSE))
    objects, ious = np.full(len(order), -1), np.zeros(len(order))

    def explain(kind: DetectionKind, rows: np.ndarray) -> None:
        """Makes detections of that kind; the first row of each counts."""
        detection, first = np.unique(pairs.detection[rows], return_index=True)
        kinds[detection] = kind
        objects[detection], ious[detection] = pairs.object[rows[first]], pairs.iou[rows[first]]

    # What explains a detection better overwrites what explains it worse.
    explain(DetectionKind.BADLY_PLACED, np.flatnonzero(~other_class))
    on_object = np.flatnonzero(pairs.iou >= FOUND_IOU)
    explain(DetectionKind.DUPLICATE, on_object)
    wrong = labels != np.append(truth.labels, -1)[objects]
    kinds[(kinds == DetectionKind.DUPLICATE) & wrong] = DetectionKind.WRONG_CLASS
    kinds[in_crowd] = DetectionKind.IGNORED
    of_class = on_object[~other_class[on_object]]
    served = _serve(pairs.detection[of_class], pairs.object[of_class])
    explain(DetectionKind.CORRECT, of_class[served])
    kinds[ignored] = DetectionKind.IGNORED
    nothing = kinds == DetectionKind.IGNORED
    objects[nothing], ious[nothing] = -1, 0.0

    finders = np.full(len(truth.labels), -1)
    correct = np.flatnonzero(kinds == DetectionKind.CORRECT)
    finders[objects[correct]] = order[correct]
    rows = np.argsort(order)
    return DetectionMatches(kinds[rows], objects[rows], ious[rows], finders)


class _Pairs(NamedTuple):
    """Detections and objects of the same image that overlap; crowd regions are no objects."""

    detection: Int64[np.ndarray, " p"]
    object: Int64[np.ndarray, " p"]
    iou: Float64[np.ndarray, " p"]

    def take(self, rows: np.ndarray) -> "_Pairs":
        return _Pairs(*(field[rows] for field in self))


def _near_pairs(
    truth: GroundTruth, detections: ScoredBoxes
) -> tuple[Bool[np.ndarray, " n"], _Pairs]:
    """Returns which detections lie in a crowd region of their class, and all near pairs.

    An image at a time: matrices of an image stay in the processor's cache, pairs of all would not
    fit into memory.

    Args:
      truth: all objects.
      detections: by image.
    """
    crowd, in_crowd = ~truth.to_find, np.zeros(len(detections.labels), bool)
    (found, area), (objects, object_area) = map(
        _corners_and_area, (detections.boxes_xyxy, truth.boxes_xyxy)
    )
    by_image = np.argsort(truth.image, kind="stable")
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for image in np.unique(truth.image):
        rows = np.arange(*np.searchsorted(detections.image, (image, image + 1)))
        first, last = np.searchsorted(truth.image, (image, image + 1), sorter=by_image)
        columns = by_image[first:last]
        low = np.maximum(found[:2, rows, None], objects[:2, None, columns])  # [2, n, m]
        high = np.minimum(found[2:, rows, None], objects[2:, None, columns])
        shared = np.maximum(high - low, 0).prod(0)
        of_crowd = crowd[columns]
        if of_crowd.any():
            same = detections.labels[rows, None] == truth.labels[columns]
            # The part of the detection that lies in the region: regions are far larger.
            inside = shared >= FOUND_IOU * area[rows, None]
            in_crowd[rows] = (inside & same & of_crowd & (shared > 0)).any(1)
            shared[:, of_crowd] = 0
        row, column = np.nonzero(shared)
        overlap = shared[row, column]
        row, column = rows[row], columns[column]
        iou = overlap / (area[row] + object_area[column] - overlap)
        near = iou >= NEAR_IOU
        parts.append((row[near], column[near], iou[near]))
    return in_crowd, _Pairs(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def _corners_and_area(
    boxes_xyxy: Float[np.ndarray, "n 4"],
) -> tuple[Float64[np.ndarray, "4 n"], Float64[np.ndarray, " n"]]:
    """Returns x0, y0, x1, y1 and areas, with the rounding of boxes kept as corner and size.

    pycocotools keeps them so, and IoUs that are just 0.5 shall be so here too.
    """
    x, y, width, height = xyxy_to_xywh(boxes_xyxy).T
    return np.stack([x, y, x + width, y + height]), width * height


def _beyond_limit(detections: ScoredBoxes) -> Bool[np.ndarray, " n"]:
    """Returns which detections, best first in an image, are not among the best of their class."""
    grouped = np.lexsort((detections.labels, detections.image))  # stable: best first in a group
    image, labels = detections.image[grouped], detections.labels[grouped]
    starts = np.flatnonzero(np.append(True, (np.diff(image) != 0) | (np.diff(labels) != 0)))
    place = np.arange(len(grouped)) - np.repeat(starts, np.diff(np.append(starts, len(grouped))))
    beyond = np.zeros(len(grouped), bool)
    beyond[grouped] = place >= MOST_DETECTIONS
    return beyond


def _serve(
    detections: Int[np.ndarray, " p"], objects: Int[np.ndarray, " p"]
) -> Int[np.ndarray, " k"]:
    """Gives every detection, best first, the first object of its list that is free.

    In rounds, all at once: every detection asks for the first object of its list, an object keeps
    the best that asks, and the others strike it off. The end is the same as one detection after the
    other would reach, since all objects prefer the same detections.

    Args:
      detections: one side of each pair, ascending; the better ones come first.
      objects: the other side of each pair; in a detection's list the best comes first.

    Returns:
      The pairs that are matched.
    """
    left = np.arange(len(detections))
    while True:
        first = np.unique(detections[left], return_index=True)[1]
        kept = np.unique(objects[left[first]], return_index=True)[1]
        if len(kept) == len(first):
            return left[first]
        left = np.delete(left, np.delete(first, kept))
