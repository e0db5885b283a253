"""What libraries in C print about images: kept off the terminal, and told as reasons.

libjpeg and libpng write to the standard error of the process, past Python, in the middle of
progress bars and without the name of the file.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO, Self, TypeVar

Result = TypeVar("Result")

STDERR = 2
# How such lines begin.
DECODERS = (
    "Corrupt JPEG data:",
    "Premature end of JPEG file",
    "Inconsistent progression sequence",
    "Invalid SOS parameters",
    "Warning: unknown JFIF revision",
    "Unknown Adobe color transform",
    "libpng warning:",
    "libpng error:",
)
# After these a JPEG image is decoded to the end, but some of it is grey or displaced.
DAMAGE = ("Corrupt JPEG data:", "Premature end of JPEG file")
# What lies between the image and its end: nothing that matters, or what was left over when the
# decoder lost its place in damaged data.
DOUBT = "extraneous bytes before marker 0xd"
# How lines of OpenCV's own log begin, which tell no more than it returns.
LOG = ("[DEBUG:", "[ INFO:", "[ WARN:", "[ERROR:", "[FATAL:")
_FILTER = """
import sys
for line in sys.stdin.buffer:
    if not line.startswith({prefixes}):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""
# What came to a file that was no decoder's, when its writer has ended, in whatever way.
_REST = """
import os, sys
sys.stdin.buffer.read()
for line in os.pread({file}, 10**6, 0).splitlines(keepends=True):
    if not line.startswith({prefixes}):
        sys.stderr.buffer.write(line)
"""
_FILTER_SECONDS = 0.5  # what a filter may take to pass on the last lines


class DecoderMessages:
    """Collects what is printed while images are decoded; a context manager.

    Only one can be open at a time, since a process has one standard error. What Python itself
    prints still reaches the terminal; what other C code prints does so in the end, or when it
    crashes.
    """

    _open: "DecoderMessages | None" = None

    def __init__(self):
        self._stack = contextlib.ExitStack()
        self._file: BinaryIO | None = None
        self._changed = threading.Condition()
        self._inside, self._alone = 0, False

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):
            file = self._stack.enter_context(tempfile.TemporaryFile())
            self._stack.enter_context(_helper(_REST, file.fileno()))
            self._stack.enter_context(_standard_error_to(file.fileno()))
            self._file = file
            DecoderMessages._open = self
        return self

    def __exit__(self, *exception: object) -> None:
        if DecoderMessages._open is self:
            DecoderMessages._open = None
        self._stack.close()

    def watch(self, decode: Callable[[], Result]) -> tuple[Result, str]:
        """Returns what `decode` returns, and the first message that it caused; empty for none.

        All threads print into the same file. So where something was printed, it is decoded again
        while no other thread decodes, which tells whose message it was.
        """
        if self._file is None:
            return decode(), ""
        with self._gate(alone=False):
            before = self._length()
            result = decode()
            if self._length() == before:
                return result, ""
        with self._gate(alone=True):
            before = self._length()
            result = decode()
            printed = os.pread(self._file.fileno(), 1000, before).decode("utf-8", "replace")
        lines = [line for line in printed.splitlines() if line.startswith(DECODERS)]
        return result, lines[0] if lines else ""

    def _length(self) -> int:
        return os.fstat(self._file.fileno()).st_size if self._file else 0

    @contextlib.contextmanager
    def _gate(self, *, alone: bool) -> Iterator[None]:
        """Lets any number of threads in together, or one alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not (alone and self._inside))
            self._alone = alone
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._inside -= 1
                self._changed.notify_all()


def watch_decoder(decode: Callable[[], Result]) -> tuple[Result, str]:
    """Runs `DecoderMessages.watch` of the one that is open; without one nothing is collected."""
    messages = DecoderMessages._open
    return messages.watch(decode) if messages else (decode(), "")


def is_damage(message: str) -> bool:
    """Says whether a decoder's message means that an image is not as it was made."""
    return message.startswith(DAMAGE) and "extraneous bytes" not in message


def is_doubt(message: str) -> bool:
    """Says whether a decoder's message may mean so."""
    return DOUBT in message


@contextlib.contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keeps what C code prints about images off the terminal, and passes on all the rest.

    A process of its own does so: what the last words of a crash are still arrives.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # without it the messages are only untidy
            stack.enter_context(_standard_error_to(stack.enter_context(_helper(_FILTER))))
        yield


@contextlib.contextmanager
def _helper(program: str, file: int | None = None) -> Iterator[int]:
    """Runs a small program beside this one, and gives the descriptor that it reads to the end."""
    prefixes = repr(tuple(prefix.encode() for prefix in (*DECODERS, *LOG)))
    program = program.format(prefixes=prefixes, file=file)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program],
        stdin=subprocess.PIPE,
        pass_fds=() if file is None else (file,),
        start_new_session=True,  # or Ctrl-C ended it before the command that it serves
    )
    if process.stdin is None:
        raise OSError("a pipe that was asked for is not there")
    try:
        yield process.stdin.fileno()
    finally:
        _finish(process)


def _finish(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    # Worker processes that outlive us hold the other end open; they may go on printing.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_FILTER_SECONDS)


@contextlib.contextmanager
def _standard_error_to(descriptor: int) -> Iterator[None]:
    """Sends standard error elsewhere, but for what Python prints to `sys.stderr`."""
    terminal = os.dup(STDERR)
    python = sys.stderr
    try:
        is_terminal = python.fileno() == STDERR
    except (AttributeError, OSError, ValueError):  # replaced, or closed
        is_terminal = False
    if is_terminal:
        python.flush()
        sys.stderr = os.fdopen(
            terminal,
            "w",
            buffering=1,
            encoding=python.encoding,
            errors=python.errors,
            closefd=False,
        )
    os.dup2(descriptor, STDERR)
    try:
        yield
    finally:
        if is_terminal:
            sys.stderr.flush()
            sys.stderr = python
        os.dup2(terminal, STDERR)
        os.close(terminal)
