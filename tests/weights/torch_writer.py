"""Writes files as `torch.save` does, without PyTorch, from numpy arrays and made-up classes."""

import dataclasses
import functools
import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np

STORAGE_NAMES = {
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.int8): "CharStorage",
    np.dtype(np.int16): "ShortStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
}
MAGIC = 0x1950A86A20F9469CFC6C


@dataclasses.dataclass(frozen=True)
class Name:
    """A class or function that needs not exist."""

    module: str
    name: str

    def __call__(self):
        raise NotImplementedError  # pickle wants something callable


@functools.cache
def named(module, name):
    return Name(module, name)


@functools.cache
def fake_class(module, name):
    return type(name, (), {"__module__": module})


@dataclasses.dataclass(eq=False)
class Call:
    """Pickled as the call of a function."""

    function: Name
    args: tuple


@dataclasses.dataclass(eq=False)
class Storage:
    numbers: np.ndarray
    view_of: "Storage | None" = None  # only the older format
    view_start: int = 0


@dataclasses.dataclass(eq=False)
class Tensor:
    storage: Storage
    size: tuple
    stride: tuple
    offset: int = 0


def tensor(array):
    """A tensor with a storage of its own, laid out like the array."""
    array = np.asarray(array, order="C")
    stride = tuple(step // array.itemsize for step in array.strides)
    return Tensor(Storage(array.reshape(-1)), array.shape, stride)


def module(path, parameters=(), buffers=(), modules=(), transient=(), **attributes):
    """An object of a class `package.Class` with the attributes of PyTorch's modules."""
    home, _, name = path.rpartition(".")
    instance = fake_class(home, name)()
    instance.__dict__.update(
        training=False,
        _parameters=OrderedDict(parameters),
        _buffers=OrderedDict(buffers),
        _non_persistent_buffers_set=set(transient),
        _modules=OrderedDict(modules),
        **attributes,
    )
    return instance


class _Pickler(pickle._Pickler):
    def __init__(self, stream, protocol, persistent_id):
        super().__init__(stream, protocol)
        self.persistent_id = persistent_id

    def reducer_override(self, value):
        if isinstance(value, Name):
            return value.name
        if isinstance(value, Call):
            return value.function, value.args
        if isinstance(value, Tensor):
            args = (value.storage, value.offset, value.size, value.stride, False, OrderedDict())
            return named("torch._utils", "_rebuild_tensor_v2"), args
        return NotImplemented

    def save_global(self, value, name=None):
        home = value.module if isinstance(value, Name) else value.__module__
        name = name or value.__name__
        if self.proto >= 4:
            self.save(home)
            self.save(name)
            self.write(pickle.STACK_GLOBAL)
        else:
            home = {"builtins": "__builtin__"}.get(home, home)
            self.write(pickle.GLOBAL + f"{home}\n{name}\n".encode())
        self.memoize(value)

    # The parent's functions would look the class up.
    dispatch = {**pickle._Pickler.dispatch, type: save_global}  # noqa: RUF012 - as in its parent


def _storage_keys(value_keys):
    """Returns a persistent_id function that numbers the storages and remembers them."""
    keys: dict[int, str] = {}
    storages: dict[str, Storage] = {}

    def key(storage):
        if id(storage) not in keys:
            keys[id(storage)] = str(len(keys) + value_keys)
            storages[keys[id(storage)]] = storage
        return keys[id(storage)]

    return key, storages


def dumps(value, protocol=2):
    """Pickles for the zip format. Returns the pickle, and key -> storage."""
    key, storages = _storage_keys(0)

    def persistent_id(item):
        if not isinstance(item, Storage):
            return None
        kind = named("torch", STORAGE_NAMES[item.numbers.dtype])
        return ("storage", kind, key(item), "cpu", item.numbers.size)

    stream = io.BytesIO()
    _Pickler(stream, protocol, persistent_id).dump(value)
    return stream.getvalue(), storages


def zip_bytes(entries, folder="archive"):
    """Puts entries into an archive as torch.save does: stored, in one folder."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(f"{folder}/{name}", data)
    return stream.getvalue()


def torch_zip(value, protocol=2, byteorder="little"):
    """The bytes of a file in the zip format."""
    pickled, storages = dumps(value, protocol)
    entries = {"data.pkl": pickled, "byteorder": byteorder.encode()}
    for key, storage in storages.items():
        entries[f"data/{key}"] = _swapped(storage.numbers, byteorder)
    return zip_bytes({**entries, "version": b"3\n"})


def _swapped(numbers, byteorder):
    if byteorder == "big":
        numbers = numbers.view(f"u{numbers.itemsize}").byteswap()
    return numbers.tobytes()


def torch_older(value, protocol=2):
    """The bytes of a file in the format before the zip, written on a little-endian machine."""
    key, storages = _storage_keys(94_000_000)
    wrapped = set()

    def persistent_id(item):
        if isinstance(item, type) and item.__module__.startswith("models") and item not in wrapped:
            wrapped.add(item)
            return ("module", item, f"{item.__module__}.py", "class Text: ...")
        if not isinstance(item, Storage):
            return None
        root = item.view_of or item
        kind = named("torch", STORAGE_NAMES[root.numbers.dtype])
        view = None
        if item.view_of is not None:
            view = (f"{key(root)}-{item.view_start}", item.view_start, item.numbers.size)
        return ("storage", kind, key(root), "cpu", root.numbers.size, view)

    stream = io.BytesIO()
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    for header in (MAGIC, 1001, system):
        pickle.dump(header, stream, protocol)
    _Pickler(stream, protocol, persistent_id).dump(value)
    pickle.dump(sorted(storages), stream, protocol)
    for _, storage in sorted(storages.items()):
        stream.write(struct.pack("<q", storage.numbers.size) + storage.numbers.tobytes())
    return stream.getvalue()
