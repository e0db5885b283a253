"""Which official key holds which tensor of a model.

The official checkpoints number their layers. So two tables are enough: the number of every block's
first layer, and the distance from there to each convolution of the block.
"""

import dataclasses

from flax import nnx

from yolov7_jax.model import Yolov7
from yolov7_jax.nn.blocks import ConvAct, ConvBnAct, Down, Elan, ElanPair, SppCsp, SppCspTiny
from yolov7_jax.nn.head import ImplicitDetectLevel
from yolov7_jax.nn.norm import BatchNorm
from yolov7_jax.nn.p6 import DownC
from yolov7_jax.nn.rep import RepConv, RepConvFolded

FIRST_LAYER = {
    "yolov7-tiny": {
        "backbone": {
            "stem": 0,
            "down": 1,
            "stage2": 2,
            "stage3": 9,
            "stage4": 16,
            "stage5": 23,
        },
        "neck": {
            "spp": 29,
            "reduce5": 38,
            "lateral4": 40,
            "fine4": 42,
            "reduce4": 48,
            "lateral3": 50,
            "fine3": 52,
            "down3": 58,
            "coarse4": 60,
            "down4": 66,
            "coarse5": 68,
            "out3": 74,
            "out4": 75,
            "out5": 76,
        },
        "detect": 77,
    },
    "yolov7": {
        "backbone": {
            "stem0": 0,
            "stem1": 1,
            "stem2": 2,
            "down2": 3,
            "stage2": 4,
            "down3": 12,
            "stage3": 17,
            "down4": 25,
            "stage4": 30,
            "down5": 38,
            "stage5": 43,
        },
        "neck": {
            "spp": 51,
            "reduce5": 52,
            "lateral4": 54,
            "fine4": 56,
            "reduce4": 64,
            "lateral3": 66,
            "fine3": 68,
            "down3": 76,
            "coarse4": 81,
            "down4": 89,
            "coarse5": 94,
            "out3": 102,
            "out4": 103,
            "out5": 104,
        },
        "detect": 105,
    },
    "yolov7x": {
        "backbone": {
            "stem0": 0,
            "stem1": 1,
            "stem2": 2,
            "down2": 3,
            "stage2": 4,
            "down3": 14,
            "stage3": 19,
            "down4": 29,
            "stage4": 34,
            "down5": 44,
            "stage5": 49,
        },
        "neck": {
            "spp": 59,
            "reduce5": 60,
            "lateral4": 62,
            "fine4": 64,
            "reduce4": 74,
            "lateral3": 76,
            "fine3": 78,
            "down3": 88,
            "coarse4": 93,
            "down4": 103,
            "coarse5": 108,
            "out3": 118,
            "out4": 119,
            "out5": 120,
        },
        "detect": 121,
    },
    "yolov7-w6": {
        "backbone": {
            "stem": 1,
            "down2": 2,
            "stage2": 3,
            "down3": 11,
            "stage3": 12,
            "down4": 20,
            "stage4": 21,
            "down5": 29,
            "stage5": 30,
            "down6": 38,
            "stage6": 39,
        },
        "neck": {
            "spp": 47,
            "reduce6": 48,
            "lateral5": 50,
            "fine5": 52,
            "reduce5": 60,
            "lateral4": 62,
            "fine4": 64,
            "reduce4": 72,
            "lateral3": 74,
            "fine3": 76,
            "down3": 84,
            "coarse4": 86,
            "down4": 94,
            "coarse5": 96,
            "down5": 104,
            "coarse6": 106,
            "out3": 114,
            "out4": 115,
            "out5": 116,
            "out6": 117,
            "auxiliary": 118,
        },
        "detect": 122,
    },
    "yolov7-e6": {
        "backbone": {
            "stem": 1,
            "down2": 2,
            "stage2": 3,
            "down3": 13,
            "stage3": 14,
            "down4": 24,
            "stage4": 25,
            "down5": 35,
            "stage5": 36,
            "down6": 46,
            "stage6": 47,
        },
        "neck": {
            "spp": 57,
            "reduce6": 58,
            "lateral5": 60,
            "fine5": 62,
            "reduce5": 72,
            "lateral4": 74,
            "fine4": 76,
            "reduce4": 86,
            "lateral3": 88,
            "fine3": 90,
            "down3": 100,
            "coarse4": 102,
            "down4": 112,
            "coarse5": 114,
            "down5": 124,
            "coarse6": 126,
            "out3": 136,
            "out4": 137,
            "out5": 138,
            "out6": 139,
            "auxiliary": 140,
        },
        "detect": 144,
    },
    "yolov7-d6": {
        "backbone": {
            "stem": 1,
            "down2": 2,
            "stage2": 3,
            "down3": 15,
            "stage3": 16,
            "down4": 28,
            "stage4": 29,
            "down5": 41,
            "stage5": 42,
            "down6": 54,
            "stage6": 55,
        },
        "neck": {
            "spp": 67,
            "reduce6": 68,
            "lateral5": 70,
            "fine5": 72,
            "reduce5": 84,
            "lateral4": 86,
            "fine4": 88,
            "reduce4": 100,
            "lateral3": 102,
            "fine3": 104,
            "down3": 116,
            "coarse4": 118,
            "down4": 130,
            "coarse5": 132,
            "down5": 144,
            "coarse6": 146,
            "out3": 158,
            "out4": 159,
            "out5": 160,
            "out6": 161,
            "auxiliary": 162,
        },
        "detect": 166,
    },
    "yolov7-e6e": {
        "backbone": {
            "stem": 1,
            "down2": 2,
            "stage2": 3,
            "down3": 24,
            "stage3": 25,
            "down4": 46,
            "stage4": 47,
            "down5": 68,
            "stage5": 69,
            "down6": 90,
            "stage6": 91,
        },
        "neck": {
            "spp": 112,
            "reduce6": 113,
            "lateral5": 115,
            "fine5": 117,
            "reduce5": 138,
            "lateral4": 140,
            "fine4": 142,
            "reduce4": 163,
            "lateral3": 165,
            "fine3": 167,
            "down3": 188,
            "coarse4": 190,
            "down4": 211,
            "coarse5": 213,
            "down5": 234,
            "coarse6": 236,
            "out3": 257,
            "out4": 258,
            "out5": 259,
            "out6": 260,
            "auxiliary": 261,
        },
        "detect": 265,
    },
}


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
    axes: tuple[int, ...] | None


def entries(model: Yolov7) -> list[Entry]:
    """Returns an entry for every parameter and statistic of a model, in the official order."""
    result = []
    for prefix, block in _convolutions(model):
        match block:
            case ConvBnAct():
                result += [_kernel(f"{prefix}.conv.weight", block.kernel)]
                result += _norm_entries(f"{prefix}.bn", block.norm)
            case RepConvFolded():
                result += [_kernel(f"{prefix}.rbr_reparam.weight", block.kernel)]
                result += [_flat(f"{prefix}.rbr_reparam.bias", block.bias)]
            case ConvAct():
                result += [_kernel(f"{prefix}.conv.weight", block.kernel)]
                result += [_flat(f"{prefix}.conv.bias", block.bias)]
            case RepConv():
                if block.norm0 is not None:
                    result += _norm_entries(f"{prefix}.rbr_identity", block.norm0)
                result += [_kernel(f"{prefix}.rbr_dense.0.weight", block.kernel3)]
                result += _norm_entries(f"{prefix}.rbr_dense.1", block.norm3)
                result += [_kernel(f"{prefix}.rbr_1x1.0.weight", block.kernel1)]
                result += _norm_entries(f"{prefix}.rbr_1x1.1", block.norm1)
    return result + _head_entries(model)


def norms(model: Yolov7) -> list[tuple[str, BatchNorm]]:
    """Returns every (official prefix, batch norm) of a model, in the official order."""
    result = []
    for prefix, block in _convolutions(model):
        match block:
            case ConvBnAct():
                result += [(f"{prefix}.bn", block.norm)]
            case RepConv():
                if block.norm0 is not None:
                    result += [(f"{prefix}.rbr_identity", block.norm0)]
                result += [(f"{prefix}.rbr_dense.1", block.norm3)]
                result += [(f"{prefix}.rbr_1x1.1", block.norm1)]
    return result


def head_prefix(model: Yolov7) -> str:
    """Returns the official prefix of the head's tensors."""
    return f"model.{head_layer(model.name, deployed=model.deployed)}"


def head_layer(name: str, *, deployed: bool) -> int:
    """Returns the number of the head's layer, the last one.

    The official deployed models have no layers before the auxiliary heads, so their head comes
    earlier.
    """
    first = FIRST_LAYER[name]
    return first["neck"].get("auxiliary", first["detect"]) if deployed else first["detect"]


def _head_entries(model: Yolov7) -> list[Entry]:
    prefix = head_prefix(model)
    result = []
    for kind, levels in (("m", model.detect.levels), ("m2", model.detect.auxiliary)):
        for i, level in enumerate(levels):
            result += [_kernel(f"{prefix}.{kind}.{i}.weight", level.kernel)]
            result += [_flat(f"{prefix}.{kind}.{i}.bias", level.bias)]
    implicit = [level for level in model.detect.levels if isinstance(level, ImplicitDetectLevel)]
    for i, level in enumerate(implicit):
        result += [_implicit(f"{prefix}.ia.{i}.implicit", level.implicit_add)]
    for i, level in enumerate(implicit):
        result += [_implicit(f"{prefix}.im.{i}.implicit", level.implicit_multiply)]
    return result


def _convolutions(model: Yolov7) -> list[tuple[str, nnx.Module]]:
    """Returns every (official prefix, convolution) of backbone and neck, in the official order."""
    first = FIRST_LAYER[model.name]
    layers = []
    for part in ("backbone", "neck"):
        for name, start in first[part].items():
            layers += _offsets(getattr(getattr(model, part), name), start)
    layers.sort(key=lambda layer: layer[0])
    return [(f"model.{number}{inside}", block) for number, inside, block in layers]


def _offsets(block: nnx.Module, start: int) -> list[tuple[int, str, nnx.Module]]:
    """Returns a block's convolutions: the number of the layer, what follows it in the key, which.

    Args:
      block: any part of backbone or neck.
      start: the number of the block's first layer.
    """
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


def _norm_entries(prefix: str, norm: BatchNorm) -> list[Entry]:
    names = {
        "weight": norm.scale,
        "bias": norm.bias,
        "running_mean": norm.mean,
        "running_var": norm.variance,
    }
    return [_flat(f"{prefix}.{name}", variable) for name, variable in names.items()]


def _kernel(key: str, variable: nnx.Variable) -> Entry:
    height, width, features_in, features_out = variable.shape
    return Entry(key, variable, (features_out, features_in, height, width), (2, 3, 1, 0))


def _flat(key: str, variable: nnx.Variable) -> Entry:
    return Entry(key, variable, variable.shape, None)


def _implicit(key: str, variable: nnx.Variable) -> Entry:
    return Entry(key, variable, (1, variable.shape[0], 1, 1), None)
