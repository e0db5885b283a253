"""What can be wrong with the splits of a data set taken together."""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping

from yolov7_jax.data.ahead import default_workers, map_files
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.data.faults import first_of, plural, shown

_CHUNK = 1 << 20  # bytes


def contradictions(datasets: Mapping[str, Dataset]) -> list[str]:
    """Returns what two splits must not have: other classes, or the same images.

    Args:
      datasets: by the names of the splits.
    """
    warnings = []
    for (first, ours), (second, theirs) in itertools.combinations(datasets.items(), 2):
        if ours.names != theirs.names:
            warnings.append(
                f"{first} has the classes {shown(', '.join(ours.names))} and {second} has "
                f"{shown(', '.join(theirs.names))}; 'names' in a data.yaml makes them the same"
            )
        common = len(set(ours.paths) & set(theirs.paths))
        if common:
            warnings.append(
                f"{common} {plural('image', common)} of {first} "
                f"{'is' if common == 1 else 'are'} in {second} too"
            )
    return warnings


def identical_images(datasets: Mapping[str, Dataset]) -> list[str]:
    """Returns a note for each two splits of which images have the same bytes in other files.

    Only files are read that have as many bytes and pixels as one of another split.

    Args:
      datasets: by the names of the splits.
    """
    often = Counter(path for dataset in datasets.values() for path in set(dataset.paths))
    keys = {
        split: {path: key for path, key in _keys(dataset) if often[path] == 1}
        for split, dataset in datasets.items()
    }
    splits_with = Counter(key for of_split in keys.values() for key in set(of_split.values()))
    candidates = [
        path for of_split in keys.values() for path, key in of_split.items() if splits_with[key] > 1
    ]
    workers = default_workers(decode=False)
    digests = map_files(_digest, candidates, workers=workers, title="same images")
    digest_of = {
        path: digest for path, digest in zip(candidates, digests, strict=True) if digest is not None
    }
    notes = []
    for first, second in itertools.combinations(keys, 2):
        known = {digest_of[path]: path for path in reversed(keys[first]) if path in digest_of}
        same = [path for path in keys[second] if digest_of.get(path) in known]
        if same:
            count, verb = len(same), "is" if len(same) == 1 else "are"
            pairs = [f"{shown(path, 300)} is {shown(known[digest_of[path]], 300)}" for path in same]
            notes.append(
                f"{count} {plural('image', count)} of {second} {verb} in {first} too, byte for "
                f"byte: {first_of(pairs)}"
            )
    return notes


def _keys(dataset: Dataset) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Yields the path of each image with what identical files have in common."""
    for path, (width, height) in zip(dataset.paths, dataset.sizes.tolist(), strict=True):
        try:
            yield path, (os.path.getsize(path), width, height)
        except OSError:
            continue  # it has been lost since the scan


def _digest(path: str) -> bytes | None:
    digest = hashlib.blake2b(digest_size=32)
    try:
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return None
    return digest.digest()
