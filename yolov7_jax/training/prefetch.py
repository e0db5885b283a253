"""Batches that are made, and sent to the devices, while these still compute."""

import time
from collections.abc import Generator, Iterator
from typing import Any, Self

from grain.experimental import ThreadPrefetchDatasetIterator
from jax.sharding import Mesh

from yolov7_jax.training.mesh import shard_batch


class Prefetch(Iterator[Any]):
    """Gives the same batches on the devices; a context manager.

    Images are sent as 8-bit numbers; the step normalises them. What a run has to remember is how
    many batches it has taken: those made ahead are not counted, and are made again when it
    continues. An exception is raised in place of the batch that failed.

    Attributes:
      seconds_waited: time spent in waiting for batches so far.
    """

    def __init__(self, batches: Generator[Any, None, None], mesh: Mesh, ready: int = 1):
        """Begins to make batches, in a thread of its own.

        Args:
          batches: host batches, arrays with a leading batch axis; no one else may read them any
            more. Closed at the end.
          mesh: the devices that share a batch.
          ready: batches kept ready, at least 1; one more is made meanwhile.
        """
        self.seconds_waited = 0.0
        self._batches = batches
        self._ahead: ThreadPrefetchDatasetIterator | None
        self._ahead = ThreadPrefetchDatasetIterator(_OnDevices(batches, mesh), ready)
        self._ahead.start_prefetch()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __next__(self) -> Any:
        """Returns the next batch."""
        if self._ahead is None:
            raise StopIteration
        started = time.monotonic()
        try:
            return next(self._ahead)
        finally:
            self.seconds_waited += time.monotonic() - started

    def close(self) -> None:
        """Drops what was made ahead, and closes the source of batches; waits for a running one."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None  # grain complains of what is left when the program ends
        self._batches.close()


class _OnDevices:
    """What grain takes ahead of time: an iterator with a state, which is not used here."""

    def __init__(self, batches: Generator[Any, None, None], mesh: Mesh):
        self._batches, self._mesh = batches, mesh

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return shard_batch(next(self._batches), self._mesh)

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        del state
