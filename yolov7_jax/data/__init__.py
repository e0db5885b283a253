"""Data sets: COCO JSON, YOLO txt and Pascal VOC, read into flat arrays, with every fault named."""

from yolov7_jax.extras import check_installed

check_installed("images", "cv2", "hotcoco", "lxml", "simplejpeg", "tqdm", "yaml")
