"""What a file of weights holds, whatever its format, and the error of files that cannot be read."""

import contextlib
import dataclasses
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from yolov7_jax.errors import UserError


class CheckpointError(UserError):
    """A file of weights cannot be read; the message is `path: what is wrong`."""


class FormatError(ValueError):
    """What is wrong with the content of a file; `naming_file` adds which file."""


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of a file of weights, in PyTorch's layout and in the types that it is stored in.

    The arrays are read-only: nothing is converted, and tensors that share memory in the file share
    it here.

    Attributes:
      tensors: official key -> array.
      ema: the same of the moving average, where the file has one.
      names: the class names in the order of the labels, where the file has them.
      epoch: the last epoch trained, counted from 0; None where the file holds no training state.
      image_size: the longer side of the images that it was trained with, in pixels, where the
        file tells.
      anchors: `[levels, anchors, 2]` float32, widths and heights in input pixels.
      activation: its class in PyTorch, where the file tells: `"SiLU"`, `"LeakyReLU"` (then of slope
        0.1), or one that no model here has.
      model: the name of the architecture, where the file tells.
      width: what multiplies the number of channels, likewise.
      metadata: whatever a file of this library says about its model, as JSON; of other safetensors
        files the texts that they carry.
    """

    tensors: dict[str, np.ndarray]
    ema: dict[str, np.ndarray] | None = None
    names: tuple[str, ...] | None = None
    epoch: int | None = None
    image_size: int | None = None
    anchors: np.ndarray | None = None
    activation: str | None = None
    model: str | None = None
    width: float | None = None
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The tensors to predict with: the moving average where there is one."""
        return self.tensors if self.ema is None else self.ema


@contextlib.contextmanager
def naming_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns every exception in its body into a `CheckpointError` that begins with the path."""
    try:
        yield
    except CheckpointError:
        raise
    except FormatError as fault:
        raise CheckpointError(f"{os.fspath(path)}: {fault}") from None
    except OSError as fault:
        raise CheckpointError(
            f"{os.fspath(path)}: cannot be read ({fault.strerror or fault})"
        ) from fault
    except MemoryError:
        raise CheckpointError(f"{os.fspath(path)}: needs more memory than there is") from None
    # A damaged file can make the libraries below raise nearly anything, and a caller who was
    # promised one exception must not have to know them.
    except Exception as fault:
        kind = type(fault).__name__
        raise CheckpointError(
            f"{os.fspath(path)}: damaged file ({kind}: {quoted(str(fault))})"
        ) from fault


@contextlib.contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file, but not a pipe or device, which could give bytes without end.

    Raises:
      FormatError: it is none.
      OSError: it cannot be opened.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        # Of what was opened: whatever the path names by now may be something else.
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FormatError("is not a regular file")
        yield file


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has no such pipes


def quoted(text: str) -> str:
    """Returns a text from a file for an error message: short, on one line, no control codes."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def without_wrapper(tensors: Mapping) -> dict:
    """Drops the prefix that PyTorch's data-parallel wrappers give to every key."""
    prefix = "module."
    if not all(key.startswith(prefix) for key in tensors):
        return dict(tensors)
    return {key.removeprefix(prefix): value for key, value in tensors.items()}
