"""The embedded data set, drawn by code."""

from yolov7_jax.extras import check_installed

check_installed("images", "cv2")
