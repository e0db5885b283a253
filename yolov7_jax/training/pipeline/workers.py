"""How grain reads: in threads or in worker processes, and closed when nobody reads on."""

import contextlib
import functools
import gc
import itertools
import mmap
import multiprocessing
import os
import pathlib
import pickle
import signal
import threading
from collections.abc import Generator, Iterator
from multiprocessing import resource_tracker
from typing import Any

import cv2
import grain
from absl import flags
from grain.multiprocessing import SharedMemoryArray

from yolov7_jax.training.pipeline.memory import keep_freed_memory

FREEING_SECONDS = 10  # that freeing shared memory may take; normally milliseconds
_ALIGNMENT = 64  # bytes, of arrays that are shared
STOPPING = (signal.SIGINT, signal.SIGTERM)  # terminals and schedulers send them to all processes


def in_threads(samples: grain.MapDataset, num_threads: int, ahead: int) -> grain.IterDataset:
    """Reads samples in order, in threads.

    Args:
      samples: what to read.
      num_threads: how many; 0 reads in the caller's.
      ahead: samples that are made before they are asked for.
    """
    _prepare_process()
    ahead = max(num_threads, ahead) if num_threads else 0
    return samples.to_iter_dataset(grain.ReadOptions(num_threads, ahead))


def in_processes(batches: grain.MapDataset, num_processes: int) -> Generator[Any, None, None]:
    """Reads batches in order, whole ones in each worker process, which `close` ends.

    A signal that stops a run is this process's matter: the workers go on, as batches are wanted
    until the run has ended in order. Should this process be killed, they end by themselves.

    Args:
      batches: what to read; it is pickled and sent to every worker. Batches must be made before,
        since workers share the elements among them.
      num_processes: how many; at least 1.
    """
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # or else grain takes our command line for its own
    options = grain.MultiprocessingOptions(num_processes, per_worker_buffer_size=2)
    one_at_a_time = batches.to_iter_dataset(grain.ReadOptions(1, 1))
    received = closing(one_at_a_time.mp_prefetch(options, worker_init_fn=_start_worker))
    with contextlib.closing(received):
        resource_tracker.ensure_running()  # starting it would unblock the signals
        # All workers start with the first batch. What is blocked here is blocked in them for good,
        # from their first moment on.
        with _blocked(STOPPING):
            first = list(itertools.islice(received, 1))
        yield from first
        yield from received


def share(value: Any, folder: pathlib.Path) -> None:
    """Writes a value so that all processes that `load_shared` it share the memory of its arrays.

    Args:
      value: anything that can be pickled, with contiguous arrays.
      folder: an empty folder, which must stay until the last process has loaded the value.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    places = []
    with (folder / "arrays").open("wb") as file:
        file.write(bytes(_ALIGNMENT))  # an empty file could not be mapped
        for buffer in buffers:
            content = buffer.raw()
            places.append((file.tell(), content.nbytes))
            file.write(content)
            file.write(bytes(-content.nbytes % _ALIGNMENT))
    (folder / "value").write_bytes(pickle.dumps((places, pickled)))


@functools.lru_cache(maxsize=1)
def load_shared(folder: pathlib.Path) -> Any:
    """Returns what `share` has written, with arrays that cannot be written to."""
    places, pickled = pickle.loads((folder / "value").read_bytes())
    with (folder / "arrays").open("rb") as file:
        arrays = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    buffers = [arrays[start : start + length] for start, length in places]
    return pickle.loads(pickled, buffers=buffers)


@contextlib.contextmanager
def _blocked(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Keeps signals from this thread, and from what it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(worker: int, workers: int) -> None:
    del worker, workers
    _prepare_process()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # grain would wait forever for somebody to take what is ready


def _prepare_process() -> None:
    cv2.setNumThreads(1)  # OpenCV's own threads and ours would compete for the same cores
    keep_freed_memory()


def free_shared_memory() -> None:
    """Frees the memory in which worker processes have sent what nobody holds any more.

    What a failure leaves behind is in circles, and grain frees in a thread of its own, which the
    end of the program may overtake. Then Python tells of leaks.
    """
    gc.collect()
    thread = getattr(SharedMemoryArray, "_del_thread_pool", None)  # has no public name
    if thread is not None:
        thread.apply_async(int).wait(FREEING_SECONDS)  # done when all before it is


def closing(batches: grain.IterDataset) -> Generator[Any, None, None]:
    """Iterates, and ends threads and processes when the iterator is closed or gone."""
    iterator = iter(batches)
    try:
        yield from iterator
    finally:
        iterator.close()
