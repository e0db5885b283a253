"""Finds the tensors and the facts about a model in what a checkpoint's pickle holds."""

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeGuard

from yolov7_jax.weights.checkpoint_contents import FormatError, quoted, without_wrapper
from yolov7_jax.weights.model_metadata import MAX_CLASSES, MAX_EPOCH, class_names
from yolov7_jax.weights.pickle_allowlist import Instance, StoredTensor

# Modules can contain each other in a circle or share children exponentially often.
MAX_ENTRIES = 100_000  # modules, parameters and buffers; the largest model has about 5,000
MAX_KEY_LENGTH = 512
ACTIVATION_HOME = "torch.nn.modules.activation"
NO_LAYER_ACTIVATIONS = ("Sigmoid", "Softmax", "MultiheadAttention")  # parts of heads and others
LEAKY_RELU = "LeakyReLU"
LEAKY_RELU_SLOPE = 0.1
WRAPPERS = ("DataParallel", "DistributedDataParallel")


@dataclasses.dataclass(frozen=True)
class PickledModel:
    """What `Checkpoint` will hold, with tensors that are not read yet.

    Attributes:
      tensors, ema, names, epoch, activation: as in `Checkpoint`.
      strides: `[levels]`, where the pickled module has them.
    """

    tensors: dict[str, StoredTensor]
    ema: dict[str, StoredTensor] | None
    names: tuple[str, ...] | None
    epoch: int | None
    activation: str | None
    strides: StoredTensor | None


def find_model(value: Any) -> PickledModel:
    """Understands the forms in which a model is saved.

    These are a dict with `model` and perhaps `ema`, each a module or a state_dict; a dict with
    `state_dict`; a module; and a state_dict. Wrappers for several devices are looked through.

    Args:
      value: of a pickle.

    Raises:
      FormatError: it is none of these, or not a sound one.
    """
    model, ema, top = value, None, {}
    if isinstance(value, dict):
        if _holds_weights(value.get("model")) or _holds_weights(value.get("ema")):
            model, ema, top = value.get("model"), value.get("ema"), value
            model = ema if model is None else model
        elif _holds_weights(value.get("state_dict")):
            model, top = value["state_dict"], value
    elif not _is_module(value):
        raise FormatError(
            f"holds {_described(value)}; wanted an official checkpoint, a module or a state_dict"
        )
    modules = [_unwrapped(module) for module in (model, ema) if _is_module(module)]
    states = [module.state for module in modules]
    named = (_names(state.get("names")) for state in (*states, top))
    strides = (state.get("stride") for state in states)
    return PickledModel(
        tensors=_tensors(model, "model"),
        ema=None if ema is None else _tensors(ema, "ema"),
        names=next((names for names in named if names), None),
        epoch=_epoch(top.get("epoch")),
        activation=_activation(modules),
        strides=next((stride for stride in strides if isinstance(stride, StoredTensor)), None),
    )


def _is_module(value: Any) -> TypeGuard[Instance]:
    return (
        isinstance(value, Instance)
        and isinstance(value.state, dict)
        and isinstance(value.state.get("_modules"), dict)
    )


def _holds_weights(value: Any) -> bool:
    return isinstance(value, dict) or _is_module(value)


def _described(value: Any) -> str:
    if isinstance(value, Instance):
        return f"an object of {quoted(value.cls.path)}"
    kind = type(value).__name__
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _unwrapped(module: Instance) -> Instance:
    inner = module.state["_modules"].get("module")
    return inner if module.cls.name in WRAPPERS and _is_module(inner) else module


def _tensors(value: Any, role: str) -> dict[str, StoredTensor]:
    if _is_module(value):
        entries = _state_dict(value)
    elif isinstance(value, dict):
        entries = value.items()
    else:
        raise FormatError(f"{role} is {_described(value)}; wanted a module or a state_dict")
    tensors = {}
    for key, tensor in entries:
        if not isinstance(key, str) or not key.isprintable() or len(key) > MAX_KEY_LENGTH:
            raise FormatError(f"a tensor of {role} has an impossible name")
        if not isinstance(tensor, StoredTensor):
            raise FormatError(f"{quoted(key)} is {_described(tensor)}, not a tensor")
        if key in tensors:
            raise FormatError(f"two tensors have the name {quoted(key)}")
        if len(tensors) >= MAX_ENTRIES:
            raise FormatError(f"{role} has more than {MAX_ENTRIES:,} tensors")
        tensors[key] = tensor
    if not tensors:
        raise FormatError(f"{role} holds no tensors")
    return without_wrapper(tensors)


def _state_dict(module: Instance) -> Iterator[tuple[str, Any]]:
    """Yields what PyTorch's `module.state_dict()` would hold, in its order."""
    for prefix, part in _walk(module):
        transient = part.state.get("_non_persistent_buffers_set")
        transient = transient if isinstance(transient, set) else set()
        for name, tensor in _children(part.state, "_parameters"):
            if tensor is not None:
                yield prefix + name, tensor
        for name, tensor in _children(part.state, "_buffers"):
            if tensor is not None and name not in transient:
                yield prefix + name, tensor


def _walk(module: Instance) -> Iterator[tuple[str, Instance]]:
    """Yields (key prefix, module) for the module and those inside it, parents first."""
    waiting, entries = [("", module)], 0
    while waiting:
        prefix, current = waiting.pop()
        yield prefix, current
        children = _children(current.state, "_modules")
        entries += 1 + len(children)
        entries += sum(len(_children(current.state, kind)) for kind in ("_parameters", "_buffers"))
        if entries > MAX_ENTRIES:
            raise FormatError(f"the model has more than {MAX_ENTRIES:,} modules and tensors")
        for name, child in reversed(children):
            if child is None:
                continue
            if not _is_module(child):
                raise FormatError(f"{quoted(prefix + name)} is {_described(child)}, not a module")
            # The length bounds the depth too, and with it a circle of modules.
            if len(prefix) + len(name) >= MAX_KEY_LENGTH:
                raise FormatError(f"the model is nested too deeply at {quoted(prefix)}")
            waiting.append((f"{prefix}{name}.", child))


def _children(state: dict, kind: str) -> list[tuple[str, Any]]:
    children = state.get(kind, {})
    if not isinstance(children, dict):
        raise FormatError(f"a module's {kind} is {_described(children)}, not a dictionary")
    if len(children) > MAX_ENTRIES or not all(isinstance(name, str) for name in children):
        raise FormatError(f"a module's {kind} has too many or impossible names")
    return list(children.items())


def _names(value: Any) -> tuple[str, ...] | None:
    """Class names are a list or map each label to a name; anything else is no list of names."""
    if isinstance(value, dict):
        value = [value.get(label) for label in range(len(value))]
    if not isinstance(value, list | tuple):
        return None
    # Where a data set names its classes by numbers, PyTorch keeps them as such.
    numbers = range(MAX_CLASSES)
    return class_names("names", [str(v) if type(v) is int and v in numbers else v for v in value])


def _epoch(value: Any) -> int | None:
    """Files for release have the epoch -1."""
    return value if type(value) is int and 0 <= value < MAX_EPOCH else None


def _activation(modules: list[Instance]) -> str | None:
    """Returns the class of all layers' activations, or None where the modules don't tell."""
    found = set()
    for prefix, part in (pair for module in modules for pair in _walk(module)):
        in_place = prefix == "act." or prefix.endswith(".act.")
        by_class = part.cls.module == ACTIVATION_HOME
        if in_place or (by_class and part.cls.name not in NO_LAYER_ACTIVATIONS):
            found.add(_activation_name(part))
    if len(found) > 1:
        listed = ", ".join(map(quoted, sorted(found)[:3]))
        raise FormatError(f"has {len(found)} activations ({listed}); wanted the same in all layers")
    return found.pop() if found else None


def _activation_name(part: Instance) -> str:
    slope = part.state.get("negative_slope", LEAKY_RELU_SLOPE)
    if part.cls.name != LEAKY_RELU or slope == LEAKY_RELU_SLOPE:
        return part.cls.name
    return f"{LEAKY_RELU} of slope {slope}" if type(slope) is float else f"damaged {LEAKY_RELU}"
