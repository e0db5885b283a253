"""A model as one function from images and named arrays to named arrays."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from yolov7_jax.detect.forward import forward
from yolov7_jax.export.export_config import ExportConfig
from yolov7_jax.model import Yolov7, apply, normalize_images, split
from yolov7_jax.nms import nms

Arguments = Mapping[str, Any]  # arrays
Program = Callable[[Arguments, UInt8[Array, "b h w 3"]], dict[str, Array]]


def program_of(model: Yolov7, settings: ExportConfig) -> tuple[Program, dict[str, Array]]:
    """Returns a model as a function, and the arrays that are its first argument.

    Weights and thresholds are arguments: as constants they would be kept twice, and copied
    through every step of the compiler. Arguments and results are dictionaries, which
    `jax.export` writes without asking anything of the reader.

    Args:
      model: any model.
      settings: what to give; the batch is whatever comes.

    Returns:
      program: `program(arguments, images)`, images as `letterbox` gives them. Its results
        have the names in `output_names`.
      arguments: the weights by their paths in the model, and the thresholds where NMS is wanted.
    """
    graphdef, params, batch_stats = split(model)
    state = {"params": params, "batch_stats": batch_stats}
    paths, structure = jax.tree_util.tree_flatten_with_path(state)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
    arguments = {name: leaf for name, (_, leaf) in zip(names, paths, strict=True)}
    if settings.contents == "detections":
        arguments["score_threshold"] = jnp.float32(settings.score_threshold)
        arguments["iou_threshold"] = jnp.float32(settings.iou_threshold)

    def program(arguments: Arguments, images: UInt8[Array, "b h w 3"]) -> dict[str, Array]:
        state = jax.tree.unflatten(structure, [arguments[name] for name in names])
        if settings.contents == "raw":
            scaled = normalize_images(images)
            outputs, _ = apply(graphdef, state["params"], state["batch_stats"], scaled, train=False)
            return dict(zip(output_names(model, settings), outputs.lead, strict=True))
        predictions = forward(graphdef, state["params"], state["batch_stats"], images, model.head)
        if settings.contents == "decoded":
            return predictions._asdict()
        detections = nms(
            predictions,
            score_threshold=arguments["score_threshold"],
            iou_threshold=arguments["iou_threshold"],
            class_agnostic=settings.class_agnostic,
            max_detections=settings.max_detections,
        )
        return detections._asdict()

    return program, arguments


def output_names(model: Yolov7, settings: ExportConfig) -> tuple[str, ...]:
    """Returns what the results of a program are called, in every format."""
    match settings.contents:
        case "raw":
            return tuple(f"stride{stride}" for stride in model.head.strides)
        case "decoded":
            return ("boxes_xyxy", "objectness", "scores")
        case "detections":
            return ("boxes_xyxy", "scores", "labels", "valid")
