"""The convolutions of a deployed model as nodes of ONNX, which has channels first.

The networks' wiring is written here a second time: from the traced program it would have to be
guessed which of its reshapes and slices were once a max-pool or an upsampling.
"""

import numpy as np
from flax import nnx

from yolov7_jax.errors import UserError
from yolov7_jax.export.onnx.onnx_graph import Graph
from yolov7_jax.model import Yolov7
from yolov7_jax.nn.blocks import (
    POOL_SIZES,
    Activation,
    ConvAct,
    Down,
    Elan,
    ElanPair,
    SppCsp,
    SppCspTiny,
    leaky_relu,
    silu,
)
from yolov7_jax.nn.head import DetectLevel
from yolov7_jax.nn.p5 import P5Backbone, P5Neck
from yolov7_jax.nn.p6 import P6Backbone, P6Neck
from yolov7_jax.nn.tiny import TinyBackbone
from yolov7_jax.weights.convert import to_official
from yolov7_jax.weights.official_keys import entries

LEAKY_RELU_SLOPE = 0.1


def add_network(graph: Graph, model: Yolov7, images: str) -> list[str]:
    """Adds a model up to its head's convolutions.

    Weights have their official names, and nodes the official names of their layers.

    Args:
      graph: the nodes are added to it.
      model: deployed.
      images: a value `[b, 3, h, w]`, RGB in [0, 1].

    Returns:
      logits `[b, a * f, h / stride, w / stride]`, one value per level.

    Raises:
      UserError: a block or activation is of no known kind.
    """
    walk = _Walk(graph, model)
    features = walk.features(model, images)
    return [walk.conv(level, x) for level, x in zip(model.detect.levels, features, strict=True)]


class _Walk:
    """Adds the nodes of modules; every method takes and gives names of values."""

    def __init__(self, graph: Graph, model: Yolov7):
        self.graph = graph
        self.keys = {id(entry.variable): entry.key for entry in entries(model)}
        tensors = to_official(model)
        for key in self.keys.values():
            graph.constant(tensors[key], np.float32, name=key)

    def features(self, model: Yolov7, images: str) -> list[str]:
        """Adds backbone and neck; returns what the head sees, finest first."""
        match model.backbone:
            case TinyBackbone():
                maps = self.tiny_backbone(model.backbone, images)
            case P5Backbone():
                stem = (model.backbone.stem0, model.backbone.stem1, model.backbone.stem2)
                maps = self.stages(model.backbone, self.chain(images, *stem), coarsest=5)
            case P6Backbone():
                x = self.block(model.backbone.stem, self.space_to_depth(images))
                maps = self.stages(model.backbone, x, coarsest=6)
            case _:
                raise _unknown(model.backbone)
        return self.neck(model.neck, maps)

    def tiny_backbone(self, backbone: TinyBackbone, x: str) -> dict[int, str]:
        """Returns the maps c3, c4 and c5 by their numbers."""
        x = self.chain(x, backbone.stem, backbone.down, backbone.stage2)
        maps = {}
        for level, stage in enumerate((backbone.stage3, backbone.stage4, backbone.stage5), 3):
            x = maps[level] = self.block(stage, self.pool(x, 2, 2))
        return maps

    def stages(self, backbone: nnx.Module, x: str, *, coarsest: int) -> dict[int, str]:
        """Returns the maps c3, c4 ... by their numbers."""
        maps = {}
        for level in range(2, coarsest + 1):
            down, stage = (getattr(backbone, f"{kind}{level}") for kind in ("down", "stage"))
            x = maps[level] = self.chain(x, down, stage)
        del maps[2]  # no neck uses it
        return maps

    def neck(self, neck: P5Neck | P6Neck, maps: dict[int, str]) -> list[str]:
        """Mixes the maps c3, c4 ...; all necks do it alike."""

        def part(kind: str, level: int) -> nnx.Module:
            return getattr(neck, f"{kind}{level}")

        finest, coarsest = min(maps), max(maps)
        mixed = {coarsest: self.block(neck.spp, maps[coarsest])}
        for level in range(coarsest - 1, finest - 1, -1):
            lateral = self.block(part("lateral", level), maps[level])
            coarser = self.block(part("reduce", level + 1), mixed[level + 1])
            joined = self.join(lateral, self.upsample(coarser))
            mixed[level] = self.block(part("fine", level), joined)
        for level in range(finest, coarsest):
            joined = self.join(self.block(part("down", level), mixed[level]), mixed[level + 1])
            mixed[level + 1] = self.block(part("coarse", level + 1), joined)
        return [self.block(part("out", level), mixed[level]) for level in sorted(mixed)]

    def chain(self, x: str, *blocks: nnx.Module) -> str:
        for block in blocks:
            x = self.block(block, x)
        return x

    def block(self, block: nnx.Module, x: str) -> str:
        match block:
            case ConvAct():
                return self.activation(block.activation, self.conv(block, x))
            case Elan():
                left, right = self.block(block.left, x), self.block(block.right, x)
                links = [right]
                for conv in block.chain:
                    links.append(self.block(conv, links[-1]))
                kept = links[: 0 : -block.keep_every]
                return self.block(block.out, self.join(*kept, right, left))
            case ElanPair():
                pair = [self.block(block.first, x), self.block(block.second, x)]
                return self.graph.add("Add", pair)
            case Down():
                pooled = self.block(block.pooled, self.pool(x, 2, 2))
                return self.join(self.chain(x, block.reduce, block.conv), pooled)
            case SppCsp():
                squeezed = self.chain(x, block.reduce, block.mix, block.squeeze)
                pools = [self.pool(squeezed, size, 1) for size in POOL_SIZES]
                merged = self.chain(self.join(squeezed, *pools), block.merge, block.out_mix)
                return self.block(block.out, self.join(merged, self.block(block.bypass, x)))
            case SppCspTiny():
                reduced = self.block(block.reduce, x)
                pools = [self.pool(reduced, size, 1) for size in reversed(POOL_SIZES)]
                merged = self.block(block.merge, self.join(*pools, reduced))
                return self.block(block.out, self.join(merged, self.block(block.bypass, x)))
        raise _unknown(block)

    def conv(self, conv: ConvAct | DetectLevel, x: str) -> str:
        weight, bias = self.keys[id(conv.kernel)], self.keys[id(conv.bias)]
        size = conv.kernel.shape[0]
        window = _window(size, conv.stride if isinstance(conv, ConvAct) else 1, size // 2)
        name = weight.removesuffix(".weight")
        return self.graph.add("Conv", [x, weight, bias], window, name=name)

    def activation(self, activation: Activation, x: str) -> str:
        if activation is silu:
            return self.graph.add("Mul", [x, self.graph.add("Sigmoid", [x])])
        if activation is leaky_relu:
            return self.graph.add("LeakyRelu", [x], {"alpha": LEAKY_RELU_SLOPE})
        raise UserError(f"the activation {activation!r} cannot be written as ONNX")

    def pool(self, x: str, size: int, stride: int) -> str:
        window = _window(size, stride, size // 2 if stride == 1 else 0)
        return self.graph.add("MaxPool", [x], window)

    def join(self, *maps: str) -> str:
        return self.graph.add("Concat", maps, {"axis": 1})

    def upsample(self, x: str) -> str:
        scales = self.graph.constant([1, 1, 2, 2], np.float32)
        attributes = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        return self.graph.add("Resize", [x, "", scales], attributes)

    def space_to_depth(self, x: str) -> str:
        """Makes channels of the four cells of every 2x2, in the order of the JAX model.

        ONNX's own operator has the second and the third the other way round.
        """
        end, axes, steps = (
            self.graph.constant(value, np.int64) for value in ([2**31 - 1] * 2, [2, 3], [2, 2])
        )
        parts = [
            self.graph.add("Slice", [x, self.graph.constant(start, np.int64), end, axes, steps])
            for start in ([0, 0], [1, 0], [0, 1], [1, 1])
        ]
        return self.join(*parts)


def _window(size: int, stride: int, pad: int) -> dict[str, list[int]]:
    return {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [pad] * 4}


def _unknown(module: nnx.Module) -> ValueError:
    return ValueError(f"a block of type {type(module).__name__} cannot be written as ONNX")
