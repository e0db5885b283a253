"""Looks at every file of a split once, and remembers what it found."""

import functools
import logging
import time
from collections.abc import Set
from pathlib import Path

import numpy as np

from yolov7_jax.data.ahead import default_workers, map_files
from yolov7_jax.data.assemble import Found, Scan, assemble
from yolov7_jax.data.coco_json import CocoJson
from yolov7_jax.data.images import examine_image
from yolov7_jax.data.scan_cache import damaged_images, read_scan, write_scan
from yolov7_jax.data.voc_xml import VocXml
from yolov7_jax.data.yolo_txt import YoloTxt

_log = logging.getLogger(__name__)


Source = YoloTxt | CocoJson | VocXml


def scan_source(
    source: Source,
    data: str | Path,
    split: str,
    *,
    decode: bool = False,
    workers: int | None = None,
) -> Scan:
    """Looks at every file of a split, or returns what an unchanged split came to before.

    The result depends on the content of the annotation files and on name, size and time of
    change of the images. Reading all images again would take as long as the scan.

    Args:
      source: the split.
      data: what the user calls the data set; the cache is beside it.
      split: likewise.
      decode: decodes all images; otherwise headers and ends are looked at, unless an earlier
        scan has decoded them. Those that the last scan found damaged are decoded again whatever
        has changed since.
      workers: threads; None for as many as suit the work.

    Raises:
      UserError: the split cannot be read at all.
    """
    readers = default_workers(decode=False) if workers is None else workers
    digest = source.digest(readers)
    known = read_scan(data, split, digest)
    if known is not None and (known.decoded or not decode):
        return known
    start = time.perf_counter()
    if decode and workers is None:
        readers = default_workers(decode=True)
    found = source.read(decode=decode, workers=readers)
    if not decode:
        found = _leave_out_damaged(found, damaged_images(data, split), readers)
    scan = assemble(found, decoded=decode)
    _log.info("%s: %s: scanned in %.1f s", data, split, time.perf_counter() - start)
    write_scan(data, split, digest, scan)
    return scan


def _leave_out_damaged(found: Found, suspects: Set[str], workers: int) -> Found:
    """Decodes the suspects among images whose headers are sound, and adds what is wrong.

    Decoding the few again is simpler than to remember what was wrong with which state of a file.
    """
    sound = found.sizes.min(axis=1, initial=1) > 0
    rows = [row for row in np.flatnonzero(sound).tolist() if found.paths[row] in suspects]
    if not rows:
        return found
    sizes, faults = found.sizes.copy(), list(found.faults)
    paths = [found.paths[row] for row in rows]
    examine = functools.partial(examine_image, decode=True)
    examined = map_files(examine, paths, workers=workers, title="damaged images")
    for row, (size, fault) in zip(rows, examined, strict=True):
        if 0 in size:
            sizes[row] = 0
        if fault is not None and fault not in faults:
            faults.append(fault)
    return found._replace(sizes=sizes, faults=faults)
