"""Weights in PyTorch's names and layout, in and out of models and files."""

from yolov7_jax.weights.checkpoint_contents import Checkpoint, CheckpointError
from yolov7_jax.weights.convert import class_keys, head_keys, load_official, to_official
from yolov7_jax.weights.load import load, load_model, read_checkpoint
from yolov7_jax.weights.safetensors_file import save_safetensors

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "class_keys",
    "head_keys",
    "load",
    "load_model",
    "load_official",
    "read_checkpoint",
    "save_safetensors",
    "to_official",
]
