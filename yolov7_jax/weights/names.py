"""Which official key holds which tensor of a model.

The official checkpoints number their layers. So two tables are enough: the number of every block's
first layer, and the distance from there to each convolution of the block.
"""

import dataclasses

from flax import nnx

from yolov7_jax.model import Detector
from yolov7_jax.nn.blocks import ConvBnAct, Elan, SppCspTiny

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


def entries(model: Detector) -> list[Entry]:
    """Returns an entry for every parameter and statistic of a model, in the official order."""
    first = FIRST_LAYER[model.name]
    result = []
    for prefix, conv in conv_layers(model):
        result += [_kernel(f"{prefix}.conv.weight", conv.kernel)]
        result += norm_entries(f"{prefix}.bn", conv)
    layer = f"model.{first['detect']}"
    levels = list(enumerate(model.detect.levels))
    for i, level in levels:
        result += [_kernel(f"{layer}.m.{i}.weight", level.kernel)]
        result += [_flat(f"{layer}.m.{i}.bias", level.bias, level.bias.shape)]
    for i, level in levels:
        value = level.implicit_add
        result += [_flat(f"{layer}.ia.{i}.implicit", value, (1, value.shape[0], 1, 1))]
    for i, level in levels:
        value = level.implicit_multiply
        result += [_flat(f"{layer}.im.{i}.implicit", value, (1, value.shape[0], 1, 1))]
    return result


def conv_layers(model: Detector) -> list[tuple[str, ConvBnAct]]:
    """Returns every (official prefix, convolution block) of backbone and neck, in order."""
    first = FIRST_LAYER[model.name]
    layers = {}
    for part in ("backbone", "neck"):
        for name, start in first[part].items():
            block = getattr(getattr(model, part), name)
            layers |= {start + offset: conv for offset, conv in _offsets(block)}
    return [(f"model.{number}", layers[number]) for number in sorted(layers)]


def norm_entries(prefix: str, conv: ConvBnAct) -> list[Entry]:
    """Returns the entries of a block's batch norm."""
    norm = conv.norm
    names = {
        "weight": norm.scale,
        "bias": norm.bias,
        "running_mean": norm.mean,
        "running_var": norm.variance,
    }
    return [_flat(f"{prefix}.{name}", value, value.shape) for name, value in names.items()]


def _offsets(block: nnx.Module) -> list[tuple[int, ConvBnAct]]:
    """Returns a block's convolutions, each with its distance from the block's first layer."""
    match block:
        case ConvBnAct():
            return [(0, block)]
        case Elan():
            # A layer that joins the maps stands before the last convolution.
            chain = [(2 + i, conv) for i, conv in enumerate(block.chain)]
            return [(0, block.left), (1, block.right), *chain, (3 + len(chain), block.out)]
        case SppCspTiny():
            # Three pools and a join stand before `merge`, another join before `out`.
            return [(0, block.bypass), (1, block.reduce), (6, block.merge), (8, block.out)]
    raise TypeError(f"no official layers are known for a block of type {type(block).__name__}")


def _kernel(key: str, variable: nnx.Variable) -> Entry:
    height, width, features_in, features_out = variable.shape
    return Entry(key, variable, (features_out, features_in, height, width), (2, 3, 1, 0))


def _flat(key: str, variable: nnx.Variable, official_shape: tuple[int, ...]) -> Entry:
    return Entry(key, variable, official_shape, None)
