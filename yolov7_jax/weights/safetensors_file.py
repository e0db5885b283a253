"""Reads and writes safetensors files, with PyTorch's names and layout.

Besides the tensors such a file holds texts by name. Those understood here are `names` (a JSON list
of class names), `epoch`, `activation` and `anchors` (a JSON list `[levels][anchors][2]` in pixels).
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from yolov7_jax.weights.checkpoint import (
    MAX_ANCHOR_NUMBERS,
    Checkpoint,
    FormatError,
    anchors_in_pixels,
    naming_file,
    open_regular,
    quoted,
    without_wrapper,
)

DTYPES = {
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
    "BOOL": np.dtype(np.bool_),
}
MAX_NUMBER_LENGTH = 10  # of an epoch, in digits


def read_safetensors(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a safetensors file.

    Args:
      path: of the file; its content decides, not its name.

    Returns:
      The checkpoint; names, epoch, activation and anchors come from the file's texts, and anchors
      otherwise from the tensor that holds them.

    Raises:
      CheckpointError: the file cannot be opened, is damaged, or a text in it has another form.
      ImportError: safetensors is not installed.
    """
    safetensors = _import_safetensors()
    with naming_file(path):
        with open_regular(path) as file:
            data = file.read()
        try:
            entries = safetensors.deserialize(data)
        except (safetensors.SafetensorError, ValueError) as fault:
            raise FormatError(f"damaged safetensors file ({quoted(str(fault))})") from None
        header_size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + header_size]).get("__metadata__") or {}
        tensors = without_wrapper({name: _array(name, entry) for name, entry in entries})
        if not tensors:
            raise FormatError("holds no tensors")
        anchors = _anchors(metadata)
        return Checkpoint(
            tensors=tensors,
            names=_names(metadata),
            epoch=_epoch(metadata),
            anchors=anchors_in_pixels(tensors, None) if anchors is None else anchors,
            activation=metadata.get("activation"),
            metadata=metadata,
        )


def write_safetensors(
    tensors: Mapping[str, np.ndarray], path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file, whole or not at all: an existing one is replaced at the end.

    Args:
      tensors: name -> array of any type in `DTYPES`.
      path: of the file.
      metadata: texts to keep with them.

    Raises:
      ValueError: a tensor has a type that the format does not know.
      ImportError: safetensors is not installed.
      OSError: the file cannot be written.
    """
    safetensors = _import_safetensors()
    unknown = {name: array.dtype for name, array in tensors.items() if not _is_known(array.dtype)}
    if unknown:
        raise ValueError(f"safetensors files cannot hold these types: {unknown}")
    # In rows, without gaps, in little-endian order: as the format has them.
    plain = {name: np.asarray(array, _little(array.dtype), "C") for name, array in tensors.items()}
    path = Path(os.path.realpath(path))  # a link to the file stays a link
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.touch()
        usual_mode = unfinished.stat().st_mode  # the library lets nobody else read its files
        safetensors.numpy.save_file(plain, unfinished, dict(metadata))
        _sort_metadata(unfinished)
        unfinished.chmod(usual_mode)
        os.replace(unfinished, path)
    except safetensors.SafetensorError as fault:
        raise OSError(f"{path}: {fault}") from fault
    except OSError as fault:
        raise OSError(fault.errno, fault.strerror, str(path)) from fault
    finally:
        unfinished.unlink(missing_ok=True)


def _sort_metadata(path: Path) -> None:
    """Puts a file's texts in order: the library writes them in another one each time."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def _import_safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as fault:
        raise ImportError(
            "safetensors files need safetensors: pip install 'yolov7-jax[weights]'"
        ) from fault
    return safetensors


def _is_known(dtype: np.dtype) -> bool:
    return dtype.newbyteorder("=") in DTYPES.values()


def _little(dtype: np.dtype) -> np.dtype:
    return dtype if dtype == jnp.bfloat16 else dtype.newbyteorder("<")


def _array(name: str, entry: Mapping[str, Any]) -> np.ndarray:
    if entry["dtype"] not in DTYPES:
        raise FormatError(f"{quoted(name)} has the type {quoted(entry['dtype'])}, unknown here")
    if not name.isprintable():
        raise FormatError(f"a tensor has the unprintable name {quoted(name)}")
    array = np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    array.flags.writeable = False
    return array


def _names(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    if "names" not in metadata:
        return None
    names = _parsed(metadata, "names", "a JSON list of texts")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _wrong_text(metadata, "names", "a JSON list of texts")
    return tuple(names) or None


def _epoch(metadata: Mapping[str, str]) -> int | None:
    text = metadata.get("epoch")
    if text in (None, "", "-1"):
        return None
    if not text.isascii() or not text.isdigit() or len(text) > MAX_NUMBER_LENGTH:
        raise _wrong_text(metadata, "epoch", "a whole number")
    return int(text)


def _anchors(metadata: Mapping[str, str]) -> np.ndarray | None:
    if "anchors" not in metadata:
        return None
    wanted = "a JSON list [levels][anchors][2] of pixels"
    levels = _parsed(metadata, "anchors", wanted)
    try:
        anchors = np.asarray(levels, np.float32)
    except (ValueError, TypeError, OverflowError):
        raise _wrong_text(metadata, "anchors", wanted) from None
    if anchors.ndim != 3 or anchors.shape[2] != 2 or not 0 < anchors.size <= MAX_ANCHOR_NUMBERS:
        raise _wrong_text(metadata, "anchors", wanted)
    if not all(0 < side < math.inf for side in anchors.flat):
        raise _wrong_text(metadata, "anchors", wanted)
    return anchors


def _parsed(metadata: Mapping[str, str], key: str, wanted: str) -> Any:
    try:
        return json.loads(metadata[key])
    except (ValueError, RecursionError):
        raise _wrong_text(metadata, key, wanted) from None


def _wrong_text(metadata: Mapping[str, str], key: str, wanted: str) -> FormatError:
    verb = "are" if key.endswith("s") else "is"
    return FormatError(f"its {key} {verb} {quoted(metadata[key])}; wanted {wanted}")
