"""Keeps what a scan found in a file, and trusts the file only when all of it is as written.

The file is arrays as safetensors, one of them JSON with all that is no array; a magic word with the
format's version; and a hash of the arrays, which are parsed only where it is right.
"""

import contextlib
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from yolov7_jax.data.assemble import Scan
from yolov7_jax.data.dataset import Dataset, Polygons
from yolov7_jax.data.faults import Fault, FaultKind
from yolov7_jax.files import user_cache, write_whole

CACHE_FOLDER = ".yolov7_jax_cache"
# The last figure is to change with the format, and with what a scan finds.
MAGIC = b"yolov7_jax scan 5\n"
_JSON = "json"  # the array with all that is no array
_ARRAYS = ("sizes", "offsets", "labels", "boxes", "crowd", "image_ids", "category_ids", "areas")
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, SafetensorError)
_DAMAGED = (FaultKind.UNREADABLE_IMAGE.name, FaultKind.DOUBTFUL_IMAGE.name)

_log = logging.getLogger(__name__)


def cache_files(data: str | Path, split: str) -> list[Path]:
    """Returns where the scan of a split may be kept: beside the data, or in the user's cache."""
    path = Path(os.path.abspath(os.path.expanduser(data)))
    name = f"{path.name}.{split}.scan"
    where = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    folder = path if path.is_dir() else path.parent
    return [folder / CACHE_FOLDER / name, user_cache() / f"{where}-{name}"]


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
            return _decode(*_load(path), digest)
        except FileNotFoundError:
            continue
        except _UNUSABLE as error:
            _log.info("%s: is not used: %s", path, error)
    return None


def damaged_images(data: str | Path, split: str) -> frozenset[str]:
    """Returns the images that the last scan found damaged, whatever has changed since."""
    for path in cache_files(data, split):
        with contextlib.suppress(*_UNUSABLE):
            kept, _ = _load(path)
            return frozenset(file for kind, file, *_ in kept["faults"] if kind in _DAMAGED)
    return frozenset()


def write_scan(data: str | Path, split: str, digest: str, scan: Scan) -> None:
    """Keeps a scan in the first place that can be written; it's no fault if there is none."""
    # Not by `save_file`, whose files nobody but their owner may read.
    content = save(_encode(digest, scan))
    for path in cache_files(data, split):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, [content, MAGIC, hashlib.blake2b(content).digest()])
        except OSError as error:
            _log.info("%s: cannot be written: %s", path, error)
        else:
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


def _encode(digest: str, scan: Scan) -> dict[str, np.ndarray]:
    dataset = scan.dataset
    kept = set(dataset.paths)
    others = {
        "digest": digest,
        "stamps": image_stamps(scan.looked_at),
        "decoded": scan.decoded,
        "names": dataset.names,
        "notes": scan.notes,
        "looked_at": scan.looked_at,
        "left_out": [row for row, path in enumerate(scan.looked_at) if path not in kept],
        "faults": [(fault.kind.name, *fault[1:]) for fault in scan.faults],
    }
    arrays = {name: getattr(dataset, name) for name in _ARRAYS} | dataset.polygons._asdict()
    arrays[_JSON] = np.frombuffer(json.dumps(others).encode("ascii"), np.uint8)
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _load(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns what is no array, and the arrays; a ValueError says why they cannot be used."""
    length = path.stat().st_size - len(MAGIC) - hashlib.blake2b().digest_size
    with path.open("rb") as file:
        content, magic, checksum = file.read(max(length, 0)), file.read(len(MAGIC)), file.read()
    if magic != MAGIC:
        raise ValueError("it is of another version or no such file")
    if hashlib.blake2b(content).digest() != checksum:
        raise ValueError("it is damaged")
    arrays = load(content)
    return json.loads(arrays.pop(_JSON).tobytes()), arrays


def _decode(kept: dict[str, Any], arrays: dict[str, np.ndarray], digest: str) -> Scan:
    """Rebuilds a scan; a ValueError says why it cannot be used."""
    if kept["digest"] != digest:
        raise ValueError("annotations have changed")
    looked_at = tuple(kept["looked_at"])
    if kept["stamps"] != image_stamps(looked_at):
        raise ValueError("images have changed")
    left_out = set(kept["left_out"])
    dataset = Dataset(
        names=tuple(kept["names"]),
        paths=tuple(path for row, path in enumerate(looked_at) if row not in left_out),
        polygons=Polygons(**{name: arrays[name] for name in Polygons._fields}),
        **{name: arrays[name] for name in _ARRAYS},
    )
    faults = tuple(Fault(FaultKind[kind], *rest) for kind, *rest in kept["faults"])
    return Scan(dataset, faults, tuple(kept["notes"]), looked_at, kept["decoded"], from_cache=True)
