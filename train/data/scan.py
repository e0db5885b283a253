"""Looks at every file of a split once, and remembers what it found."""

import logging
import time
from pathlib import Path
from typing import Protocol

from train.data.assemble import Found, Scan, assemble
from train.data.parallel import default_workers
from train.data.scan_cache import read_scan, write_scan

_log = logging.getLogger(__name__)


class Source(Protocol):
    """One split of a data set of any kind."""

    def digest(self, workers: int) -> str:
        """Returns a hash of all that the scan depends on, but for the pictures' contents."""
        ...

    def read(self, *, decode: bool, workers: int) -> Found:
        """Looks at every file."""
        ...


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
    change of the pictures. Reading all pictures again would take as long as the scan.

    Args:
      source: the split.
      data: what the user calls the data set; the cache is beside it.
      split: likewise.
      decode: decodes all pictures; otherwise headers and ends are looked at, unless an earlier
        scan has decoded them.
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
    scan = assemble(source.read(decode=decode, workers=readers), decoded=decode)
    _log.info("%s: %s: scanned in %.1f s", data, split, time.perf_counter() - start)
    write_scan(data, split, digest, scan)
    return scan
