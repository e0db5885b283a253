"""Writes files as `torch.save` does, without PyTorch: a dictionary of tensors by their names.

Such a file is a zip archive without compression: `data.pkl`, a pickle that describes the tensors,
and the numbers of each in an entry of its own. The pickle names an ordered dictionary and the
function that makes tensors, nothing else, so `torch.load(path, weights_only=True)` reads it.

Source: the layout of PyTorch's serialization, as its documentation describes it.
"""

import json
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from yolov7_jax.errors import UserError
from yolov7_jax.weights.torch_file import METADATA_FILE

FOLDER = "archive"  # PyTorch takes the folder of the first entry, whatever its name
VERSION = "3\n"  # of the layout
PROTOCOL = 2  # of the pickle: the only one that is read with weights_only
STORAGE = "FloatStorage"
ORDERED_DICT = pickle.GLOBAL + b"collections\nOrderedDict\n"
REBUILD_TENSOR = pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n"
EMPTY_ORDERED_DICT = ORDERED_DICT + pickle.EMPTY_TUPLE + pickle.REDUCE
LARGEST_INT = 2**31 - 1  # of the pickle operation for integers
ALIGNMENT = 64  # of numbers in the file, in bytes, so that it can be mapped into memory
HEADER_SIZE = 30  # of a zip entry, before its name
PADDING_FIELD = 0x4246  # what PyTorch calls the field that aligns an entry


def write_state_dict(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any], path: Path
) -> None:
    """Writes a state_dict.

    Args:
      tensors: name -> float32 array.
      metadata: what to keep beside the tensors, which JSON can hold. PyTorch skips it.
      path: of the file.

    Raises:
      UserError: an array has another type.
      OSError: the file cannot be written.
    """
    others = [name for name, array in tensors.items() if array.dtype != np.float32]
    if others:
        raise UserError(f"the tensors {', '.join(others)} must be float32 to be written")
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{FOLDER}/data.pkl", _pickled(tensors))
        archive.writestr(f"{FOLDER}/byteorder", "little")
        archive.writestr(f"{FOLDER}/{METADATA_FILE}", json.dumps(metadata, ensure_ascii=False))
        for number, array in enumerate(tensors.values()):
            entry = _aligned(f"{FOLDER}/data/{number}", file)
            archive.writestr(entry, np.asarray(array, "<f4", order="C").tobytes())
        archive.writestr(f"{FOLDER}/version", VERSION)


def _pickled(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Returns the pickle of an ordered dictionary of tensors; the i-th lies in storage i."""
    parts = [pickle.PROTO + bytes([PROTOCOL]), EMPTY_ORDERED_DICT, pickle.MARK]
    for number, (name, array) in enumerate(tensors.items()):
        shape = array.shape
        stride = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
        storage = [
            _text("storage"),
            pickle.GLOBAL + f"torch\n{STORAGE}\n".encode(),
            _text(str(number)),
            _text("cpu"),
            _whole(array.size),
        ]
        arguments = [
            _tuple(storage) + pickle.BINPERSID,
            _whole(0),  # where the tensor begins in its storage
            _tuple([_whole(length) for length in shape]),
            _tuple([_whole(step) for step in stride]),
            pickle.NEWFALSE,  # needs no gradient
            EMPTY_ORDERED_DICT,  # has no hooks
        ]
        parts += [_text(name), REBUILD_TENSOR, _tuple(arguments), pickle.REDUCE]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _tuple(items: Sequence[bytes]) -> bytes:
    return b"".join([pickle.MARK, *items, pickle.TUPLE])


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _whole(number: int) -> bytes:
    if number > LARGEST_INT:
        raise UserError(f"a tensor of {number:,} numbers is too large to be written")
    return pickle.BININT + struct.pack("<i", number)


def _aligned(name: str, file: BinaryIO) -> zipfile.ZipInfo:
    """Returns an entry whose bytes will begin at a multiple of `ALIGNMENT`."""
    entry = zipfile.ZipInfo(name)
    start = file.tell() + HEADER_SIZE + len(name) + 4  # the field's own head
    padding = -start % ALIGNMENT
    entry.extra = struct.pack("<HH", PADDING_FIELD, padding) + b"Z" * padding
    return entry
