"""What is asked of an exported program."""

import dataclasses
from typing import Literal, get_args

from yolov7_jax.config import LONGEST_SIDE, MAX_CANDIDATES
from yolov7_jax.errors import UserError

Contents = Literal["raw", "decoded", "detections"]


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What an exported program takes and gives.

    Attributes:
      image_size: height and width of the images in pixels, which are fixed.
      batch: how many images at once; None for any number.
      contents: "raw" gives the logits of each level, "decoded" boxes and scores, "detections" what
        NMS keeps of them.
      score_threshold: as for `nms`, like all that follow; without a meaning but for detections.
      iou_threshold: at most so much may kept boxes overlap.
      max_detections: the number of rows given for each image.
      class_agnostic: boxes suppress those of other classes too.

    Raises:
      UserError: names everything that is out of its range.
    """

    image_size: tuple[int, int]
    batch: int | None = None
    contents: Contents = "detections"
    score_threshold: float = 0.25
    iou_threshold: float = 0.45
    max_detections: int = 300
    class_agnostic: bool = False

    def __post_init__(self):
        faults = []
        if not 1 <= min(self.image_size) <= max(self.image_size) <= LONGEST_SIDE:
            size = ",".join(map(str, self.image_size))
            faults.append(f"image_size (={size}) must be from 1 to {LONGEST_SIDE}")
        if self.batch is not None and self.batch < 1:
            faults.append(f"batch (={self.batch}) must be at least 1, or dynamic")
        if self.contents not in get_args(Contents):
            wanted = ", ".join(get_args(Contents))
            faults.append(f"contents (={self.contents!r}) must be one of {wanted}")
        if not 0 <= self.score_threshold < 1:
            faults.append(f"score_threshold (={self.score_threshold}) must be from 0 to below 1")
        if not 0 <= self.iou_threshold <= 1:
            faults.append(f"iou_threshold (={self.iou_threshold}) must be from 0 to 1")
        if not 1 <= self.max_detections <= MAX_CANDIDATES:
            faults.append(
                f"max_detections (={self.max_detections}) must be from 1 to {MAX_CANDIDATES}"
            )
        if faults:
            raise UserError("; ".join(faults))

    def check_strides(self, strides: tuple[int, ...]) -> None:
        """Raises a UserError if a model with these strides cannot take such images."""
        sides = zip(("height", "width"), self.image_size, strict=True)
        wrong = [side for side, length in sides if length % max(strides)]
        if wrong:
            size = ",".join(map(str, self.image_size))
            raise UserError(
                f"image_size (={size}): {' and '.join(wrong)} must be a multiple of "
                f"{max(strides)}, the largest stride"
            )
