"""Pages and plots about detections."""

from yolov7_jax.extras import check_installed

check_installed("images", "cv2", "jinja2")
