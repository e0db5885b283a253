"""Decoding and NMS, read slowly: the oracle for random cases, as oracle.py is of the loss."""

import numpy as np
import oracle
from oracle import Levels

from yolov7_jax.config import HeadConfig


def decode(lead: Levels, head: HeadConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes `[b, n, 4]` (corners, pixels), objectness `[b, n]` and scores `[b, n, c]`.

    Predictions stand in (level, row, column, anchor) order.
    """
    boxes, objectness, scores = [], [], []
    for image in range(len(lead[0])):
        for level, logits in enumerate(lead):
            for row, column, anchor in np.ndindex(*logits.shape[1:4]):
                match = oracle.Match(image, level, anchor, row, column, 0)
                one = oracle.logits_of(lead, match)
                boxes.append(oracle.corners_of(oracle.decode_one(one, match, head)))
                objectness.append(oracle.sigmoid(one[4]))
                classes = oracle.sigmoid(one[5:]) if head.num_classes > 1 else np.ones(1)
                scores.append(objectness[-1] * classes)
    batch = len(lead[0])
    return (
        np.array(boxes).reshape(batch, -1, 4),
        np.array(objectness).reshape(batch, -1),
        np.array(scores).reshape(batch, -1, head.num_classes),
    )


def nms(
    boxes_xyxy,
    objectness,
    scores,
    *,
    score_threshold,
    iou_threshold,
    multi_label=False,
    class_agnostic=False,
    classes=None,
    max_candidates=30000,
    max_detections=300,
) -> list[list[tuple[float, float, float, float, float, int]]]:
    """Greedy NMS: per image (x1, y1, x2, y2, score, label), best first."""
    detections = []
    for boxes, objects, class_scores in zip(boxes_xyxy, objectness, scores, strict=True):
        found = []
        for n, score in enumerate(class_scores):
            if not objects[n] > score_threshold:
                continue
            labels = range(len(score)) if multi_label else [int(np.argmax(score))]
            for label in labels:
                if score[label] > score_threshold and (classes is None or label in classes):
                    found.append((*(float(v) for v in boxes[n]), float(score[label]), label))
        found = sorted(found, key=lambda one: -one[4])[:max_candidates]  # stable: lower index first
        kept = []
        for one in found:
            rivals = [other for other in kept if class_agnostic or other[5] == one[5]]
            if all(oracle.plain_iou(one[:4], other[:4]) <= iou_threshold for other in rivals):
                kept.append(one)
            if len(kept) == max_detections:
                break
        detections.append(kept)
    return detections
