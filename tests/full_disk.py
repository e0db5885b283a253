"""A disk that is full, for tests, without filling one."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Lets no file of this process grow beyond a size; writing more is an error, as on a full disk.

    Args:
      size: in bytes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
