"""Deployed models as ONNX, written with the `onnx` package alone."""

from yolov7_jax.extras import check_installed

check_installed("export", "onnx", "onnxruntime")
