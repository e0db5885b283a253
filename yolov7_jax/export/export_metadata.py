"""The facts about a model that travel with every exported file."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from yolov7_jax import __version__
from yolov7_jax.config import PAD_VALUE
from yolov7_jax.export.export_config import ExportConfig
from yolov7_jax.model import Yolov7
from yolov7_jax.weights.model_metadata import describe_model

Metadata = dict[str, Any]  # what JSON can hold


def describe_exported(model: Yolov7, names: Sequence[str] | None, image_size: int) -> Metadata:
    """Returns what is true of a model in any file; arguments and errors as `describe_model`."""
    return {
        "yolov7_jax": __version__,
        **describe_model(model, names, image_size=image_size),
        "num_classes": model.head.num_classes,
        "strides": model.head.strides,
        "padding": PAD_VALUE,
    }


def describe_program(settings: ExportConfig, images: Metadata) -> Metadata:
    """Returns what is true of a program, `images` being layout, type and range of its input."""
    facts = dataclasses.asdict(settings)
    height, width = facts.pop("image_size")
    size = {"height": height, "width": width}
    facts |= {
        "input": {"name": "images", "channels": "RGB", **images, **size},
        "batch": "dynamic" if settings.batch is None else settings.batch,
    }
    if settings.contents == "detections":
        return facts
    return {name: facts[name] for name in ("input", "batch", "contents")}


def as_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Returns metadata for formats that hold texts only: whatever is no text becomes JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in metadata.items()
    }
