"""Detection accuracy: COCO average precision, exactly as pycocotools computes it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from yolov7_jax.extras import from_extra

with from_extra("images"):
    import hotcoco


class GroundTruth(NamedTuple):
    """The objects of a data set.

    Attributes:
      image: the image of each object, in `[0, num_images)`.
      boxes_xyxy: corners in pixels of the original image.
      labels: class indices.
      crowd: regions with many objects of the class. They need not be found, and any number of
        detections in one is neither right nor wrong. No object is one if not given.
      area: in pixels of the original image; only tells small, medium and large objects apart.
        COCO gives that of the outline. The box's if not given.
    """

    image: Int[np.ndarray, " n"]
    boxes_xyxy: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"] | None = None
    area: Float[np.ndarray, " n"] | None = None

    @property
    def to_find(self) -> Bool[np.ndarray, " n"]:
        """Which objects are no crowd regions."""
        crowd = np.zeros(len(self.labels), bool) if self.crowd is None else self.crowd
        return ~np.asarray(crowd, bool)


class ScoredBoxes(NamedTuple):
    """The detections in a data set, in any order.

    Attributes:
      image: the image of each detection, in `[0, num_images)`.
      boxes_xyxy: corners in pixels of the original image.
      scores: confidence; only their order counts.
      labels: class indices.
    """

    image: Int[np.ndarray, " n"]
    boxes_xyxy: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]


class CocoAp(NamedTuple):
    """Average precision and recall, in [0, 1]; NaN where there is no object to find.

    Attributes:
      ap: mean over the IoU thresholds 0.50, 0.55 ... 0.95 and over the classes.
      ap50, ap75: at one IoU threshold.
      ap_small, ap_medium, ap_large: of objects with an area under 32^2, between, and over 96^2
        pixels.
      ar1, ar10, ar100: recall with that many detections per image.
      ar_small, ar_medium, ar_large: recall by size.
      class_ap: `[classes]`, as `ap`.
      class_ap50: `[classes]`, as `ap50`.
      class_precision: at an IoU of 0.5, the best precision at a recall of at least 0.00, 0.01 ...
        1.00; 0 where it is never reached. Its mean over the recalls is `class_ap50`.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    class_ap: Float[np.ndarray, " c"]
    class_ap50: Float[np.ndarray, " c"]
    class_precision: Float[np.ndarray, "c 101"]


def coco_ap(
    truth: GroundTruth, detections: ScoredBoxes, *, num_images: int, num_classes: int
) -> CocoAp:
    """Computes COCO AP and AR of a set of detections.

    Args:
      truth: all objects.
      detections: of all images; per image and class the best 100 count.
      num_images: images in the data set, those without objects included.
      num_classes: classes in the data set.

    Raises:
      ValueError: arrays of one group differ in length, an image or class does not exist, or a
        box or score is not finite; every such fault is named.
    """
    check_boxes(truth, detections, num_images, num_classes)
    objects = hotcoco.COCO.from_arrays(
        images=[{"id": image} for image in range(num_images)],
        categories=[{"id": label, "name": str(label)} for label in range(num_classes)],
        image_ids=np.asarray(truth.image, np.int64),
        category_ids=np.asarray(truth.labels, np.int64),
        boxes=xyxy_to_xywh(truth.boxes_xyxy),
        # From 1: pycocotools takes an object numbered 0 for one that was never matched.
        ids=np.arange(1, len(truth.labels) + 1),
        area=None if truth.area is None else np.asarray(truth.area, np.float64),
        iscrowd=None if truth.crowd is None else np.asarray(truth.crowd, np.int64),
    )
    rows = np.column_stack(
        [
            detections.image,
            xyxy_to_xywh(detections.boxes_xyxy),
            np.asarray(detections.scores, np.float64),
            detections.labels,
        ]
    )
    evaluation = hotcoco.COCOeval(objects, objects.load_res(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()  # fills `stats`
    stats = np.asarray(evaluation.stats, np.float64)  # -1 where undefined
    # [iou, recall, class, area, max_dets]: -1 where a class has no object of that size.
    precision = np.asarray((evaluation.eval or {})["precision"])[:, :, :, 0, -1]
    # A class is defined at all thresholds or at none, so plain means are right here.
    precision = np.where(precision > -1, precision, np.nan)
    return CocoAp(
        *np.where(stats >= 0, stats, np.nan).tolist(),
        class_ap=precision.mean((0, 1)),
        class_ap50=precision[0].mean(0),
        class_precision=precision[0].T,
    )


def check_boxes(
    truth: GroundTruth, detections: ScoredBoxes, num_images: int, num_classes: int
) -> None:
    """Refuses what cannot be measured.

    Raises:
      ValueError: see `coco_ap`.
    """
    faults = _faults("truth", truth, num_images, num_classes)
    faults += _faults("detections", detections, num_images, num_classes)
    if faults:
        raise ValueError("; ".join(faults))


def xyxy_to_xywh(boxes_xyxy: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Returns boxes as COCO writes them: the upper left corner, width and height."""
    corners = np.asarray(boxes_xyxy, np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _faults(
    name: str, group: GroundTruth | ScoredBoxes, num_images: int, num_classes: int
) -> list[str]:
    length = len(group.labels)
    lengths = [
        f"{name}.{field} has the shape {np.shape(values)}, wanted {wanted}"
        for field, values in group._asdict().items()
        if values is not None
        and np.shape(values) != (wanted := (length, 4) if field == "boxes_xyxy" else (length,))
    ]
    if lengths or not length:
        return lengths
    faults = []
    for field, limit in (("image", num_images), ("labels", num_classes)):
        values = np.asarray(getattr(group, field))
        outside = (values < 0) | (values >= limit)
        if outside.any():
            row = int(outside.argmax())
            faults.append(
                f"{name}.{field} has {outside.sum()} values outside [0, {limit}), "
                f"the first is {values[row]} in row {row}"
            )
    for field in ("boxes_xyxy", "scores", "area"):
        values = getattr(group, field, None)
        wrong = 0 if values is None else (~np.isfinite(values)).sum()
        if wrong:
            faults.append(f"{name}.{field} has {wrong} values that are not finite")
    return faults
