"""Pages and plots about detections."""

try:
    import cv2  # noqa: F401  # for all modules of this package
except ImportError as error:
    raise ImportError(
        "yolov7_jax.evaluate.report needs OpenCV: pip install 'yolov7-jax[images]'"
    ) from error
