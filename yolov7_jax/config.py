"""Frozen settings: heads and losses."""

import dataclasses
import math
import numbers

from yolov7_jax.errors import UserError

DEMO = "demo"  # in the place of a data set: the embedded one
PAD_VALUE = 114  # the grey around letterboxed images, part of what published weights expect
P5_MODELS = ("yolov7-tiny", "yolov7", "yolov7x")  # three levels
P6_MODELS = ("yolov7-w6", "yolov7-e6", "yolov7-d6", "yolov7-e6e")  # four
MAX_CANDIDATES = 30000
LONGEST_SIDE = 2**14  # of the network's input, in pixels: what is more is a slip of the finger
EVAL_SCORE_THRESHOLD, EVAL_IOU_THRESHOLD = 0.001, 0.65  # of NMS for AP, which counts all scores


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """The geometry of a detection head.

    Hashable, so that it can be a static argument of `jax.jit`. Lists are accepted and kept as
    tuples.

    Attributes:
      num_classes: number of classes, at least 1.
      strides: input pixels per cell of each level, finest first.
      anchors: `anchors[level][a] = (width, height)` in input pixels; as many at every level.

    Raises:
      UserError: anchors and strides don't fit together, or a value is not positive.
    """

    num_classes: int
    strides: tuple[int, ...]
    anchors: tuple[tuple[tuple[float, float], ...], ...]

    def __post_init__(self):
        given = tuple(self.strides)
        strides = tuple(int(stride) for stride in given)
        anchors = tuple(tuple((float(w), float(h)) for w, h in level) for level in self.anchors)
        if isinstance(self.num_classes, numbers.Integral):
            object.__setattr__(self, "num_classes", int(self.num_classes))
        object.__setattr__(self, "strides", strides)
        object.__setattr__(self, "anchors", anchors)
        if not isinstance(self.num_classes, int) or self.num_classes < 1:
            raise UserError(f"num_classes (={self.num_classes!r}) must be an integer of at least 1")
        if not strides or min(strides) < 1 or strides != given:
            raise UserError(f"strides (={given}) must be positive integers, one per level")
        if list(strides) != sorted(set(strides)):
            raise UserError(f"strides (={strides}) must grow from level to level")
        if len(anchors) != len(strides):
            raise UserError(
                f"anchors has {len(anchors)} levels and strides has {len(strides)}; "
                "they must have equal length"
            )
        counts = {len(level) for level in anchors}
        if len(counts) != 1 or 0 in counts:
            raise UserError(
                "every level must have the same number of anchors, at least 1; "
                f"got {[len(level) for level in anchors]}"
            )
        if not all(0 < side < math.inf for level in anchors for box in level for side in box):
            raise UserError(f"anchors (={anchors}) must have positive, finite widths and heights")

    @property
    def num_levels(self) -> int:
        """Number of levels: 3 for P5 models, 4 for P6."""
        return len(self.strides)

    @property
    def num_anchors(self) -> int:
        """Number of anchors per level."""
        return len(self.anchors[0])

    @property
    def num_fields(self) -> int:
        """Length of an output's last axis: 4 for the box, 1 for objectness, then the classes."""
        return 5 + self.num_classes


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights and thresholds of the loss.

    The defaults are those for 80 classes, 640 pixels and 3 levels; `scaled` gives the gains that
    training uses elsewhere.

    Attributes:
      box_gain: weight of the box term.
      obj_gain: weight of the objectness term.
      cls_gain: weight of the class term.
      anchor_threshold: an anchor can match an object when neither side is this many times the
        other's. Strictly less.
      label_smoothing: eps; class targets become 1 - eps / 2 and eps / 2.
      focal_gamma: exponent of the focal weight of class and objectness; 0 switches it off.
      cls_pos_weight: weight of the positive part of the class BCE.
      obj_pos_weight: weight of the positive part of the objectness BCE.
      iou_ratio: how much of the objectness target is the CIoU; the rest is 1.
      restrict_to_own_candidates: allows an object only the candidates that it produced itself.
        Off for parity with the published numbers, where an object may claim any candidate.

    Raises:
      UserError: a value is out of its range.
    """

    box_gain: float = 0.05
    obj_gain: float = 0.7
    cls_gain: float = 0.3
    anchor_threshold: float = 4.0
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    cls_pos_weight: float = 1.0
    obj_pos_weight: float = 1.0
    iou_ratio: float = 1.0
    restrict_to_own_candidates: bool = False

    def __post_init__(self):
        wanted = {
            "at least 0 and finite": (
                lambda value: 0 <= value < math.inf,
                ("box_gain", "obj_gain", "cls_gain", "focal_gamma"),
            ),
            "more than 0 and finite": (
                lambda value: 0 < value < math.inf,
                ("cls_pos_weight", "obj_pos_weight"),
            ),
            "between 0 and 1": (lambda value: 0 <= value <= 1, ("label_smoothing", "iou_ratio")),
            "more than 1": (lambda value: value > 1, ("anchor_threshold",)),
        }
        faults = [
            f"{name} (={getattr(self, name)}) must be {words}"
            for words, (is_valid, names) in wanted.items()
            for name in names
            if not is_valid(getattr(self, name))
        ]
        if faults:
            raise UserError("; ".join(faults))

    def scaled(self, head: HeadConfig, image_size: int) -> "LossConfig":
        """Returns the gains for another number of levels and classes, or another image size.

        Args:
          head: gives the numbers of levels and classes.
          image_size: side of the training images in pixels.

        Returns:
          This configuration with box gain * 3 / L, class gain * C / 80 * 3 / L and objectness
          gain * (image_size / 640)^2 * 3 / L.
        """
        levels = 3 / head.num_levels
        return dataclasses.replace(
            self,
            box_gain=self.box_gain * levels,
            obj_gain=self.obj_gain * (image_size / 640) ** 2 * levels,
            cls_gain=self.cls_gain * head.num_classes / 80 * levels,
        )
