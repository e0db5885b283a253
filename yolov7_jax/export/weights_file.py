"""Deployed weights under official names, as safetensors or as a file of PyTorch."""

from pathlib import Path

import jax

from yolov7_jax.export.export_config import ExportConfig
from yolov7_jax.export.export_metadata import Metadata
from yolov7_jax.export.program import program_of
from yolov7_jax.export.torch_state_dict import write_state_dict
from yolov7_jax.export.verify import Run
from yolov7_jax.model import Yolov7
from yolov7_jax.weights.convert import to_official
from yolov7_jax.weights.load import load_model
from yolov7_jax.weights.safetensors_file import write_safetensors

# What the official networks take.
IMAGES: Metadata = {"channels": "RGB", "layout": "NCHW", "dtype": "float32", "range": [0, 1]}


def write_as_safetensors(
    model: Yolov7, settings: ExportConfig, facts: Metadata, path: Path
) -> None:
    """Writes a deployed model's weights as safetensors, facts included."""
    write_safetensors(to_official(model), path, {**facts, "input": IMAGES})


def write_as_saved_pt(model: Yolov7, settings: ExportConfig, facts: Metadata, path: Path) -> None:
    """Writes a deployed model's weights as `torch.save` would, facts included."""
    write_state_dict(to_official(model), {**facts, "input": IMAGES}, path)


def load(path: Path, settings: ExportConfig) -> Run:
    """Returns what the model of a file of either format computes; a `Load`."""
    program, arguments = program_of(load_model(path), settings)
    call = jax.jit(program)
    return lambda images, _: jax.device_get(call(arguments, images))
