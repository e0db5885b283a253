"""Data sets: COCO JSON, YOLO txt and Pascal VOC, read into flat arrays, with every fault named."""

try:  # the modules of this package need these, and may say so only here
    import cv2  # noqa: F401
    import hotcoco  # noqa: F401
    import lxml  # noqa: F401
    import simplejpeg  # noqa: F401
    import tqdm  # noqa: F401
    import yaml  # noqa: F401
except ImportError as error:
    raise ImportError(
        "yolov7_jax.data needs OpenCV, hotcoco, lxml, PyYAML, simplejpeg and tqdm: "
        "pip install 'yolov7-jax[images]'"
    ) from error
