"""What pickled objects become that are no containers or scalars, and which names they may have.

Nothing here is looked up in the real packages: the tables are lists of texts.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

STORAGE_DTYPES = {
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "CharStorage": np.dtype(np.int8),
    "ShortStorage": np.dtype(np.int16),
    "IntStorage": np.dtype(np.int32),
    "LongStorage": np.dtype(np.int64),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
DTYPE_NAMES = ("float16", "bfloat16", "float32", "float64", "half", "float", "double")
# Modules that hold storage classes.
STORAGE_HOMES = ("torch", "torch.cuda", "torch.storage")
# Packages whose classes become inert records: the model's own code and PyTorch's modules.
INERT_PACKAGES = ("models", "utils", "torch.nn", "torch.optim", "torchvision.ops")
NUMPY_CORES = ("numpy.core", "numpy._core")
BUILTINS = ("__builtin__", "builtins")
# What is not only recorded: the interpreter makes tensors and containers of it.
CALLED = {
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch.nn.parameter", "Parameter"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    *((module, name) for module in BUILTINS for name in ("set", "frozenset")),
}
# Everything else that training checkpoints name, by module.
INERT_NAMES = {
    "_codecs": {"encode"},
    "argparse": {"Namespace"},
    "collections": {"Counter"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath"},
    "pathlib._local": {"Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath"},
    "torch": {"device", "Tensor", "memory_format", "contiguous_format", *DTYPE_NAMES},
    "numpy": {"ndarray", "dtype", "bool_", "float16", "float32", "float64", "int32", "int64"},
    "numpy.dtypes": {"Float16DType", "Float32DType", "Float64DType", "Int32DType", "Int64DType"},
    **{f"{core}.multiarray": {"_reconstruct", "scalar"} for core in NUMPY_CORES},
    **{f"{core}.numeric": {"_frombuffer"} for core in NUMPY_CORES},
    **{module: {"dict", "list", "bytearray", "complex", "slice"} for module in BUILTINS},
}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Global:
    """The name of a class or function, which is never looked up."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """The module and the name, joined."""
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Instance:
    """What a pickle says about an object of a class that is not a container or tensor.

    Attributes:
      cls: the class, or the function that would have made the object.
      args: what it would have been called with.
      state: the object's attributes, a dict as a rule; None where it has none.
    """

    cls: Global
    args: tuple
    state: Any = None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of numbers that lies elsewhere in the file.

    Attributes:
      key: its name in the file.
      dtype: of the numbers.
      numel: how many there are.
      view: first number and count of the part that is meant; None for all.
    """

    key: str
    dtype: np.dtype
    numel: int
    view: tuple[Any, Any] | None = None


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class StoredTensor:
    """A tensor as the file describes it, not checked yet: every field but the first may be wrong.

    Attributes:
      storage: where its numbers lie.
      offset: of the first number in the storage, in numbers.
      size, stride: per axis, the stride in numbers.
    """

    storage: Storage
    offset: Any
    size: Any
    stride: Any


def is_inert(module: str, name: str) -> bool:
    """Says whether a class or function is known to occur in checkpoints, as an inert record."""
    if name in INERT_NAMES.get(module, ()):
        return True
    if module in STORAGE_HOMES:
        return name in STORAGE_DTYPES
    in_package = any(module == home or module.startswith(f"{home}.") for home in INERT_PACKAGES)
    return in_package and name.isidentifier()  # a dotted name could reach through a module
