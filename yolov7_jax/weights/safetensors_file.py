"""Reads and writes safetensors files, with PyTorch's names and layout.

What such a file says about its model is JSON under one key of the format's own metadata: the
library writes several keys in random order, and equal models are to give equal bytes.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.numpy

from yolov7_jax.files import replacing
from yolov7_jax.model import Yolov7
from yolov7_jax.weights.checkpoint_contents import (
    Checkpoint,
    FormatError,
    naming_file,
    open_regular,
    quoted,
    without_wrapper,
)
from yolov7_jax.weights.convert import to_official
from yolov7_jax.weights.model_metadata import (
    anchors_in_pixels,
    describe_model,
    parsed_metadata,
    with_metadata,
)

METADATA_KEY = "yolov7_jax"
TEXTS = "__metadata__"  # the header's key for texts
TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
DAMAGE = (safetensors.SafetensorError, json.JSONDecodeError, UnicodeDecodeError, RecursionError)
# The library takes headers of 100 MB, which as JSON have some 40 times that in memory.
MAX_HEADER_BYTES = 2**23  # some ten times what the largest model takes
MAX_TENSORS = 100_000  # the largest model has about 5,000


def read_safetensors(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a safetensors file.

    Args:
      path: of the file; its content decides, not its name.

    Returns:
      The checkpoint. What it says about the model comes from the metadata that `save_safetensors`
      writes, and the anchors otherwise from the tensor that holds them.

    Raises:
      CheckpointError: the file cannot be opened, is damaged, or its metadata are of another form.
    """
    with naming_file(path):
        try:
            with open_regular(path) as file:
                header = _header(file)
            # Mapped into memory, a file that somebody shortens would end the process.
            with safetensors.safe_open(path, "numpy", backend="pread") as opened:
                texts = opened.metadata() or {}
                _refuse_unreadable(header)
                tensors = opened.get_tensors()
        except DAMAGE as fault:
            text = str(fault).removeprefix("Error while deserializing header: ")
            raise FormatError(f"damaged safetensors file ({quoted(text)})") from None
        for array in tensors.values():
            array.flags.writeable = False
        tensors = without_wrapper(tensors)
        checkpoint = Checkpoint(tensors, anchors=anchors_in_pixels(tensors), metadata=texts)
        if METADATA_KEY not in texts:
            return checkpoint
        return with_metadata(checkpoint, parsed_metadata(texts[METADATA_KEY]))


def save_safetensors(
    model: Yolov7,
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    epoch: int | None = None,
    image_size: int | None = None,
) -> None:
    """Writes a model as safetensors, in PyTorch's names and layout.

    Equal models, names and numbers give equal bytes.

    Args:
      model: any model, in any form.
      path: of the file, replaced if it exists.
      names: of the classes, to be kept in the file.
      epoch: the last one trained, likewise.
      image_size: the longer side of the images that it was trained with, in pixels, likewise.

    Raises:
      ValueError: the names are not texts, one for each class; the epoch or the image size is no
        integer; or the model's activation has no name.
      OSError: the file cannot be written, or does not hold what was written.
    """
    metadata = describe_model(model, names, epoch=epoch, image_size=image_size)
    write_safetensors(to_official(model), path, metadata)


def write_safetensors(
    tensors: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a safetensors file, whole or not at all, and reads it back before it gets its name.

    Args:
      tensors: name -> array.
      path: of the file, replaced if it exists.
      metadata: what to say about the model, which JSON can hold.

    Raises:
      OSError: the file cannot be written, or does not hold what was written.
    """
    # In rows and without gaps: of other layouts the library writes the memory, not the values.
    plain = {
        name: np.asarray(array, array.dtype.newbyteorder("="), "C")
        for name, array in tensors.items()
    }
    texts = None if metadata is None else {METADATA_KEY: json.dumps(metadata, sort_keys=True)}
    # Not by `save_file`, whose files nobody but their owner may read.
    content = safetensors.numpy.save(plain, texts)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)
        found = safetensors.numpy.load_file(temporary)
        # Bytes, since a NaN is never equal to itself.
        if any(found[name].tobytes() != array.tobytes() for name, array in plain.items()):
            raise OSError("does not hold what was written")


def _header(file: BinaryIO) -> dict[str, Any]:
    """Returns a file's header, which the library checks, if it is of a bearable size."""
    size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER_BYTES:
        raise FormatError(f"its header has {size:,} bytes, more than {MAX_HEADER_BYTES:,}")
    header = json.loads(file.read(size), object_pairs_hook=_without_repetition)
    if not isinstance(header, dict):
        raise FormatError("damaged safetensors file (its header is no JSON object)")
    if len(header) > MAX_TENSORS:
        raise FormatError(f"has {len(header):,} tensors; wanted at most {MAX_TENSORS:,}")
    return header


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise FormatError("a key of its header comes twice")
    return result


def _refuse_unreadable(header: dict[str, Any]) -> None:
    """Refuses what the format allows and no model has."""
    if not header.keys() - {TEXTS}:
        raise FormatError("holds no tensors")
    for name, entry in header.items():
        if not name.isprintable():
            raise FormatError(f"a tensor has the unprintable name {quoted(name)}")
        if name != TEXTS and entry["dtype"] not in TYPES:
            raise FormatError(f"{quoted(name)} has the type {quoted(entry['dtype'])}, unknown here")
