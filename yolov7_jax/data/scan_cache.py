"""Keeps what a scan found in a file, and trusts the file only when all of it is as written.

The file is a magic word with the format's version, a hash of all that follows, the length of a
JSON header, the header, and raw arrays. Nothing in it is executed, and it is parsed only where
the hash is right.
"""

import hashlib
import json
import logging
import os
import secrets
import struct
from pathlib import Path
from typing import Any

import numpy as np

from yolov7_jax.data.assemble import Scan
from yolov7_jax.data.dataset import Dataset, Polygons
from yolov7_jax.data.faults import Fault, FaultKind

CACHE_FOLDER = ".yolov7_jax_cache"
# The last figure is to change with the format, and with what a scan finds.
MAGIC = b"yolov7_jax scan 4\n"
_ARRAYS = ("sizes", "offsets", "labels", "boxes", "crowd", "image_ids", "category_ids", "areas")
_ALIGNMENT = 64
_DAMAGED = (FaultKind.UNREADABLE_IMAGE.name, FaultKind.DOUBTFUL_IMAGE.name)

_log = logging.getLogger(__name__)


def cache_files(data: str | Path, split: str) -> list[Path]:
    """Returns where the scan of a split may be kept: beside the data, or in the user's cache."""
    path = Path(os.path.abspath(os.path.expanduser(data)))
    name = f"{path.name}.{split}.scan"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    where = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    folder = path if path.is_dir() else path.parent
    return [folder / CACHE_FOLDER / name, Path(home) / "yolov7_jax" / f"{where}-{name}"]


def kept_scan(data: str | Path, split: str) -> Path | None:
    """Returns the file in which the scan of a split is kept, or None where it could not be."""
    return next((path for path in cache_files(data, split) if path.is_file()), None)


def read_scan(data: str | Path, split: str, digest: str) -> Scan | None:
    """Returns a kept scan, or None where there is none that is whole and up to date.

    Args:
      data: what was scanned.
      split: likewise.
      digest: of the annotations, as they are now.
    """
    for path in cache_files(data, split):
        try:
            content = np.fromfile(path, np.uint8)
            scan = _decode(content, digest)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            _log.info("%s: is not used: %s", path, error)
            continue
        return scan
    return None


def damaged_images(data: str | Path, split: str) -> frozenset[str]:
    """Returns the images that the last scan found damaged, whatever has changed since."""
    for path in cache_files(data, split):
        try:
            header, _ = _header(np.fromfile(path, np.uint8))
            return frozenset(file for kind, file, *_ in header["faults"] if kind in _DAMAGED)
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            continue
    return frozenset()


def write_scan(data: str | Path, split: str, digest: str, scan: Scan) -> None:
    """Keeps a scan in the first place that can be written; it's no fault if there is none."""
    for path in cache_files(data, split):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, digest, scan)
        except OSError as error:
            _log.info("%s: cannot be written: %s", path, error)
            continue
        return


def image_stamps(paths: tuple[str, ...]) -> str:
    """Returns a hash of size and time of change of files; missing ones count as such."""
    digest = hashlib.blake2b(digest_size=32)
    stamps = np.full((len(paths), 2), -1, np.int64)
    for row, path in enumerate(paths):
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        stamps[row] = status.st_size, status.st_mtime_ns
    digest.update(stamps.data)
    return digest.hexdigest()


def _write(path: Path, digest: str, scan: Scan) -> None:
    dataset = scan.dataset
    arrays = {name: getattr(dataset, name) for name in _ARRAYS}
    arrays |= {f"polygons.{name}": getattr(dataset.polygons, name) for name in Polygons._fields}
    kept = set(dataset.paths)
    header = {
        "digest": digest,
        "stamps": image_stamps(scan.looked_at),
        "decoded": scan.decoded,
        "names": dataset.names,
        "notes": scan.notes,
        "looked_at": scan.looked_at,
        "left_out": [row for row, path in enumerate(scan.looked_at) if path not in kept],
        "faults": [(fault.kind.name, *fault[1:]) for fault in scan.faults],
        "arrays": [(name, a.dtype.str, a.shape) for name, a in arrays.items()],
    }
    encoded = json.dumps(header).encode("ascii")
    parts: list[bytes | memoryview] = [struct.pack("<Q", len(encoded)), encoded]
    length = len(MAGIC) + 32 + 8 + len(encoded)
    for array in arrays.values():
        parts.append(bytes(-length % _ALIGNMENT))
        parts.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        length += -length % _ALIGNMENT + array.nbytes
    checksum = hashlib.blake2b(digest_size=32)
    for part in parts:
        checksum.update(part)
    # Renamed when complete, so that no reader meets half a file.
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        with unfinished.open("xb") as file:
            file.write(MAGIC + checksum.digest())
            file.writelines(parts)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _header(content: np.ndarray) -> tuple[dict[str, Any], int]:
    """Returns the header and where the arrays begin; a ValueError says why it cannot be used."""
    start = len(MAGIC) + 32
    if content[: len(MAGIC)].tobytes() != MAGIC:
        raise ValueError("it is of another version or no such file")
    checksum = hashlib.blake2b(content[start:].data, digest_size=32).digest()
    if content[len(MAGIC) : start].tobytes() != checksum:
        raise ValueError("it is damaged")
    (length,) = struct.unpack("<Q", content[start : start + 8].tobytes())
    end = start + 8 + length
    return json.loads(content[start + 8 : end].tobytes()), end


def _decode(content: np.ndarray, digest: str) -> Scan:
    """Rebuilds a scan; a ValueError says why it cannot be used."""
    header, position = _header(content)
    if header["digest"] != digest:
        raise ValueError("annotations have changed")
    looked_at = tuple(header["looked_at"])
    if header["stamps"] != image_stamps(looked_at):
        raise ValueError("images have changed")
    arrays: dict[str, Any] = {}
    for name, dtype, shape in header["arrays"]:
        position += -position % _ALIGNMENT
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        arrays[name] = content[position : position + size].view(dtype).reshape(shape)
        position += size
    left_out = set(header["left_out"])
    dataset = Dataset(
        names=tuple(header["names"]),
        paths=tuple(path for row, path in enumerate(looked_at) if row not in left_out),
        polygons=Polygons(*(arrays[f"polygons.{name}"] for name in Polygons._fields)),
        **{name: arrays[name] for name in _ARRAYS},
    )
    faults = tuple(Fault(FaultKind[kind], *rest) for kind, *rest in header["faults"])
    notes = tuple(header["notes"])
    return Scan(dataset, faults, notes, looked_at, header["decoded"], from_cache=True)
