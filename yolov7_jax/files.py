"""Files that are whole or not there."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterable, Iterator


def write_whole(path: pathlib.Path, content: bytes | Iterable[bytes]) -> None:
    """Writes a file under another name and then renames it, so that no half of one is left.

    Args:
      path: of the file, replaced if it exists.
      content: whole, or in parts, one after another.

    Raises:
      OSError: it cannot be written; names the file.
    """
    # Not named after the file, whose name may be as long as names can be.
    unfinished = path.with_name(f".{secrets.token_hex(8)}.unfinished")
    with naming(path):
        try:
            with unfinished.open("wb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Makes errors of the operating system in its body name a file, where they name none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and os.fspath(path) in str(error.filename):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
