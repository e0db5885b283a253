"""A network of eight convolutions, for tests of what surrounds networks.

It has what the released ones have: batch norms, an aggregation, pooling, upsampling, joined maps,
and a head of three levels. A training step of it has a fifth of the arrays of yolov7-tiny, and
compiles in a third of the time.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

from flax import nnx

from yolov7_jax.model import ARCHITECTURES, Architecture
from yolov7_jax.nn.blocks import ConvBnAct, Elan, Features, join, leaky_relu, upsample
from yolov7_jax.nn.p5 import P5_STRIDES
from yolov7_jax.nn.pooling import max_pool
from yolov7_jax.nn.tiny import TINY_ANCHORS
from yolov7_jax.weights import official_keys

POCKET = "pocket"


class PocketBackbone(nnx.Module):
    def __init__(self, build):
        c2, c3, c4 = (build.scaled(channels) for channels in (64, 256, 384))
        self.stem = ConvBnAct(build, 3, c2, 3, 2)
        self.down = ConvBnAct(build, c2, c3, 3, 2)
        self.stage3 = Elan(build, c3, c3, branch=c2, link=c2, depth=1, keep_every=1)
        self.down4 = ConvBnAct(build, c3, c4, 3, 2)

    def __call__(self, images):
        c3 = self.stage3(max_pool(self.down(self.stem(images)), 2, 2))
        c4 = self.down4(c3)
        return c3, c4, max_pool(c4, 2, 2)


class PocketNeck(nnx.Module):
    def __init__(self, build):
        c3, c4 = (build.scaled(channels) for channels in (256, 384))
        self.out3 = ConvBnAct(build, c3 + c4, c3, 1)
        self.widths = (c3, c4, c4)
        self.auxiliary_widths = ()

    def __call__(self, c3, c4, c5):
        return Features((self.out3(join(c3, upsample(c4))), c4, c5))


ARCHITECTURE = Architecture(
    PocketBackbone, PocketNeck, P5_STRIDES, TINY_ANCHORS, image_size=64, activation=leaky_relu
)
# Layers of its own have pooling, upsampling, and the joining of maps.
FIRST_LAYER = {
    "backbone": {"stem": 0, "down": 1, "stage3": 3, "down4": 8},
    "neck": {"out3": 12},
    "detect": 13,
}


@contextlib.contextmanager
def pocket_known() -> Iterator[None]:
    """Lets everything that knows networks by name know this one."""
    with (
        mock.patch.dict(ARCHITECTURES, {POCKET: ARCHITECTURE}),
        mock.patch.dict(official_keys.FIRST_LAYER, {POCKET: FIRST_LAYER}),
    ):
        yield
