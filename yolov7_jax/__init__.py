"""YOLOv7 for JAX: models, assignment, losses, decoding and NMS, on static shapes."""

from yolov7_jax import weights
from yolov7_jax.assign import assign_anchor, assign_ota
from yolov7_jax.config import HeadConfig, LossConfig
from yolov7_jax.decode import decode
from yolov7_jax.deploy import deploy
from yolov7_jax.losses import detection_loss, update_balance
from yolov7_jax.model import apply, create, create_abstract, normalize_images, split
from yolov7_jax.nms import nms
from yolov7_jax.targets import pad_targets
from yolov7_jax.types import (
    Assignment,
    Detections,
    LossTerms,
    Outputs,
    Predictions,
    Targets,
)

__version__ = "0.1.0"

__all__ = [
    "Assignment",
    "Detections",
    "HeadConfig",
    "LossConfig",
    "LossTerms",
    "Outputs",
    "Predictions",
    "Targets",
    "apply",
    "assign_anchor",
    "assign_ota",
    "create",
    "create_abstract",
    "decode",
    "deploy",
    "detection_loss",
    "nms",
    "normalize_images",
    "pad_targets",
    "split",
    "update_balance",
    "weights",
]
