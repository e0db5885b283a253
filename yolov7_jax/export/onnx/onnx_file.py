"""ONNX files: written, and run by onnxruntime."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from yolov7_jax.export.export_config import ExportConfig
from yolov7_jax.export.export_metadata import Metadata, as_texts, describe_program
from yolov7_jax.export.onnx.onnx_decode_nms import (
    SCORE_THRESHOLD,
    add_decoded,
    add_detections,
    add_raw,
)
from yolov7_jax.export.onnx.onnx_graph import Graph
from yolov7_jax.export.onnx.onnx_network import add_network
from yolov7_jax.export.program import output_names
from yolov7_jax.export.verify import Results, Run
from yolov7_jax.model import Yolov7

OPSET = 17
IR_VERSION = 8  # the oldest that has this opset, so that older runtimes read it
PROVIDERS = ["CPUExecutionProvider"]
IMAGES: Metadata = {"layout": "NCHW", "dtype": "float32", "range": [0, 1]}


def write(model: Yolov7, settings: ExportConfig, facts: Metadata, path: Path) -> None:
    """Writes a deployed model as ONNX, facts included; a `Write`.

    Raises:
      ValueError: the model has a part that cannot be written.
      OSError: the file cannot be written.
    """
    graph = Graph()
    levels = add_network(graph, model, "images")
    if settings.contents == "raw":
        results = add_raw(graph, levels, model.head, settings)
    else:
        results = add_decoded(graph, levels, model.head, settings)
    if settings.contents == "detections":
        results = add_detections(graph, results, model.head, settings)
    names = output_names(model, settings)
    for name, result in zip(names, results, strict=True):
        graph.add("Identity", [result], name=name)

    batch = "batch" if settings.batch is None else settings.batch
    images = helper.make_tensor_value_info(
        "images", TensorProto.FLOAT, [batch, 3, *settings.image_size]
    )
    outputs = [
        helper.make_tensor_value_info(name, kind, [batch, *shape])
        for name, (kind, shape) in zip(names, _results(model, settings), strict=True)
    ]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, model.name, [images], outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="yolov7_jax",
        producer_version=facts["yolov7_jax"],
    )
    helper.set_model_props(proto, as_texts(facts | describe_program(settings, IMAGES)))
    onnx.save(proto, path)


def load(path: Path, settings: ExportConfig) -> Run:
    """Returns what a file computes, after it was checked against ONNX's rules; a `Load`."""
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=PROVIDERS)

    def run(images: np.ndarray, score_threshold: float | None) -> Results:
        chosen = session if score_threshold is None else _session_at(path, score_threshold)
        names = [output.name for output in chosen.get_outputs()]
        scaled = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
        results = chosen.run(names, {"images": scaled})
        return {name: np.asarray(x) for name, x in zip(names, results, strict=True)}

    return run


def _session_at(path: Path, score_threshold: float) -> onnxruntime.InferenceSession:
    """Returns a file's graph with another threshold."""
    proto = onnx.load(path)
    (constant,) = [x for x in proto.graph.initializer if x.name == SCORE_THRESHOLD]
    array = np.array([score_threshold], np.float32)
    constant.CopyFrom(numpy_helper.from_array(array, constant.name))
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=PROVIDERS)


def _results(model: Yolov7, settings: ExportConfig) -> list[tuple[int, list[int]]]:
    """Returns type and shape of every result, the batch left out."""
    head = model.head
    sizes = [[side // stride for side in settings.image_size] for stride in head.strides]
    num = sum(height * width for height, width in sizes) * head.num_anchors
    rows = settings.max_detections
    match settings.contents:
        case "raw":
            shapes = [[*size, head.num_anchors, head.num_fields] for size in sizes]
        case "decoded":
            shapes = [[num, 4], [num], [num, head.num_classes]]
        case "detections":
            shapes = [[rows, 4], [rows], [rows], [rows]]
    kinds = [TensorProto.FLOAT] * len(shapes)
    if settings.contents == "detections":
        kinds[2:] = TensorProto.INT32, TensorProto.BOOL
    return list(zip(kinds, shapes, strict=True))
