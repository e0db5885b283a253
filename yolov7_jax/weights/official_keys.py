"""Which official key holds which tensor of a model.

The official checkpoints number their layers. So two tables are enough: the number of every block's
first layer, and the distance from there to each convolution of the block.
"""

import dataclasses
from typing import Any

from flax import nnx

from yolov7_jax.model import Form, Yolov7
from yolov7_jax.nn.blocks import ConvAct, ConvBnAct, Down, Elan, ElanPair, SppCsp, SppCspTiny
from yolov7_jax.nn.head import ImplicitDetectLevel
from yolov7_jax.nn.norm import BatchNorm
from yolov7_jax.nn.p6 import DownC
from yolov7_jax.nn.rep import RepConv, RepConvFolded

# The blocks of backbone and neck by their names in the modules.
TINY_BACKBONE = "stem down stage2 stage3 stage4 stage5"
P5_BACKBONE = "stem0 stem1 stem2 down2 stage2 down3 stage3 down4 stage4 down5 stage5"
P5_NECK = (
    "spp reduce5 lateral4 fine4 reduce4 lateral3 fine3 down3 coarse4 down4 coarse5 out3 out4 out5"
)
P6_BACKBONE = "stem down2 stage2 down3 stage3 down4 stage4 down5 stage5 down6 stage6"
P6_NECK = (
    "spp reduce6 lateral5 fine5 reduce5 lateral4 fine4 reduce4 lateral3 fine3 down3 coarse4 down4 "
    "coarse5 down5 coarse6 out3 out4 out5 out6 auxiliary"
)
# Model -> its blocks, and the number of each block's first layer; the last one is the head's.
BLOCKS = {
    "yolov7-tiny": (TINY_BACKBONE, P5_NECK),
    **dict.fromkeys(("yolov7", "yolov7x"), (P5_BACKBONE, P5_NECK)),
    **dict.fromkeys(("yolov7-w6", "yolov7-e6", "yolov7-d6", "yolov7-e6e"), (P6_BACKBONE, P6_NECK)),
}
BACKBONE_LAYERS = {
    "yolov7-tiny": "0 1 2 9 16 23",
    "yolov7": "0 1 2 3 4 12 17 25 30 38 43",
    "yolov7x": "0 1 2 3 4 14 19 29 34 44 49",
    "yolov7-w6": "1 2 3 11 12 20 21 29 30 38 39",
    "yolov7-e6": "1 2 3 13 14 24 25 35 36 46 47",
    "yolov7-d6": "1 2 3 15 16 28 29 41 42 54 55",
    "yolov7-e6e": "1 2 3 24 25 46 47 68 69 90 91",
}
NECK_AND_HEAD_LAYERS = {
    "yolov7-tiny": "29 38 40 42 48 50 52 58 60 66 68 74 75 76 77",
    "yolov7": "51 52 54 56 64 66 68 76 81 89 94 102 103 104 105",
    "yolov7x": "59 60 62 64 74 76 78 88 93 103 108 118 119 120 121",
    "yolov7-w6": "47 48 50 52 60 62 64 72 74 76 84 86 94 96 104 106 114 115 116 117 118 122",
    "yolov7-e6": "57 58 60 62 72 74 76 86 88 90 100 102 112 114 124 126 136 137 138 139 140 144",
    "yolov7-d6": "67 68 70 72 84 86 88 100 102 104 116 118 130 132 144 146 158 159 160 161 162 166",
    "yolov7-e6e": (
        "112 113 115 117 138 140 142 163 165 167 188 190 211 213 234 236 257 258 259 260 261 265"
    ),
}


def _first_layers(name: str) -> dict[str, Any]:
    """Returns the numbers of blocks' first layers, by the part of the model and the block."""
    backbone, neck = BLOCKS[name]
    *in_neck, head = map(int, NECK_AND_HEAD_LAYERS[name].split())
    in_backbone = map(int, BACKBONE_LAYERS[name].split())
    return {
        "backbone": dict(zip(backbone.split(), in_backbone, strict=True)),
        "neck": dict(zip(neck.split(), in_neck, strict=True)),
        "detect": head,
    }


FIRST_LAYER = {name: _first_layers(name) for name in BLOCKS}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of the official checkpoint.

    Attributes:
      key: the official key.
      variable: where the tensor lives in the model.
      official_shape: its shape in the official layout.
      axes: the permutation from the official layout to ours; None where ours is the same numbers
        in a flat row.
    """

    key: str
    variable: nnx.Variable
    official_shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None


def entries(model: Yolov7) -> list[Entry]:
    """Returns an entry for every parameter and statistic of a model, in the official order."""
    result = []
    for key, part in _parts(model):
        if isinstance(part, BatchNorm):
            result += [
                _entry(f"{key}.weight", part.scale),
                _entry(f"{key}.bias", part.bias),
                _entry(f"{key}.running_mean", part.mean),
                _entry(f"{key}.running_var", part.variance),
            ]
        else:
            result.append(_entry(key, part))
    return result


def norms(model: Yolov7) -> list[tuple[str, BatchNorm]]:
    """Returns every (official prefix, batch norm) of a model, in the official order."""
    return [(key, part) for key, part in _parts(model) if isinstance(part, BatchNorm)]


def _entry(key: str, variable: nnx.Variable) -> Entry:
    if len(variable.shape) == 4:
        height, width, features_in, features_out = variable.shape
        return Entry(key, variable, (features_out, features_in, height, width), (2, 3, 1, 0))
    if key.endswith(".implicit"):
        return Entry(key, variable, (1, variable.shape[0], 1, 1))
    return Entry(key, variable, variable.shape)


def head_prefix(model: Yolov7) -> str:
    """Returns the official prefix of the head's tensors."""
    return f"model.{head_layer(model.name, model.form)}"


def head_layer(name: str, form: Form) -> int:
    """Returns the number of the head's layer, the last one.

    The official models for inference have no layers before the auxiliary heads, so their head
    comes earlier.
    """
    first = FIRST_LAYER[name]
    last = first["detect"]
    return last if form == "training" else first["neck"].get("auxiliary", last)


def _parts(model: Yolov7) -> list[tuple[str, nnx.Variable | BatchNorm]]:
    """Returns all parameters and norms with their official keys, in the official order."""
    parts = []
    for prefix, block in _convolutions(model):
        match block:
            case ConvBnAct():
                named = {"conv.weight": block.kernel, "bn": block.norm}
            case RepConvFolded():
                named = {"rbr_reparam.weight": block.kernel, "rbr_reparam.bias": block.bias}
            case ConvAct():
                named = {"conv.weight": block.kernel, "conv.bias": block.bias}
            case _:
                named = {} if block.norm0 is None else {"rbr_identity": block.norm0}
                named |= {"rbr_dense.0.weight": block.kernel3, "rbr_dense.1": block.norm3}
                named |= {"rbr_1x1.0.weight": block.kernel1, "rbr_1x1.1": block.norm1}
        parts += [(f"{prefix}.{name}", part) for name, part in named.items()]
    head = head_prefix(model)
    for kind, levels in (("m", model.detect.levels), ("m2", model.detect.auxiliary)):
        for i, level in enumerate(levels):
            parts += [(f"{head}.{kind}.{i}.weight", level.kernel)]
            parts += [(f"{head}.{kind}.{i}.bias", level.bias)]
    implicit = [level for level in model.detect.levels if isinstance(level, ImplicitDetectLevel)]
    parts += [(f"{head}.ia.{i}.implicit", x.implicit_add) for i, x in enumerate(implicit)]
    parts += [(f"{head}.im.{i}.implicit", x.implicit_multiply) for i, x in enumerate(implicit)]
    return parts


def _convolutions(model: Yolov7) -> list[tuple[str, Any]]:
    """Returns every (official prefix, convolution) of backbone and neck, in the official order."""
    first = FIRST_LAYER[model.name]
    layers = []
    for part in ("backbone", "neck"):
        for name, start in first[part].items():
            layers += _offsets(getattr(getattr(model, part), name), start)
    layers.sort(key=lambda layer: layer[0])
    return [(f"model.{number}{inside}", block) for number, inside, block in layers]


def _offsets(block: nnx.Module, start: int) -> list[tuple[int, str, Any]]:
    """Returns a block's convolutions: number of the layer, what follows it in the key, module."""
    match block:
        case ConvBnAct() | ConvAct() | RepConv():
            return [(start, "", block)]
        case nnx.List():
            return [(start + i, "", conv) for i, conv in enumerate(block)]
        case Elan():
            # A layer that joins the maps stands before the last convolution.
            convs = [block.left, block.right, *block.chain, None, block.out]
            return [(start + i, "", conv) for i, conv in enumerate(convs) if conv is not None]
        case ElanPair():
            first = _offsets(block.first, start)
            return first + _offsets(block.second, first[-1][0] + 1)
        case DownC():
            convs = [block.reduce, block.conv, block.pooled]
            return [(start, f".cv{i}", conv) for i, conv in enumerate(convs, 1)]
        case Down():
            # The pool is the first layer.
            convs = [block.pooled, block.reduce, block.conv]
            return [(start + i, "", conv) for i, conv in enumerate(convs, 1)]
        case SppCsp():
            convs = [block.reduce, block.bypass, block.mix, block.squeeze, block.merge]
            convs += [block.out_mix, block.out]
            return [(start, f".cv{i}", conv) for i, conv in enumerate(convs, 1)]
        case SppCspTiny():
            # Three pools and a join stand before `merge`, another join before `out`.
            convs = {0: block.bypass, 1: block.reduce, 6: block.merge, 8: block.out}
            return [(start + i, "", conv) for i, conv in convs.items()]
    raise TypeError(f"no official layers are known for a block of type {type(block).__name__}")
