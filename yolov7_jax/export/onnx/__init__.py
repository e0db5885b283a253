"""Deployed models as ONNX, written with the `onnx` package alone."""

try:
    import onnx  # noqa: F401  # for all modules of this package
    import onnxruntime  # noqa: F401  # likewise
except ImportError as error:
    raise ImportError(
        "exporting ONNX needs onnx and onnxruntime: pip install 'yolov7-jax[export]'"
    ) from error
