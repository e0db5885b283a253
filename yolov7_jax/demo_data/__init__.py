"""The embedded data set, drawn by code."""

try:
    import cv2  # noqa: F401  # the modules of this package need it
except ImportError as error:
    raise ImportError(
        "yolov7_jax.demo_data needs OpenCV: pip install 'yolov7-jax[images]'"
    ) from error
