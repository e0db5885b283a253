"""The arrays that travel between the parts: named tuples, padded to static shapes, with masks.

Shapes: `b` images, `m` objects per image after padding, `l` levels, `a` anchors per level, `c`
classes, `n` candidates or predictions per image.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

AnyArray = Array | np.ndarray
Levels = tuple[Float[Array, "b _h _w a f"], ...]  # logits of a head, finest level first


class Targets(NamedTuple):
    """The objects of a batch, padded to the same number for every image.

    Attributes:
      boxes: centre, width and height, each normalised by the size of the network's input.
      labels: class indices in `[0, classes)`.
      valid: which rows are objects; the others are padding, and their values mean nothing.
    """

    boxes: Float[AnyArray, "b m 4"]
    labels: Int[AnyArray, "b m"]
    valid: Bool[AnyArray, "b m"]


class Outputs(NamedTuple):
    """What a model returns: logits, one `[b, h, w, a, 5 + c]` array per level.

    The last axis is `tx ty tw th objectness class...`.

    Attributes:
      lead: the levels that predict, finest first.
      auxiliary: as many levels more from the auxiliary heads of P6 models in training; else `()`.
    """

    lead: Levels
    auxiliary: Levels = ()


class Assignment(NamedTuple):
    """Which object each candidate of a batch is to predict.

    n is static; candidates stand in the order that decides ties. Where `matched` is False the
    other fields are in range and mean nothing.

    Attributes:
      matched: whether the candidate is matched at all.
      object: the row of its object in `Targets`.
      level, anchor, row, column: which prediction it is.
    """

    matched: Bool[Array, "b n"]
    object: Int[Array, "b n"]
    level: Int[Array, "b n"]
    anchor: Int[Array, "b n"]
    row: Int[Array, "b n"]
    column: Int[Array, "b n"]


class LossTerms(NamedTuple):
    """The parts of a loss, for logging and for the balance.

    Attributes:
      box, obj, cls: the three terms after their gains, auxiliary heads included; their sum times
        the batch size is the total.
      obj_per_level: the lead's mean objectness loss before the balance.
      num_matched: the lead's matched candidates, repeated ones counted each time.
    """

    box: Float[Array, ""]
    obj: Float[Array, ""]
    cls: Float[Array, ""]
    obj_per_level: Float[Array, "l"]
    num_matched: Int[Array, "l"]


class Predictions(NamedTuple):
    """Decoded outputs, levels joined in (level, anchor, row, column) order.

    Attributes:
      boxes_xyxy: corners in input pixels, not clipped.
      objectness: in [0, 1].
      scores: objectness times class probability, in [0, 1].
    """

    boxes_xyxy: Float[Array, "b n 4"]
    objectness: Float[Array, "b n"]
    scores: Float[Array, "b n c"]


class Detections(NamedTuple):
    """What remains after NMS, best first, padded to the same number for every image.

    Attributes:
      boxes_xyxy: corners in input pixels; zeros where not valid.
      scores: in [0, 1]; zeros where not valid.
      labels: class indices; zeros where not valid.
      valid: which rows are detections.
    """

    boxes_xyxy: Float[AnyArray, "b k 4"]
    scores: Float[AnyArray, "b k"]
    labels: Int[AnyArray, "b k"]
    valid: Bool[AnyArray, "b k"]
