"""A small disk in memory for runs, and how it becomes full."""

import contextlib
import pathlib
import shutil
import subprocess
import time
from collections.abc import Iterator

DISK_SIZE = 2**27  # bytes; a run of this size takes a tenth
LOOK_AGAIN = 0.01  # seconds


@contextlib.contextmanager
def own_disk(folder: pathlib.Path) -> Iterator[bool]:
    """Mounts a small file system at a folder if that is permitted, and says whether it was."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_until_ended(folder: pathlib.Path, process: subprocess.Popen) -> None:
    """Keeps the disk that a folder is on full until a process ends, and then makes room again."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        while process.poll() is None:
            with contextlib.suppress(OSError):
                file.write(bytes(max(shutil.disk_usage(folder).free, 4096)))
            time.sleep(LOOK_AGAIN)
    ballast.unlink()
