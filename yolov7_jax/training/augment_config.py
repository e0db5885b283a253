"""How far training images are varied."""

import dataclasses

from yolov7_jax.errors import UserError

_LIMITS = {
    "degrees": 180.0,
    "translate": 0.5,
    "scale": 0.99,
    "shear": 80.0,
    "perspective": 0.001,
}


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How far training images are varied. The defaults are those for custom data.

    Attributes:
      mosaic: probability that a sample is a mosaic, of four images or, one time in five, nine.
      mixup: probability that a second mosaic is blended into a mosaic.
      copy_paste: share of a mosaic's objects that are repeated mirrored; only those with outlines.
      paste_in: probability that cut-outs of other images' objects are put on a sample; does
        nothing where the data set has no outlines.
      degrees: largest rotation, in degrees.
      translate: largest shift, as a fraction of the output's side; at most 0.5.
      scale: the zoom is uniform in [1 - scale, 1.1 + scale]; less than 1.
      shear: largest shear along each axis, in degrees.
      perspective: largest perspective coefficient, per pixel; useful values are up to 0.001.
      hsv_h: largest relative change of the hue; at most 1.
      hsv_s: of the saturation, likewise.
      hsv_v: of the value, likewise.
      fliplr: probability of mirroring left to right.
      flipud: probability of mirroring top to bottom.

    Raises:
      UserError: a value is out of its range; every one is named.
    """

    mosaic: float = 1.0
    mixup: float = 0.0
    copy_paste: float = 0.0
    paste_in: float = 0.0
    degrees: float = 0.0
    translate: float = 0.2
    scale: float = 0.5
    shear: float = 0.0
    perspective: float = 0.0
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    fliplr: float = 0.5
    flipud: float = 0.0

    def __post_init__(self):
        faults = []
        for field in dataclasses.fields(self):
            value, limit = getattr(self, field.name), _LIMITS.get(field.name, 1.0)
            if not 0 <= value <= limit:
                faults.append(f"{field.name} (={value}) must be between 0 and {limit:g}")
        if faults:
            raise UserError("; ".join(faults))
