"""Reads files in a process that watches itself: `python guarded_reader.py COMMAND PATH [COUNT]`.

Ends with an error if a file makes it execute anything, take much memory, or raise anything but a
`CheckpointError`. `read` prints a JSON object: file name -> error message, or null. `load` does the
same after making the models that the files hold. `fuzz` reads mutations of the files in a zip
archive and prints how many of them were refused and read. `unpickle` lets Python's own unpickler
read a file, to show that the watch works.
"""

import encodings.cp437  # of names in zip archives; loaded here, before the guard
import encodings.raw_unicode_escape  # noqa: F401  of texts in the first pickle protocol
import json
import os
import pickle
import resource
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from weights.fuzz import mutations

from yolov7_jax.weights import load_model, read_checkpoint
from yolov7_jax.weights.checkpoint_contents import Checkpoint, CheckpointError

MEMORY_BYTES = 400 * 2**20  # that reading may take, on top of what the imports took
FORBIDDEN = (
    "import",
    *("exec", "compile", "pickle.find_class", "marshal.loads", "subprocess.Popen", "os.system"),
    *("os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rename", "os.mkdir", "os.chmod"),
    *("socket.__new__", "ctypes.dlopen", "builtins.input", "code.__new__", "function.__new__"),
)


def read(path):
    """Returns the error's message, or None if the file could be read and looks sound."""
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError as error:
        return checked(error, path)
    check(checkpoint, os.path.getsize(path))
    return None


def load(path):
    """Returns the error's message, or None if the file's model could be made."""
    try:
        load_model(path)
    except CheckpointError as error:
        return checked(error, path)
    return None


def checked(error, path):
    message = str(error)
    if "more memory" in message or "\n" in message or not message.startswith(str(path)):
        raise SystemExit(f"an error that does not say what is wrong: {message!r}") from error
    return message


def check(checkpoint: Checkpoint, file_size: int) -> None:
    """Ends the process if a checkpoint holds anything but views of a file of that size."""
    arrays = list(checkpoint.tensors.values()) + list((checkpoint.ema or {}).values())
    sound = bool(arrays) and all(type(array) is np.ndarray for array in arrays)
    for array in arrays:
        sound = sound and not array.flags.writeable
        if array.size:
            low, high = np.lib.array_utils.byte_bounds(array)
            sound = sound and high - low <= file_size
            array[(0,) * array.ndim], array[(-1,) * array.ndim]  # memory that is there
    if not sound:
        raise SystemExit("a damaged file was read as something that is no checkpoint")


def watch(event, args):
    """Ends the process at once when anything is executed or written."""
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if watching and (event in FORBIDDEN or writes):
        sys.stderr.write(f"forbidden: {event} {ascii(args)[:200]}\n")
        os._exit(3)


watching = False
if __name__ == "__main__":
    command, subject = sys.argv[1], Path(sys.argv[2])
    # What is imported at first use is not the files' doing.
    take = load if command == "load" else read
    for path in (Path("missing"), *(subject.iterdir() if subject.is_dir() else [])):
        if path.suffix != ".hostile":
            take(path)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.addaudithook(watch)
    results = {}
    if command == "unpickle":
        watching = True
        pickle.loads(subject.read_bytes())
    elif command in ("read", "load"):
        paths = sorted(subject.glob("*.hostile"))
        for path in paths:
            watching = True
            results[path.stem] = take(path)
            watching = False
    else:
        results = {"refused": 0, "read": 0}
        with zipfile.ZipFile(subject) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mutation"
            for data in mutations(files, int(sys.argv[3])):
                path.write_bytes(data)
                watching = True
                refused = read(path) is not None
                watching = False
                results["refused" if refused else "read"] += 1
    print(json.dumps(results))
