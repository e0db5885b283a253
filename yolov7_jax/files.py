"""Files and folders that are whole or not there."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside a file; what is written there replaces the file at the end.

    If the body raises, the file stays as it was and the temporary one is removed. A link to the
    file stays a link.

    Args:
      path: of the file, which need not exist.

    Raises:
      OSError: it cannot be written; names the file.
    """
    # Not named after the file, whose name may be as long as names can be.
    target = pathlib.Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.unfinished")
    with naming(path):
        try:
            yield temporary
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def write_whole(path: pathlib.Path, content: bytes | Iterable[bytes]) -> None:
    """Writes a file so that no half of one is ever left under its name; see `replacing`.

    Args:
      path: of the file, replaced if it exists.
      content: whole, or in parts, one after another.

    Raises:
      OSError: it cannot be written; names the file.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines([content] if isinstance(content, bytes) else content)


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Makes errors of the operating system in its body name a file, where they name none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and os.fspath(path) in str(error.filename):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
