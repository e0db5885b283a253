"""How much memory there is, and how the C library deals with what is freed."""

import ctypes
import os
import pathlib
import sys

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 2**25  # bytes; the largest that glibc accepts, and more than most images have
KEPT_AT_MOST = 2**28  # bytes


def keep_freed_memory() -> bool:
    """Makes the process keep freed memory for its next images, where it runs on glibc.

    By default images of a megabyte are given back to the system and asked for again many times
    a second, and every page of them is faulted in and zeroed again: a tenth of the time of the
    input pipeline, more where several threads wait for each other to do so.

    Returns:
      Whether that was possible. It does nothing elsewhere.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(_TRIM_THRESHOLD, KEPT_AT_MOST))


def available_memory() -> int:
    """Returns how many bytes of memory this process could still take."""
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES")
        free = pages * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1 << 62  # unknown here; too large a request fails by itself
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":") for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024  # with what caches of files hold
    except (OSError, KeyError, ValueError):
        pass
    try:
        group = pathlib.Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no limit
    return max(free, 0)
