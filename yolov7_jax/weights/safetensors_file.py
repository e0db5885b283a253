"""Reads and writes safetensors files, with PyTorch's names and layout.

Such a file is the length of a header, the header in JSON, and the tensors' bytes without gaps.
Besides the tensors it holds texts by name. Those understood here are `names` (a JSON list of class
names), `epoch`, `image_size`, `activation` and `anchors` (a JSON list `[levels][anchors][2]` in
pixels).

Source: the format's description, https://github.com/huggingface/safetensors.
"""

import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from yolov7_jax.weights.contents import (
    Checkpoint,
    FormatError,
    naming_file,
    open_regular,
    quoted,
    without_wrapper,
)
from yolov7_jax.weights.facts import (
    MAX_EPOCH,
    MAX_IMAGE_SIZE,
    anchors_from_lists,
    anchors_in_pixels,
    class_names,
    is_unicode,
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
TEXTS = "__metadata__"  # the header's key for texts
ALIGNMENT = 8  # of the first tensor, in bytes
# A JSON text can take some 40 times its length in memory.
MAX_HEADER_BYTES = 2**23  # some ten times what the largest model takes
MAX_ENTRIES = 100_000  # tensors, and texts; the largest model has about 5,000 tensors
MAX_DIMENSIONS = 32


def read_safetensors(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a safetensors file.

    Args:
      path: of the file; its content decides, not its name.

    Returns:
      The checkpoint; names, epoch, image size, activation and anchors come from the file's texts,
      and anchors otherwise from the tensor that holds them.

    Raises:
      CheckpointError: the file cannot be opened, is damaged, or a text in it has another form.
    """
    with naming_file(path):
        with open_regular(path) as file:
            tensors, texts = _read(file)
        if not tensors:
            raise FormatError("holds no tensors")
        tensors = without_wrapper(tensors)
        anchors = None
        if "anchors" in texts:
            anchors = anchors_from_lists(_parsed(texts, "anchors"))
        return Checkpoint(
            tensors=tensors,
            names=class_names(_parsed(texts, "names")) if "names" in texts else None,
            epoch=_number(texts, "epoch", MAX_EPOCH),
            image_size=_number(texts, "image_size", MAX_IMAGE_SIZE + 1) or None,
            anchors=anchors_in_pixels(tensors, None) if anchors is None else anchors,
            activation=texts.get("activation"),
            metadata=texts,
        )


def write_safetensors(
    tensors: Mapping[str, np.ndarray], path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file, whole or not at all: an existing one is replaced at the end.

    What was written is read back and compared, byte for byte, before it gets its name. The same
    tensors and texts give the same bytes.

    Args:
      tensors: name -> array of any type in `DTYPES`.
      path: of the file.
      metadata: texts to keep with them.

    Raises:
      ValueError: the format cannot hold a tensor or a text.
      OSError: the file cannot be written, or did not keep what was written.
    """
    tensors, texts = dict(tensors), dict(sorted(metadata.items()))
    _refuse_unwritable(tensors, texts)
    # In rows, without gaps, in little-endian order: as the format has them. The widest types come
    # first, so that every tensor is aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    plain = {name: _as_stored(tensors[name]) for name in order}
    path = Path(os.path.realpath(path))  # a link to the file stays a link
    # Not named after the file, whose name may be as long as names can be.
    unfinished = path.with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        with unfinished.open("xb") as file:
            file.write(_header(plain, texts))
            for array in plain.values():
                file.write(array.tobytes())
            file.flush()
            os.fsync(file.fileno())
        _verify(unfinished, plain, texts)
        os.replace(unfinished, path)
    except FormatError as fault:
        raise OSError(f"{path}: was not written as it should be ({fault})") from None
    except OSError as fault:
        raise OSError(fault.errno, fault.strerror, str(path)) from fault
    finally:
        unfinished.unlink(missing_ok=True)


def _read(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns a file's tensors, in the order of their bytes, and its texts by name."""
    file_size = os.fstat(file.fileno()).st_size
    header_size = int.from_bytes(file.read(8), "little")
    if file_size < 8 + header_size:
        raise FormatError("damaged safetensors file (it ends within its header)")
    if header_size > MAX_HEADER_BYTES:
        raise FormatError(f"its header has {header_size:,} bytes, more than {MAX_HEADER_BYTES:,}")
    header = _parsed_header(file.read(header_size))
    texts = header.pop(TEXTS, {})
    _check_texts(texts)
    if len(header) > MAX_ENTRIES:
        raise FormatError(f"has {len(header):,} tensors; wanted at most {MAX_ENTRIES:,}")
    layouts = {name: _layout(name, entry) for name, entry in header.items()}
    # By its end too: a tensor without bytes may begin where another does.
    names = sorted(layouts, key=lambda name: layouts[name][2:])
    position = 0
    for name in names:
        _, _, start, stop = layouts[name]
        if start != position:
            raise FormatError(f"damaged safetensors file ({quoted(name)} is not after the last)")
        position = stop
    if 8 + header_size + position != file_size:
        raise FormatError(
            f"damaged safetensors file (its tensors have {position:,} bytes, "
            f"and {file_size - header_size - 8:,} are there)"
        )
    data = file.read(position)
    tensors = {}
    for name in names:
        dtype, shape, start, _ = layouts[name]
        tensors[name] = np.ndarray(shape, dtype, data, start)
    return tensors, texts


def _parsed_header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as fault:
        raise FormatError(f"damaged safetensors file ({quoted(str(fault))})") from None
    if not isinstance(header, dict):
        raise FormatError("damaged safetensors file (its header is no JSON object)")
    return header


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise FormatError("a key of its header comes twice")
    return result


def _check_texts(texts: Any) -> None:
    if not isinstance(texts, dict) or len(texts) > MAX_ENTRIES:
        raise FormatError(f"damaged safetensors file (its {TEXTS} is no object, or too large)")
    for name, text in texts.items():
        if not isinstance(text, str) or not is_unicode(name) or not is_unicode(text):
            raise FormatError(f"its {quoted(name)} is no text")


def _layout(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Returns a tensor's type and shape, and where its bytes start and stop."""
    if not name.isprintable():
        raise FormatError(f"a tensor has the unprintable name {quoted(name)}")
    match entry:
        case {"dtype": str() as kind, "shape": list() as shape, "data_offsets": [start, stop]}:
            numbers = (*shape, start, stop)
        case _:
            raise FormatError(f"damaged safetensors file (at {quoted(name)})")
    if kind not in DTYPES:
        raise FormatError(f"{quoted(name)} has the type {quoted(kind)}, unknown here")
    sound = len(shape) <= MAX_DIMENSIONS
    sound = sound and all(type(number) is int and 0 <= number < 2**48 for number in numbers)
    # Without the zeros, since numpy counts an empty array's other axes too.
    if not sound or math.prod(max(side, 1) for side in shape) >= 2**48:
        raise FormatError(f"{quoted(name)} has an impossible shape or place")
    if stop - start != math.prod(shape) * DTYPES[kind].itemsize:
        raise FormatError(f"{quoted(name)} has {stop - start:,} bytes, not those of its shape")
    return DTYPES[kind], tuple(shape), start, stop


def _number(texts: Mapping[str, str], key: str, limit: int) -> int | None:
    text = texts.get(key)
    if text in (None, "", "-1"):
        return None
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(limit))
    if not digits or int(text) >= limit:
        raise FormatError(f"its {key} is {quoted(text)}; wanted an integer")
    return int(text)


def _parsed(texts: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(texts[key])
    except (ValueError, RecursionError):
        raise FormatError(f"its {key} are {quoted(texts[key])}; wanted a JSON list") from None


def _refuse_unwritable(tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
    """Raises a ValueError that names everything that the format cannot hold."""
    faults = [
        f"the tensor {quoted(name)} has the type {array.dtype}"
        for name, array in tensors.items()
        if array.dtype.newbyteorder("=") not in DTYPES.values()
    ]
    faults += [
        f"the tensor {quoted(name)} has an impossible name"
        for name in tensors
        if not name.isprintable() or name == TEXTS
    ]
    faults += [
        f"the text {quoted(name)} is {text!r:.80}"
        for name, text in texts.items()
        if not isinstance(text, str) or not is_unicode(name) or not is_unicode(text)
    ]
    if faults:
        raise ValueError(f"a safetensors file cannot hold this: {'; '.join(faults)}")


def _as_stored(array: np.ndarray) -> np.ndarray:
    dtype = array.dtype
    return np.asarray(array, dtype if dtype == jnp.bfloat16 else dtype.newbyteorder("<"), "C")


def _header(tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> bytes:
    """Returns what stands before the tensors' bytes, which follow in the order given."""
    header: dict[str, Any] = {TEXTS: texts} if texts else {}
    codes = {dtype: code for code, dtype in DTYPES.items()}
    position = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": codes[array.dtype.newbyteorder("=")],
            "shape": array.shape,
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _verify(path: Path, tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
    """Raises a FormatError if a file does not hold exactly these tensors and texts."""
    with open_regular(path) as file:
        found, found_texts = _read(file)
    if found_texts != texts or found.keys() != tensors.keys():
        raise FormatError("its header is another one")
    for name, array in tensors.items():
        again = found[name]
        same = again.shape == array.shape and again.dtype == array.dtype.newbyteorder("=")
        # Bytes, since a NaN is never equal to itself.
        if not same or again.tobytes() != array.tobytes():
            raise FormatError(f"{quoted(name)} is another one")
