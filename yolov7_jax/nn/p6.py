"""yolov7-w6, e6, d6 and e6e: backbone and neck of four levels, with auxiliary maps."""

import functools

from flax import nnx
from jaxtyping import Array, Float

from yolov7_jax.nn.blocks import (
    Build,
    ConvBnAct,
    Down,
    Elan,
    ElanPair,
    FeatureMap,
    Features,
    SppCsp,
    join,
    space_to_depth,
    upsample,
)

P6_STRIDES = (8, 16, 32, 64)
# Width and height in pixels, by level.
P6_ANCHORS = (  # of yolov7-w6, e6, d6 and e6e
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)


class DownC(Down):
    """The form of `Down` whose `reduce` keeps the number of channels."""


class P6Backbone(nnx.Module):
    """From images to features of strides 8, 16, 32 and 64.

    Attributes:
      stem: 3x3 convolution of the image, after every 2x2 of its cells became channels.
      down2, down3, down4, down5, down6: to strides 4, 8, 16, 32 and 64.
      stage2, stage3, stage4, stage5, stage6: the aggregation blocks at these strides.
    """

    def __init__(self, build: Build, *, channels: int, depth: int, pooled: bool, paired: bool):
        """Makes a backbone.

        Args:
          build: as for the blocks.
          channels: of the first convolution; most others are multiples of it.
          depth: number of 3x3 convolutions in each aggregation.
          pooled: halve maps by `DownC` instead of a 3x3 convolution.
          paired: two aggregations side by side.
        """
        conv, w, c = functools.partial(ConvBnAct, build), build.scaled, channels
        down = functools.partial(_down, build, pooled)

        elan = functools.partial(Elan, build, depth=depth, keep_every=2)

        def aggregate(features: int, branch: int) -> Elan | ElanPair:
            block = functools.partial(elan, features, features, branch=branch, link=branch)
            return ElanPair(block(), block()) if paired else block()

        self.stem = conv(12, w(c), 3)
        self.down2 = down(w(c), w(2 * c))
        self.stage2 = aggregate(w(2 * c), w(64))
        self.down3 = down(w(2 * c), w(4 * c))
        self.stage3 = aggregate(w(4 * c), w(128))
        self.down4 = down(w(4 * c), w(8 * c))
        self.stage4 = aggregate(w(8 * c), w(256))
        self.down5 = down(w(8 * c), w(12 * c))
        self.stage5 = aggregate(w(12 * c), w(384))
        self.down6 = down(w(12 * c), w(16 * c))
        self.stage6 = aggregate(w(16 * c), w(512))

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[FeatureMap, ...]:
        """Returns c3, c4, c5, c6."""
        c1 = self.stem(space_to_depth(images))
        c2 = self.stage2(self.down2(c1))
        c3 = self.stage3(self.down3(c2))
        c4 = self.stage4(self.down4(c3))
        c5 = self.stage5(self.down5(c4))
        c6 = self.stage6(self.down6(c5))
        return c3, c4, c5, c6


class P6Neck(nnx.Module):
    """Mixes the levels, down to stride 8 and up again.

    Attributes:
      spp, reduce6 ... out6: as in `P5Neck`, with a level more.
      auxiliary: 3x3 convolutions before the auxiliary heads, on the maps of the way to finer
        levels, finest first; none in a deployed model.
      deterministic: whether to leave the auxiliary maps out; `train()` and `eval()` of a model
        set it.
      widths, auxiliary_widths: numbers of channels of p3 to p6 and of the auxiliary maps.
    """

    def __init__(
        self,
        build: Build,
        *,
        channels: int,
        depth: int,
        pooled: bool,
        paired: bool,
        auxiliary_channels: int,
    ):
        """Makes a neck of what the backbone is made of.

        `auxiliary_channels` are a quarter of the channels of the finest auxiliary map.
        """
        conv, w, c = functools.partial(ConvBnAct, build), build.scaled, channels
        down = functools.partial(_down, build, pooled)

        elan = functools.partial(Elan, build, depth=depth, keep_every=1)

        def aggregate(features: int, branch: int) -> Elan | ElanPair:
            widths = {"branch": w(branch), "link": w(branch // 2)}
            block = functools.partial(elan, 2 * features, features, **widths)
            return ElanPair(block(), block()) if paired else block()

        self.spp = SppCsp(build, w(16 * c), w(8 * c))
        self.reduce6 = conv(w(8 * c), w(6 * c), 1)
        self.lateral5 = conv(w(12 * c), w(6 * c), 1)
        self.fine5 = aggregate(w(6 * c), 384)
        self.reduce5 = conv(w(6 * c), w(4 * c), 1)
        self.lateral4 = conv(w(8 * c), w(4 * c), 1)
        self.fine4 = aggregate(w(4 * c), 256)
        self.reduce4 = conv(w(4 * c), w(2 * c), 1)
        self.lateral3 = conv(w(4 * c), w(2 * c), 1)
        self.fine3 = aggregate(w(2 * c), 128)
        self.down3 = down(w(2 * c), w(4 * c))
        self.coarse4 = aggregate(w(4 * c), 256)
        self.down4 = down(w(4 * c), w(6 * c))
        self.coarse5 = aggregate(w(6 * c), 384)
        self.down5 = down(w(6 * c), w(8 * c))
        self.coarse6 = aggregate(w(8 * c), 512)
        self.widths = (w(4 * c), w(8 * c), w(12 * c), w(16 * c))
        self.out3 = conv(w(2 * c), self.widths[0], 3)
        self.out4 = conv(w(4 * c), self.widths[1], 3)
        self.out5 = conv(w(6 * c), self.widths[2], 3)
        self.out6 = conv(w(8 * c), self.widths[3], 3)
        a = auxiliary_channels
        self.auxiliary_widths = (w(4 * a), w(8 * a), w(12 * a), w(16 * a))
        widths_in = (w(2 * c), w(4 * c), w(6 * c), w(8 * c))
        pairs = zip(widths_in, self.auxiliary_widths, strict=True)
        self.auxiliary = nnx.List([conv(*pair, 3) for pair in pairs])
        self.deterministic = False

    def __call__(self, c3: FeatureMap, c4: FeatureMap, c5: FeatureMap, c6: FeatureMap) -> Features:
        """Returns p3, p4, p5, p6, and in training four maps more for the auxiliary heads."""
        a6 = n6 = self.spp(c6)
        n5, a5 = _fine(self.fine5, join(self.lateral5(c5), upsample(self.reduce6(n6))))
        n4, a4 = _fine(self.fine4, join(self.lateral4(c4), upsample(self.reduce5(n5))))
        n3, a3 = _fine(self.fine3, join(self.lateral3(c3), upsample(self.reduce4(n4))))
        n4 = self.coarse4(join(self.down3(n3), n4))
        n5 = self.coarse5(join(self.down4(n4), n5))
        n6 = self.coarse6(join(self.down5(n5), n6))
        lead = (self.out3(n3), self.out4(n4), self.out5(n5), self.out6(n6))
        auxiliary = () if self.deterministic else self.auxiliary
        maps = (a3, a4, a5, a6)[: len(auxiliary)]
        return Features(lead, tuple(conv(x) for conv, x in zip(auxiliary, maps, strict=True)))


def _down(build: Build, pooled: bool, features_in: int, features_out: int) -> DownC | ConvBnAct:
    """Returns what halves height and width."""
    if pooled:
        return DownC(build, features_in, features_out, middle=features_in)
    return ConvBnAct(build, features_in, features_out, 3, 2)


def _fine(block: Elan | ElanPair, x: FeatureMap) -> tuple[FeatureMap, FeatureMap]:
    """Returns what goes on and what the auxiliary head sees: of a pair, the second map alone."""
    if isinstance(block, ElanPair):
        second = block.second(x)
        return block.first(x) + second, second
    y = block(x)
    return y, y
