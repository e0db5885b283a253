"""Weights in the official layout, in and out."""

from yolov7_jax.weights.convert import load_official, to_official

__all__ = ["load_official", "to_official"]
