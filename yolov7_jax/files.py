"""Files and folders that are whole or not there."""

import contextlib
import itertools
import os
import pathlib
import secrets
from collections.abc import Iterable, Iterator

from yolov7_jax.errors import UserError


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


def user_cache() -> pathlib.Path:
    """Returns the folder for what is kept between runs and can be made again."""
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "yolov7_jax"


def expanded(path: str) -> pathlib.Path:
    """Returns a path with `~` replaced by the user's home."""
    return pathlib.Path(os.path.expanduser(path))


def check_exists(path: str, flag: str) -> None:
    """Refuses a path at which there is nothing, before what is slow begins.

    Raises:
      UserError: the path is empty, or nothing is there.
    """
    if not path:
        raise UserError(f"{flag} must not be empty: wanted a path")
    if not expanded(path).exists():
        raise UserError(f"{flag} (={path}): no such file or folder")


def new_folder(wanted: str | None, usual: pathlib.Path) -> pathlib.Path:
    """Makes the folder that a command writes to, so that no file of another is replaced.

    Args:
      wanted: must not exist, or be empty. None: the usual one, or the first of usual-2, usual-3 ...
        that does not exist.
      usual: see there.

    Raises:
      UserError: the folder that is wanted has something in it, or has no name.
      OSError: it cannot be made.
    """
    if wanted is None:
        for number in itertools.count(1):
            folder = usual if number == 1 else usual.with_name(f"{usual.name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True)  # or another start has it
                return folder
    if not wanted:
        raise UserError("--output must not be empty")
    folder = expanded(wanted)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output (={wanted}) is a file; it must be a new folder, or an empty one")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"--output (={wanted}) exists; it must be a new folder, or an empty one")
    return folder


@contextlib.contextmanager
def folder_if_filled(wanted: str | None, usual: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a folder as `new_folder` does; at the end it goes again if nothing was written.

    Raises:
      UserError, OSError: as `new_folder` does.
    """
    asked = usual if wanted is None else expanded(wanted)
    made = [folder for folder in asked.parents if not folder.exists()]
    mine = wanted is None or not asked.exists()
    folder = new_folder(wanted, usual)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # something lies in it
            for empty in [folder, *made] if mine else []:
                empty.rmdir()


def check_target(
    target: pathlib.Path, suffix: str, source: pathlib.Path, flag: str, force: bool
) -> None:
    """Refuses a file that is not to be written.

    Args:
      target: the file that is to be written.
      suffix: what its name must end in.
      source: where the weights lie that it is made of.
      flag: what the user gives another target by.
      force: whether a file that exists may be replaced.

    Raises:
      UserError: the name ends otherwise, its folder is missing, it is a folder or the weights
        themselves, or it exists and `force` was not given.
    """
    if target.suffix != suffix:
        raise UserError(f"{flag} (={target}) must end in {suffix}")
    if not target.parent.is_dir():
        raise UserError(f"{target}: there is no folder {target.parent}")
    if target.is_dir():
        raise UserError(f"{target}: is a folder, wanted the name of a file")
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"{target}: is the file of weights itself; give another {flag}")
    if target.exists() and not force:
        raise UserError(f"{target} exists; --force replaces it")
