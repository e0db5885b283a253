"""Reads the files of `torch.save`, without PyTorch and without executing anything in them.

Two containers hold the same kind of pickle: a zip archive with one entry per storage, and the
older run of pickles that is followed by the storages. Of these only the ones of the model's own
tensors are read, each once, and never more bytes than the file has.
"""

import contextlib
import io
import math
import os
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from yolov7_jax.weights.checkpoint_contents import (
    Checkpoint,
    FormatError,
    naming_file,
    open_regular,
    quoted,
)
from yolov7_jax.weights.model_in_pickle import find_model
from yolov7_jax.weights.model_metadata import anchors_in_pixels, parsed_metadata, with_metadata
from yolov7_jax.weights.pickle_allowlist import Storage, StoredTensor
from yolov7_jax.weights.pickle_interpreter import Pickle, read_pickle

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"
STABLEHLO_PROGRAM = "program.bin"  # in what `export.stablehlo` writes
TAR_MARK = (257, b"ustar")
ONNX_START, ONNX_NEXT = b"\x08", b"\x12"  # the field of a version of one byte, and one of text
OLDER_MAGIC = 0x1950A86A20F9469CFC6C
OLDER_PROTOCOL = 1001
MAX_ZIP_ENTRIES = 100_000
MAX_DIRECTORY_BYTES = 2**23  # of the zip archive, likewise some ten times what is needed
MAX_PICKLE_BYTES = 2**25  # some ten times what the largest model takes
MAX_ELEMENTS = 2**32  # of one tensor, repeated ones counted each time
MAX_DIMENSIONS = 32
# An entry of the zip archive for what a pickle of tensors alone cannot tell; PyTorch skips it.
METADATA_FILE = "yolov7_jax.json"
MAX_METADATA_BYTES = 2**23
# How often tensors may repeat the numbers of their storages. A model and its average may share all
# of theirs; an axis of stride 0 could make terabytes of one number.
MAX_REPETITION = 4
REPEATED_BYTES_ALLOWED = 2**24  # in any case

WANTED = "wanted a file of PyTorch or safetensors, or the folder of a training run"

ReadStorage = Callable[[Storage], bytes | memoryview]


def read_torch(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads an official checkpoint, or another file in which PyTorch saved a model.

    The format is told by the content. The pickle may hold a dict with `model` and perhaps `ema`,
    which are whole modules or state_dicts, a module by itself, or a state_dict, also under the key
    `state_dict` and also from a model that was wrapped for several devices.

    Args:
      path: of the file.

    Returns:
      The checkpoint; its arrays are read-only views of the bytes read.

    Raises:
      CheckpointError: the file cannot be opened, is in no known format, is damaged, or refers to
        code that no checkpoint needs. No other exception is raised, whatever the file holds.
    """
    with naming_file(path), open_regular(path) as file:
        file_size = os.fstat(file.fileno()).st_size
        start = file.read(512)
        file.seek(0)
        if start.startswith(ZIP_START):
            # The archive says how large its directory is.
            limited = _LimitedReader(file, MAX_DIRECTORY_BYTES, "the zip archive's directory is")
            with _naming_zip_damage(), zipfile.ZipFile(limited) as archive:
                # Entries that overlap could otherwise hold more than the file has.
                limited.limit(file_size, "the zip archive's entries are")
                checkpoint = _checkpoint(*_read_zip(archive))
                return _with_own_metadata(checkpoint, archive)
        if start.startswith(PICKLE_START) and _first_value(start) == OLDER_MAGIC:
            return _checkpoint(*_read_older(file, file_size))
        raise FormatError(f"{_other_format(start)}; {WANTED}")


def _first_value(start: bytes) -> Any:
    try:
        return read_pickle(io.BytesIO(start)).value
    except FormatError:
        return None


def _other_format(start: bytes) -> str:
    mark, text = TAR_MARK
    if start[mark : mark + len(text)] == text:
        return "is a tar archive, the form that PyTorch wrote before version 0.1.10"
    if start[8:10] == b'{"':
        return "is a safetensors file"
    if start.startswith(PICKLE_START):
        return "is a pickle that torch.save did not write"
    if start[:1] == ONNX_START and start[2:3] == ONNX_NEXT:
        return "is an exported ONNX program"
    return "is in no known format" if start else "is empty"


def _checkpoint(pickle: Pickle, read_storage: ReadStorage) -> Checkpoint:
    model = find_model(pickle.value)
    read: dict[str, bytes | memoryview] = {}

    def array(name: str, tensor: StoredTensor) -> np.ndarray:
        storage = tensor.storage
        if storage.key not in read:
            read[storage.key] = read_storage(storage)
        return _view(name, tensor, memoryview(read[storage.key]))

    tensors = {key: array(key, tensor) for key, tensor in model.tensors.items()}
    ema = None
    if model.ema is not None:
        ema = {key: array(key, tensor) for key, tensor in model.ema.items()}
    stored = sum(map(len, read.values()))
    logical = sum(view.nbytes for view in (*tensors.values(), *(ema or {}).values()))
    if logical > max(MAX_REPETITION * stored, REPEATED_BYTES_ALLOWED):
        raise FormatError(f"its tensors repeat {stored:,} bytes until they are {logical:,}")
    strides = None if model.strides is None else array("stride", model.strides)
    return Checkpoint(
        tensors=tensors,
        ema=ema,
        names=model.names,
        epoch=model.epoch,
        anchors=anchors_in_pixels(ema or tensors, strides),
        activation=model.activation,
    )


def _view(name: str, tensor: StoredTensor, data: memoryview) -> np.ndarray:
    """Returns a tensor as a view of its storage's bytes, or refuses it if it reaches beyond."""
    dtype, itemsize = tensor.storage.dtype, tensor.storage.dtype.itemsize
    available = len(data) // itemsize
    first = 0
    if tensor.storage.view is not None:
        first, count = tensor.storage.view
        if not 0 <= first <= first + count <= available:
            raise FormatError(f"the storage of {quoted(name)} reaches beyond the one that it views")
        available = count
    size, stride, offset = tensor.size, tensor.stride, tensor.offset
    if not _are_counts(size) or not _are_counts(stride) or not _are_counts((offset,)):
        raise FormatError(f"{quoted(name)} has an impossible size, stride or offset")
    if len(size) != len(stride) or math.prod(max(n, 1) for n in size) > MAX_ELEMENTS:
        raise FormatError(f"{quoted(name)} has an impossible size")
    if 0 in size:
        empty = np.zeros(size, dtype)
        empty.flags.writeable = False
        return empty
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= available:
        raise FormatError(
            f"{quoted(name)} reaches to element {last} of a storage of {available} elements"
        )
    # Along an axis of length 1 the stride means nothing and may be any number.
    steps = tuple(step * itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True))
    start = (first + offset) * itemsize
    return np.ndarray(size, dtype, data.toreadonly(), start, steps)


def _are_counts(numbers: Any) -> bool:
    return (
        isinstance(numbers, tuple)
        and len(numbers) <= MAX_DIMENSIONS
        and all(type(number) is int and 0 <= number < 2**62 for number in numbers)
    )


class _LimitedReader:
    """A file from which only so many bytes can be read."""

    def __init__(self, file: BinaryIO, left: int, subject: str):
        self._file = file
        self.limit(left, subject)

    def limit(self, left: int, subject: str) -> None:
        """Sets how many bytes can be read from now on, and what an error says to be too large."""
        self._left = self._allowed = left
        self._subject = subject

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size if size >= 0 else sys.maxsize, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise FormatError(f"{self._subject} larger than {self._allowed:,} bytes")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


@contextlib.contextmanager
def _naming_zip_damage() -> Iterator[None]:
    try:
        yield
    # OSError comes from seeking to places that cannot be, the others from zipfile itself.
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, struct.error) as fault:
        raise FormatError(f"damaged zip archive ({quoted(str(fault))})") from fault


def _read_zip(archive: zipfile.ZipFile) -> tuple[Pickle, ReadStorage]:
    entries = _sound_entries(archive)
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        if STABLEHLO_PROGRAM in entries:
            raise FormatError(f"is an exported StableHLO program; {WANTED}")
        raise FormatError(f"a zip archive with {len(pickles)} files data.pkl; wanted one")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in entries:
        raise FormatError("is a TorchScript archive; wanted what torch.save wrote")
    if entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise FormatError(f"its pickle has more than {MAX_PICKLE_BYTES:,} bytes")
    order = b"little"
    if f"{folder}byteorder" in entries:
        with archive.open(f"{folder}byteorder") as entry:
            order = entry.read(10)
    if order not in (b"little", b"big"):
        raise FormatError(f"has the unknown byte order {order!r}")
    pickle = read_pickle(io.BytesIO(archive.read(pickles[0])))

    def read_storage(storage: Storage) -> bytes | memoryview:
        name = f"{folder}data/{storage.key}"
        if name not in entries:
            raise FormatError(f"storage {quoted(storage.key)} is missing")
        wanted = storage.numel * storage.dtype.itemsize
        if entries[name].file_size != wanted:
            raise FormatError(
                f"storage {quoted(storage.key)} has {entries[name].file_size} bytes; "
                f"wanted {wanted}"
            )
        return _native(archive.read(name), storage.dtype, order == b"big")

    return pickle, read_storage


def _with_own_metadata(checkpoint: Checkpoint, archive: zipfile.ZipFile) -> Checkpoint:
    """Adds what our own exports tell beside the pickle."""
    paths = [name for name in archive.namelist() if name.endswith(f"/{METADATA_FILE}")]
    if not paths:
        return checkpoint
    if archive.getinfo(paths[0]).file_size > MAX_METADATA_BYTES:
        raise FormatError(f"its {METADATA_FILE} has more than {MAX_METADATA_BYTES:,} bytes")
    return with_metadata(checkpoint, parsed_metadata(archive.read(paths[0])))


def _sound_entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_ZIP_ENTRIES:
        raise FormatError(f"a zip archive with more than {MAX_ZIP_ENTRIES:,} entries")
    entries = {info.filename: info for info in infos}
    if len(entries) != len(infos):
        raise FormatError("a zip archive with two entries of one name")
    for name, info in entries.items():
        folders = name.split("/")
        if "\\" in name or folders[0] in ("", name[:1] + ":") or ".." in folders:
            raise FormatError(f"a zip archive with the unsafe path {quoted(name)}")
        if info.flag_bits & 0x1:
            raise FormatError(f"the zip entry {quoted(name)} is encrypted")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise FormatError(
                f"the zip entry {quoted(name)} is compressed, which torch.save never does"
            )
    return entries


def _native(data: bytes | memoryview, dtype: np.dtype, big_endian: bool) -> bytes | memoryview:
    """Swaps the bytes of a storage written on a machine of the other byte order."""
    if dtype.itemsize == 1 or big_endian == (sys.byteorder == "big"):
        return data
    unsigned = np.frombuffer(data, np.dtype(f"u{dtype.itemsize}"))
    return unsigned.byteswap().tobytes()


def _read_older(file: BinaryIO, file_size: int) -> tuple[Pickle, ReadStorage]:
    stream = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    read_pickle(stream)  # the magic number
    if read_pickle(stream).value != OLDER_PROTOCOL:
        raise FormatError("is written in an unknown protocol of torch.save")
    # The machine that wrote it: of no use, since this format is little-endian on all of them.
    read_pickle(stream)
    pickle, keys = read_pickle(stream), read_pickle(stream).value
    position = stream.tell()
    positions: dict[str, int] = {}
    if not isinstance(keys, list):
        raise FormatError("its list of storages is damaged")
    for key in keys:
        storage = pickle.storages.get(key) if isinstance(key, str) else None
        if storage is None or storage.key in positions:
            raise FormatError("its list of storages is damaged")
        # Before each storage stands how many numbers it has.
        file.seek(position)
        if int.from_bytes(file.read(8), "little") != storage.numel:
            raise FormatError(f"storage {quoted(storage.key)} has not the size that was announced")
        positions[storage.key] = position + 8
        position += 8 + storage.numel * storage.dtype.itemsize
        if position > file_size:
            raise FormatError(f"the file ends within storage {quoted(storage.key)}")

    def read_storage(storage: Storage) -> bytes | memoryview:
        if storage.key not in positions:
            raise FormatError(f"storage {quoted(storage.key)} is missing")
        file.seek(positions[storage.key])
        data = file.read(storage.numel * storage.dtype.itemsize)
        return _native(data, storage.dtype, big_endian=False)

    return pickle, read_storage
