"""yolov7 and yolov7x: backbone and neck of three levels."""

import functools

from flax import nnx
from jaxtyping import Array, Float

from yolov7_jax.nn.blocks import (
    Build,
    ConvBnAct,
    Down,
    Elan,
    FeatureMap,
    Features,
    SppCsp,
    join,
    upsample,
)
from yolov7_jax.nn.rep import RepConv

P5_STRIDES = (8, 16, 32)
# Width and height in pixels, by level.
P5_ANCHORS = (  # of yolov7 and yolov7x
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)


class P5Backbone(nnx.Module):
    """From images to features of strides 8, 16 and 32.

    Attributes:
      stem0, stem1, stem2: 3x3 convolutions, of which `stem1` halves the image.
      down2: 3x3 convolution to stride 4.
      down3, down4, down5: to strides 8, 16 and 32.
      stage2, stage3, stage4, stage5: the aggregation blocks at strides 4, 8, 16 and 32.
    """

    def __init__(self, build: Build, *, channels: int, depth: int):
        """Makes a backbone.

        Args:
          build: as for the blocks.
          channels: of the first convolution; the others are multiples of it.
          depth: number of 3x3 convolutions in each stage.
        """
        conv, w, c = functools.partial(ConvBnAct, build), build.scaled, channels
        elan = functools.partial(Elan, build, depth=depth, keep_every=2)
        down = functools.partial(Down, build)
        self.stem0 = conv(3, w(c), 3)
        self.stem1 = conv(w(c), w(2 * c), 3, 2)
        self.stem2 = conv(w(2 * c), w(2 * c), 3)
        self.down2 = conv(w(2 * c), w(4 * c), 3, 2)
        self.stage2 = elan(w(4 * c), w(8 * c), branch=w(64), link=w(64))
        self.down3 = down(w(8 * c), 2 * w(4 * c), middle=w(4 * c))
        self.stage3 = elan(2 * w(4 * c), w(16 * c), branch=w(128), link=w(128))
        self.down4 = down(w(16 * c), 2 * w(8 * c), middle=w(8 * c))
        self.stage4 = elan(2 * w(8 * c), w(32 * c), branch=w(256), link=w(256))
        self.down5 = down(w(32 * c), 2 * w(16 * c), middle=w(16 * c))
        self.stage5 = elan(2 * w(16 * c), w(32 * c), branch=w(256), link=w(256))

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[FeatureMap, ...]:
        """Returns c3, c4, c5."""
        c1 = self.stem2(self.stem1(self.stem0(images)))
        c2 = self.stage2(self.down2(c1))
        c3 = self.stage3(self.down3(c2))
        c4 = self.stage4(self.down4(c3))
        c5 = self.stage5(self.down5(c4))
        return c3, c4, c5


class P5Neck(nnx.Module):
    """Mixes the levels, down to stride 8 and up again.

    Attributes:
      spp: pools the coarsest level.
      reduce5, reduce4: 1x1 convolutions before the doublings on the way to finer levels.
      lateral4, lateral3: 1x1 convolutions on the backbone's features.
      fine4, fine3: aggregation on the way to finer levels.
      down3, down4: halve height and width, double the channels.
      coarse4, coarse5: aggregation on the way back.
      out3, out4, out5: 3x3 convolutions before the head.
      widths, auxiliary_widths: numbers of channels of p3, p4 and p5, and of no auxiliary maps.
    """

    def __init__(
        self, build: Build, *, channels: int, depth: int, keep_every: int, reparameterised: bool
    ):
        """Makes a neck of what the backbone is made of, and of two things more.

        `keep_every`: 1 joins all convolutions of an aggregation, each half as wide as the branches;
        2 every second one, each as wide. `reparameterised`: p3, p4 and p5 come from a `RepConv`
        instead of a plain 3x3.
        """
        conv, w, c = functools.partial(ConvBnAct, build), build.scaled, channels
        down = functools.partial(Down, build)

        def aggregate(features_in: int, features_out: int, branch: int) -> Elan:
            widths = {"branch": w(branch), "link": w(branch // 2 * keep_every)}
            chain = {"depth": depth, "keep_every": keep_every}
            return Elan(build, features_in, features_out, **widths, **chain)

        def last(features_in: int, features_out: int) -> RepConv | ConvBnAct:
            if reparameterised:
                return RepConv(build, features_in, features_out)
            return conv(features_in, features_out, 3)

        self.spp = SppCsp(build, w(32 * c), w(16 * c))
        self.reduce5 = conv(w(16 * c), w(8 * c), 1)
        self.lateral4 = conv(w(32 * c), w(8 * c), 1)
        self.fine4 = aggregate(2 * w(8 * c), w(8 * c), 256)
        self.reduce4 = conv(w(8 * c), w(4 * c), 1)
        self.lateral3 = conv(w(16 * c), w(4 * c), 1)
        self.fine3 = aggregate(2 * w(4 * c), w(4 * c), 128)
        self.down3 = down(w(4 * c), 2 * w(4 * c), middle=w(4 * c))
        self.coarse4 = aggregate(2 * w(4 * c) + w(8 * c), w(8 * c), 256)
        self.down4 = down(w(8 * c), 2 * w(8 * c), middle=w(8 * c))
        self.coarse5 = aggregate(2 * w(8 * c) + w(16 * c), w(16 * c), 512)
        self.widths = (w(8 * c), w(16 * c), w(32 * c))
        self.auxiliary_widths = ()
        self.out3 = last(w(4 * c), self.widths[0])
        self.out4 = last(w(8 * c), self.widths[1])
        self.out5 = last(w(16 * c), self.widths[2])

    def __call__(self, c3: FeatureMap, c4: FeatureMap, c5: FeatureMap) -> Features:
        """Returns p3, p4, p5."""
        n5 = self.spp(c5)
        n4 = self.fine4(join(self.lateral4(c4), upsample(self.reduce5(n5))))
        n3 = self.fine3(join(self.lateral3(c3), upsample(self.reduce4(n4))))
        n4 = self.coarse4(join(self.down3(n3), n4))
        n5 = self.coarse5(join(self.down4(n4), n5))
        return Features((self.out3(n3), self.out4(n4), self.out5(n5)))
