"""From the head's convolutions to boxes and detections, as nodes of ONNX."""

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from yolov7_jax.config import HeadConfig
from yolov7_jax.export.export_config import ExportConfig
from yolov7_jax.export.onnx.onnx_graph import Graph

MAX_CANDIDATES = 30_000  # as `nms` takes unless told otherwise
SCORE_THRESHOLD = "score_threshold"  # the name of the constant
AS_RAW = [0, 3, 4, 1, 2]  # [b, a, f, h, w] to [b, h, w, a, f]
AS_PREDICTIONS = [0, 1, 3, 4, 2]  # [b, a, f, h, w] to [b, a, h, w, f]


def add_raw(
    graph: Graph, levels: Sequence[str], head: HeadConfig, settings: ExportConfig
) -> list[str]:
    """Adds what the model gives: logits `[b, h, w, a, f]` of each level."""
    return [
        graph.add("Transpose", [_by_anchor(graph, x, level, head, settings)], {"perm": AS_RAW})
        for level, x in enumerate(levels)
    ]


def add_decoded(
    graph: Graph, levels: Sequence[str], head: HeadConfig, settings: ExportConfig
) -> list[str]:
    """Adds boxes and scores, as `decode` gives them.

    Args:
      graph: the nodes are added to it.
      levels: logits `[b, a * f, h, w]`.
      head: strides and anchors.
      settings: gives the size of the images.

    Returns:
      boxes_xyxy `[b, n, 4]`, objectness `[b, n]` and scores `[b, n, c]`.
    """
    rows = []
    for level, x in enumerate(levels):
        x = graph.add(
            "Transpose", [_by_anchor(graph, x, level, head, settings)], {"perm": AS_PREDICTIONS}
        )
        rows.append(graph.reshape(x, [0, -1, head.num_fields]))
    sigmoid = graph.add("Sigmoid", [graph.add("Concat", rows, {"axis": 1})])  # [b, n, f]
    parts = graph.constant([2, 2, 1, head.num_classes], np.int64)
    centre, size, objectness, classes = graph.add_split("Split", [sigmoid, parts], 4, {"axis": 2})
    corners, strides, anchors = _grid(head, settings)

    # (2 s - 0.5 + cell) stride and (2 s)^2 anchor, with all that is constant taken together.
    centre = graph.add("Mul", [centre, graph.constant(2 * strides, np.float32)])
    centre = graph.add("Add", [centre, graph.constant(corners, np.float32)])
    half = graph.add("Mul", [size, size])
    half = graph.add("Mul", [half, graph.constant(2 * anchors, np.float32)])
    low, high = graph.add("Sub", [centre, half]), graph.add("Add", [centre, half])
    boxes = graph.add("Concat", [low, high], {"axis": 2})
    scores = objectness
    if head.num_classes > 1:
        scores = graph.add("Mul", [objectness, classes])
    return [boxes, graph.reshape(objectness, [0, -1]), scores]


def add_detections(
    graph: Graph, predictions: Sequence[str], head: HeadConfig, settings: ExportConfig
) -> list[str]:
    """Adds NMS, which gives what `nms` does, equal scores included.

    ONNX's operator gives a ragged list of (image, class, box). Its members' scores are written
    into a table of zeros, whose best entries are then in order, and as many for each image.

    Args:
      graph: the nodes are added to it.
      predictions: as `add_decoded` gives them.
      head: gives the numbers of predictions and classes.
      settings: thresholds and limits.

    Returns:
      boxes_xyxy `[b, k, 4]`, scores `[b, k]`, labels `[b, k]` int32 and valid `[b, k]` bool.
    """
    boxes, objectness, scores = predictions
    zero = graph.constant(0, np.float32)
    score_threshold = graph.constant([settings.score_threshold], np.float32, name=SCORE_THRESHOLD)
    iou_threshold = graph.constant([settings.iou_threshold], np.float32)
    rows_at_most = graph.constant([settings.max_detections], np.int64)

    # One candidate a box, of its best class. No threshold is below zero, so zero is none.
    best = graph.add("ReduceMax", [scores], {"axes": [2], "keepdims": 0})  # [b, n]
    labels = graph.add("ArgMax", [scores], {"axis": 2, "keepdims": 0})
    allowed = graph.add("Greater", [objectness, score_threshold])
    best = graph.add("Where", [allowed, best, zero])
    num = len(_grid(head, settings)[0])
    if num > MAX_CANDIDATES:
        num = MAX_CANDIDATES
        best, places = graph.add_split("TopK", [best, graph.constant([num], np.int64)], 2)
        boxes, labels = _take(graph, (boxes, labels), places)

    by_class = graph.reshape(best, [0, 1, -1])  # [b, 1, n]
    if not settings.class_agnostic and head.num_classes > 1:
        classes = graph.constant(np.arange(head.num_classes)[:, None], np.int64)
        is_class = graph.add("Equal", [graph.reshape(labels, [0, 1, -1]), classes])
        by_class = graph.add("Where", [is_class, by_class, zero])  # [b, c, n]
    kept = graph.add(
        "NonMaxSuppression", [boxes, by_class, rows_at_most, iou_threshold, score_threshold]
    )
    image_and_box = graph.add("Gather", [kept, graph.constant([0, 2], np.int64)], {"axis": 1})
    table = graph.add("ConstantOfShape", [graph.add("Shape", [best])])
    kept_scores = graph.add("GatherND", [best, image_and_box])
    table = graph.add("ScatterND", [table, image_and_box, kept_scores])  # [b, n]

    rows = min(settings.max_detections, num)
    scores, places = graph.add_split("TopK", [table, graph.constant([rows], np.int64)], 2)
    valid = graph.add("Greater", [scores, zero])
    boxes, labels = _take(graph, (boxes, labels), places)
    boxes = graph.add("Where", [graph.reshape(valid, [0, -1, 1]), boxes, zero])
    labels = graph.add("Where", [valid, labels, graph.constant(0, np.int64)])
    labels = graph.add("Cast", [labels], {"to": TensorProto.INT32})
    missing = settings.max_detections - rows
    if missing:
        boxes = _padded(graph, boxes, [0, 0, 0, 0, missing, 0])
        scores, labels = (_padded(graph, value, [0, 0, 0, missing]) for value in (scores, labels))
        valid = graph.add("Greater", [scores, zero])
    return [boxes, scores, labels, valid]


def _by_anchor(graph: Graph, x: str, level: int, head: HeadConfig, settings: ExportConfig) -> str:
    """Reshapes `[b, a * f, h, w]` to `[b, a, f, h, w]`."""
    height, width = (side // head.strides[level] for side in settings.image_size)
    return graph.reshape(x, [0, head.num_anchors, head.num_fields, height, width])


def _take(graph: Graph, values: Sequence[str], places: str) -> list[str]:
    """Takes from each value the rows of each image that stand at its places `[b, k]`."""
    places = graph.add("Unsqueeze", [places, graph.constant([2], np.int64)])
    return [graph.add("GatherND", [value, places], {"batch_dims": 1}) for value in values]


def _padded(graph: Graph, value: str, pads: Sequence[int]) -> str:
    return graph.add("Pad", [value, graph.constant(pads, np.int64)])


def _grid(head: HeadConfig, settings: ExportConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what boxes of all predictions are reckoned from, in pixels.

    Returns:
      corners `[n, 2]`: where the centre would be at sigmoid 0; strides `[n, 1]`; anchors `[n, 2]`.
    """
    corners, strides, anchors = [], [], []
    for stride, of_level in zip(head.strides, head.anchors, strict=True):
        rows, columns = (side // stride for side in settings.image_size)
        cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
        corners += [(cells - 0.5) * stride] * head.num_anchors
        strides += [np.full((head.num_anchors * len(cells), 1), stride)]
        anchors += [np.repeat(of_level, len(cells), axis=0)]
    return np.concatenate(corners), np.concatenate(strides), np.concatenate(anchors)
