"""Data sets: COCO JSON, YOLO txt and Pascal VOC, read into flat arrays, with every fault named."""

try:
    import cv2  # noqa: F401  # the modules of this package need it, and may say so only here
    import hotcoco  # noqa: F401  # likewise
    import tqdm  # noqa: F401  # likewise
    import yaml  # noqa: F401  # likewise
except ImportError as error:
    raise ImportError(
        "yolov7_jax.data needs OpenCV, hotcoco, PyYAML and tqdm: pip install 'yolov7-jax[images]'"
    ) from error
