"""yolov7-tiny: backbone and neck."""

import functools

from flax import nnx
from jaxtyping import Array, Float

from yolov7_jax.nn.blocks import Build, ConvBnAct, Elan, FeatureMap, SppCspTiny
from yolov7_jax.nn.p5 import P5Neck
from yolov7_jax.nn.pooling import max_pool

# Width and height in pixels, by level.
TINY_ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)


class TinyBackbone(nnx.Module):
    """From images to features of strides 8, 16 and 32.

    Attributes:
      stem, down: 3x3 convolutions of stride 2, to strides 2 and 4.
      stage2, stage3, stage4, stage5: the aggregation blocks at strides 4, 8, 16 and 32.
    """

    def __init__(self, build: Build):
        conv, w = functools.partial(ConvBnAct, build), build.scaled
        elan = functools.partial(Elan, build, depth=2, keep_every=1)
        self.stem = conv(3, w(32), 3, 2)
        self.down = conv(w(32), w(64), 3, 2)
        self.stage2 = elan(w(64), w(64), branch=w(32), link=w(32))
        self.stage3 = elan(w(64), w(128), branch=w(64), link=w(64))
        self.stage4 = elan(w(128), w(256), branch=w(128), link=w(128))
        self.stage5 = elan(w(256), w(512), branch=w(256), link=w(256))

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[FeatureMap, ...]:
        """Returns c3, c4, c5."""
        c2 = self.stage2(self.down(self.stem(images)))
        c3 = self.stage3(max_pool(c2, 2, 2))
        c4 = self.stage4(max_pool(c3, 2, 2))
        c5 = self.stage5(max_pool(c4, 2, 2))
        return c3, c4, c5


class TinyNeck(P5Neck):
    """The neck of yolov7 from smaller blocks: `down3` and `down4` are convolutions of stride 2."""

    def __init__(self, build: Build):
        conv, w = functools.partial(ConvBnAct, build), build.scaled
        elan = functools.partial(Elan, build, depth=2, keep_every=1)
        self.spp = SppCspTiny(build, w(512), w(256))
        self.reduce5 = conv(w(256), w(128), 1)
        self.lateral4 = conv(w(256), w(128), 1)
        self.fine4 = elan(2 * w(128), w(128), branch=w(64), link=w(64))
        self.reduce4 = conv(w(128), w(64), 1)
        self.lateral3 = conv(w(128), w(64), 1)
        self.fine3 = elan(2 * w(64), w(64), branch=w(32), link=w(32))
        self.down3 = conv(w(64), w(128), 3, 2)
        self.coarse4 = elan(2 * w(128), w(128), branch=w(64), link=w(64))
        self.down4 = conv(w(128), w(256), 3, 2)
        self.coarse5 = elan(2 * w(256), w(256), branch=w(128), link=w(128))
        self.out3 = conv(w(64), w(128), 3)
        self.out4 = conv(w(128), w(256), 3)
        self.out5 = conv(w(256), w(512), 3)
        self.widths = (w(128), w(256), w(512))
        self.auxiliary_widths = ()
