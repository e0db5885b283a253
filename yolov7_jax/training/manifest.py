"""What files a folder holds, written down beside them, so that damage to any of them shows."""

import json
import pathlib
import zlib

MANIFEST_FILE = "manifest.json"
READ_AT_ONCE = 2**20  # bytes; Python works on while so many are summed


def write_manifest(folder: pathlib.Path) -> None:
    """Writes the size and the checksum of every file in a folder and below it."""
    files = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _checksum(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({"files": files}, indent=0)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def find_damage(folder: pathlib.Path) -> str | None:
    """Compares a folder with its manifest.

    Files that the manifest does not know are none of its business.

    Returns:
      What is wrong with one of the files; None if all are as they were written.
    """
    try:
        files = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
        for name, (size, checksum) in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes, {size} were written"
            if _checksum(path) != checksum:
                return f"{name} does not have the contents that were written"
    except FileNotFoundError:
        return f"{MANIFEST_FILE} is missing"
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST_FILE} is not a list of files"
    return None


def _checksum(path: pathlib.Path) -> int:
    """Returns the CRC-32 of a file; it tells accidents, which is all there is to fear here."""
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(READ_AT_ONCE):
            checksum = zlib.crc32(piece, checksum)
    return checksum
