"""NMS inside of ONNX files: what onnxruntime makes of it equals `nms`, ties included."""

import jax
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from yolov7_jax import HeadConfig, Predictions, nms
from yolov7_jax.export.export_config import ExportConfig
from yolov7_jax.export.onnx import onnx_decode_nms as outputs
from yolov7_jax.export.onnx.onnx_file import IR_VERSION, OPSET
from yolov7_jax.export.onnx.onnx_graph import Graph

# Compiled once for each kind of call.
NMS = jax.jit(nms, static_argnames=("class_agnostic", "max_detections", "max_candidates"))
SIZE = (64, 64)
NUM = 3 * (64 + 16 + 4)  # predictions of such an image at three strides


def head(num_classes):
    return HeadConfig(num_classes, (8, 16, 32), [[(8, 8), (16, 16), (32, 32)]] * 3)


def crowd(seed, num_classes, *, ties):
    """Many boxes on top of each other, a few of them without area."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 20, (3, NUM, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 40, (3, NUM, 2))], -1)
    objectness = rng.uniform(size=(3, NUM))
    scores = objectness[..., None] * rng.uniform(size=(3, NUM, num_classes))
    if ties:
        boxes, scores = np.round(boxes / 8) * 8, np.round(scores * 8) / 8
        objectness = np.round(objectness * 8) / 8
    if num_classes == 1:
        scores = objectness[..., None]
    return Predictions(*(x.astype(np.float32) for x in (boxes, objectness, scores)))


def run(predictions, settings):
    num_classes = predictions.scores.shape[2]
    graph = Graph()
    names = list(Predictions._fields)
    results = outputs.add_detections(graph, names, head(num_classes), settings)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *field.shape[1:]])
        for name, field in zip(names, predictions, strict=True)
    ]
    given = [helper.make_empty_tensor_value_info(name) for name in results]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "nms", inputs, given, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    return session.run(None, predictions._asdict())


def assert_equal_to_nms(predictions, settings, max_candidates=30_000):
    wanted = NMS(
        predictions,
        score_threshold=settings.score_threshold,
        iou_threshold=settings.iou_threshold,
        class_agnostic=settings.class_agnostic,
        max_detections=settings.max_detections,
        max_candidates=max_candidates,
    )
    for name, got, field in zip(wanted._fields, run(predictions, settings), wanted, strict=True):
        np.testing.assert_array_equal(got, field, err_msg=name)
        assert got.dtype == field.dtype
    return np.asarray(wanted.valid).sum(axis=1)


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("num_classes", [1, 5])
def test_detections_are_those_of_nms(num_classes, ties, class_agnostic):
    settings = ExportConfig(SIZE, score_threshold=0.25, class_agnostic=class_agnostic)
    for seed in range(5):
        predictions = crowd(seed, num_classes, ties=ties)
        kept = assert_equal_to_nms(predictions, settings)
        candidates = (predictions.scores.max(axis=2) > 0.25).sum(axis=1)
        assert (kept > 3).all()  # or else nothing was put to the test
        assert (kept < candidates).all()


def test_only_the_best_are_given_and_missing_rows_are_zeros():
    predictions = crowd(0, 3, ties=True)
    assert (assert_equal_to_nms(predictions, ExportConfig(SIZE, max_detections=7)) == 7).all()
    kept = assert_equal_to_nms(predictions, ExportConfig(SIZE, max_detections=NUM + 50))
    assert (kept < NUM).all()


def test_nothing_over_the_threshold_gives_no_detections():
    kept = assert_equal_to_nms(crowd(0, 3, ties=False), ExportConfig(SIZE, score_threshold=0.9999))
    assert not kept.any()


def test_zero_thresholds_keep_what_nms_keeps():
    settings = ExportConfig(SIZE, score_threshold=0.0, iou_threshold=0.0)
    assert_equal_to_nms(crowd(0, 3, ties=True), settings)


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_with_too_many_candidates_only_the_best_are_looked_at(monkeypatch, class_agnostic):
    monkeypatch.setattr(outputs, "MAX_CANDIDATES", 20)
    settings = ExportConfig(SIZE, score_threshold=0.1, class_agnostic=class_agnostic)
    for seed in range(3):
        assert_equal_to_nms(crowd(seed, 3, ties=True), settings, max_candidates=20)
