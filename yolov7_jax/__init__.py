"""YOLOv7 for JAX: models, assignment, losses, decoding and NMS, on static shapes.

What is named here is loaded when it is first asked for, so that a command that needs no JAX does
not wait for it.
"""

import sys
from typing import TYPE_CHECKING

from yolov7_jax.lazy import Package, attach

if TYPE_CHECKING:
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

__getattr__, __dir__ = attach(
    __name__,
    {
        "assign": ("assign_anchor", "assign_ota"),
        "config": ("HeadConfig", "LossConfig"),
        "decode": ("decode",),
        "deploy": ("deploy",),
        "losses": ("detection_loss", "update_balance"),
        "model": ("apply", "create", "create_abstract", "normalize_images", "split"),
        "nms": ("nms",),
        "targets": ("pad_targets",),
        "types": (
            *("Assignment", "Detections", "LossTerms"),
            *("Outputs", "Predictions", "Targets"),
        ),
        "weights": ("weights",),
    },
)
sys.modules[__name__].__class__ = Package
