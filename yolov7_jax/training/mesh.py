"""Devices: how arrays lie on them.

One axis, "data", over all devices of all processes: every device has a share of each batch, and
the whole state unless that is sharded too. Under `jax.jit` sums over a batch are sums over the
global batch, so results do not depend on the devices' number.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from yolov7_jax.errors import UserError

DATA_AXIS = "data"
LEAST_SHARDED = 2**12  # numbers; smaller arrays cost more to gather than to keep


def make_mesh(batch_size: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh over devices.

    Args:
      batch_size: images per step, over all devices.
      devices: by default all, of all processes.

    Raises:
      UserError: the batch cannot be shared evenly.
    """
    if devices is None:
        # A process's rows of a batch lie together; on TPU pods devices may be numbered otherwise.
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if batch_size % len(devices):
        raise UserError(
            f"--batch-size (={batch_size}) must be a multiple of {len(devices)}, "
            "the number of devices that share a batch"
        )
    return Mesh(np.asarray(devices), (DATA_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def state_shardings(state: Any, mesh: Mesh, *, shard: bool) -> Any:
    """Returns how each array of a training state lies on the devices.

    Args:
      state: a tree of arrays, which may be abstract.
      mesh: the devices.
      shard: give each device a part of every large array, along the longest axis that the devices
        divide evenly, instead of a copy of all.

    Returns:
      A tree of shardings like `state`.
    """

    def sharding(leaf: Any) -> NamedSharding:
        fitting = [axis for axis, side in enumerate(leaf.shape) if side % mesh.size == 0]
        if not shard or not fitting or np.prod(leaf.shape) < LEAST_SHARDED:
            return replicated(mesh)
        longest = max(fitting, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, DATA_AXIS))

    return jax.tree.map(sharding, state)


def place(tree: Any, shardings: Any) -> Any:
    """Moves arrays that every process has whole to the devices.

    Args:
      tree: arrays, the same in every process.
      shardings: a tree of shardings like `tree`, or one for all.
    """

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda leaf: put(leaf, shardings), tree)
    return jax.tree.map(put, tree, shardings)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Moves host arrays with a leading batch axis to the devices, a share to each.

    Args:
      batch: a tree of arrays: this process's slice of the batch.
      mesh: the devices.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch
    )


def own_rows(array: jax.Array) -> np.ndarray:
    """Returns the part of an array sharded by its first axis that this process's devices hold.

    The inverse of `shard_batch`.
    """
    parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


class Prefetch(Iterator[Any]):
    """Makes batches and sends them to the devices while these still compute; see `prefetch`.

    Attributes:
      seconds_waited: time spent in waiting for batches so far.
    """

    def __init__(self, batches: Generator[Any, None, None], mesh: Mesh, depth: int):
        self._batches, self._mesh = batches, mesh
        self._ready: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._closing = threading.Event()
        self._ended: BaseException | None = None
        self.seconds_waited = 0.0
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
            started = time.monotonic()
            batch, self._ended = self._ready.get()
            self.seconds_waited += time.monotonic() - started
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

    Images are sent as 8-bit numbers; the step normalises them. What a run has to remember is how
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
