"""Pages and plots about detections."""

try:
    import cv2  # noqa: F401  # for all modules of this package
    import jinja2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "yolov7_jax.evaluate.report needs OpenCV and Jinja: pip install 'yolov7-jax[images]'"
    ) from error
