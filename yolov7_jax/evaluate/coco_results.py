"""Detections as COCO results: JSON that pycocotools and evaluation servers read."""

import json
import pathlib

import numpy as np

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.evaluate.coco_ap import ScoredBoxes, xyxy_to_xywh
from yolov7_jax.files import write_whole


def write_coco_results(dataset: Dataset, detections: ScoredBoxes, path: pathlib.Path) -> None:
    """Writes detections.

    Args:
      dataset: the split; images and classes get the ids that its source has for them.
      detections: in pixels of the original images.
      path: where to write.
    """
    columns = {
        "image_id": dataset.image_ids[detections.image].tolist(),
        "category_id": dataset.category_ids[detections.labels].tolist(),
        "bbox": xyxy_to_xywh(detections.boxes_xyxy).round(3).tolist(),
        "score": detections.scores.astype(np.float64).tolist(),
    }
    rows = zip(*columns.values(), strict=True)
    results = [dict(zip(columns, row, strict=True)) for row in rows]
    write_whole(path, json.dumps(results).encode())
