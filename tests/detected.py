"""Small sets of objects and detections, by hand and at random, and what pycocotools says."""

import contextlib
import io

import cv2
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.evaluate.coco_ap import GroundTruth, ScoredBoxes, xyxy_to_xywh


def objects(*rows, crowd=()):
    """Rows are image, label, x0, y0, x1, y1; `crowd` has the numbers of rows."""
    table = np.asarray(rows, np.float64).reshape(-1, 6)
    is_crowd = np.isin(np.arange(len(table)), crowd)
    return GroundTruth(table[:, 0].astype(int), table[:, 2:], table[:, 1].astype(int), is_crowd)


def detected(*rows):
    """Rows are image, label, score, x0, y0, x1, y1."""
    table = np.asarray(rows, np.float64).reshape(-1, 7)
    image, labels = table[:, 0].astype(int), table[:, 1].astype(int)
    return ScoredBoxes(image, table[:, 3:], table[:, 2], labels)


def random_case(seed, *, num_images=6, num_classes=4, num_objects=40, num_detections=160):
    """Clustered boxes on a coarse grid: equal scores and boxes, IoUs of just 0.5, and crowds.

    The last class has no object, and the last image none either.
    """
    rng = np.random.default_rng(seed)

    def boxes(count):
        low = rng.integers(0, 8, (count, 2)) * 5
        return np.concatenate([low, low + rng.integers(2, 8, (count, 2)) * 5], 1).astype(np.float32)

    truth = GroundTruth(
        rng.integers(0, num_images - 1, num_objects),
        boxes(num_objects),
        rng.integers(0, num_classes - 1, num_objects),
        rng.random(num_objects) < 0.15,
    )
    truth.image[:8], truth.boxes_xyxy[:8] = truth.image[8:16], truth.boxes_xyxy[8:16]
    near = rng.integers(0, num_objects, num_detections)
    shaken = (
        truth.boxes_xyxy[near] + rng.integers(-1, 2, (num_detections, 4)).astype(np.float32) * 4
    )
    shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
    astray = rng.random((2, num_detections)) < 0.2
    detections = ScoredBoxes(
        np.where(astray[0], rng.integers(0, num_images, num_detections), truth.image[near]),
        shaken.astype(np.float32),
        (rng.integers(0, 20, num_detections) / 20).astype(np.float32),
        np.where(astray[1], rng.integers(0, num_classes, num_detections), truth.labels[near]),
    )
    return truth, detections, num_images, num_classes


def pycocotools_ap(truth, results, image_ids, category_ids):
    """The 12 numbers and `[iou, recall, class]` precision of pycocotools, -1 where undefined.

    `results` are detections as COCO writes them, or a file of them.
    """
    boxes = xyxy_to_xywh(truth.boxes_xyxy)
    area = boxes[:, 2:].prod(1) if truth.area is None else truth.area
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": int(image)} for image in image_ids],
            "categories": [{"id": int(label), "name": str(label)} for label in category_ids],
            "annotations": [
                {
                    "id": row + 1,
                    "image_id": int(image_ids[truth.image[row]]),
                    "category_id": int(category_ids[label]),
                    "bbox": boxes[row].tolist(),
                    "area": float(area[row]),
                    "iscrowd": int(not truth.to_find[row]),
                }
                for row, label in enumerate(truth.labels)
            ],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats, evaluation.eval["precision"][:, :, :, 0, -1]


def grey_split(folder, names, num_images, size=(100, 100)):
    """Grey images without objects: those and detections come separately."""
    paths = [str(folder / f"{number}.png") for number in range(num_images)]
    for path in paths:
        cv2.imwrite(path, np.full((size[1], size[0], 3), 90, np.uint8))
    return Dataset(
        names=tuple(names),
        paths=tuple(paths),
        sizes=np.full((num_images, 2), size, np.int32),
        offsets=np.zeros(num_images + 1, np.int64),
        labels=np.zeros(0, np.int32),
        boxes=np.zeros((0, 4), np.float32),
    )
