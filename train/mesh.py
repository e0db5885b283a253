"""Devices: how arrays lie on them.

One axis, "data": every device holds the whole state and a share of each batch. Under `jax.jit`
sums over a batch are sums over the global batch, so results do not depend on the devices' number.
"""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.errors import UserError


def make_mesh(batch_size: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh over devices.

    Args:
      batch_size: images per step, over all devices.
      devices: by default all local ones.

    Raises:
      UserError: the batch cannot be shared evenly.
    """
    devices = jax.local_devices() if devices is None else devices
    if batch_size % len(devices):
        raise UserError(
            f"--batch-size (={batch_size}) must be a multiple of {len(devices)}, "
            "the number of devices that share a batch"
        )
    return Mesh(np.asarray(devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Moves host arrays with a leading batch axis to the devices, a share to each."""
    return jax.device_put(batch, batch_sharding(mesh))


class Prefetch(Iterator[Any]):
    """Makes batches and sends them to the devices while these still compute; see `prefetch`."""

    def __init__(self, batches: Generator[Any, None, None], mesh: Mesh, depth: int):
        self._batches, self._mesh = batches, mesh
        self._ready: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._closing = threading.Event()
        self._ended: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __next__(self) -> Any:
        """Returns the next batch, on the devices.

        Raises:
          StopIteration: the batches have come to their end, or this is closed.
          Exception: what making this batch has raised.
        """
        if self._ended is None and not self._closing.is_set():
            batch, self._ended = self._ready.get()
            if self._ended is None:
                self._room.release()
                return batch
            if not isinstance(self._ended, StopIteration):
                raise self._ended
        raise StopIteration

    def close(self) -> None:
        """Drops what was made ahead, and closes the source of batches; waits for a running one."""
        self._closing.set()
        self._room.release()
        self._thread.join()
        while not self._ready.empty():
            self._ready.get_nowait()

    def _run(self) -> None:
        # The source lives in this thread alone: a generator cannot be closed while another runs it.
        with contextlib.closing(self._batches):
            while True:
                self._room.acquire()
                if self._closing.is_set():
                    return
                try:
                    batch = shard_batch(next(self._batches), self._mesh)
                except BaseException as error:
                    self._ready.put((None, error))
                    return
                self._ready.put((batch, None))


def prefetch(batches: Generator[Any, None, None], mesh: Mesh, depth: int = 2) -> Prefetch:
    """Returns an iterator over the same batches on the devices, made while these still compute.

    Pictures are sent as 8-bit numbers; the step normalises them. What a run has to remember is how
    many batches it has taken: those made ahead are not counted, and are made again when it
    continues.

    Args:
      batches: host batches, arrays with a leading batch axis; no one else may read them any more.
        Closed at the end.
        An exception is raised in place of the batch that failed.
      mesh: the devices that share a batch.
      depth: batches made ahead, at least 1.

    Raises:
      ValueError: the depth is not positive.
    """
    if depth < 1:
        raise ValueError(f"depth (={depth}) must be at least 1")
    return Prefetch(batches, mesh, depth)
