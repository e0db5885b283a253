"""What fails while a run reads its images ends it with one message, and without hanging."""

import contextlib
import itertools
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from seven_images import EVERYTHING, SIZE, make_dataset

from yolov7_jax.cli import main
from yolov7_jax.data.images import UnreadableImageError
from yolov7_jax.training.mesh import make_mesh
from yolov7_jax.training.pipeline.file_images import read_pixels
from yolov7_jax.training.pipeline.image_cache import open_cache
from yolov7_jax.training.pipeline.stream import train_batches
from yolov7_jax.training.prefetch import Prefetch

TESTS = Path(__file__).parents[2]
WORKERS = [(0, False), (1, False), (2, False), (2, True)]  # number, and whether processes
ADVICE = "`yolov7-jax check` finds all such images of a data set and leaves them out"
LONGEST = 60  # seconds; a worker process takes two to start on an idle machine


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


def batches_of(dataset, workers, cache=None):
    num_workers, processes = workers
    return train_batches(
        dataset,
        image_size=SIZE,
        batch_size=4,
        seed=3,
        augment=EVERYTHING,
        num_workers=num_workers,
        worker_processes=processes,
        cache=cache,
    )


def fit_with(monkeypatch, capsys, batches, spoil):
    """Runs `train`, of which only the reading of batches is left; returns its exit code and errors.

    Args:
      batches: what is read.
      spoil: called after the first batch.
    """

    def fit(config, run):
        with Prefetch(batches, make_mesh(1, jax.devices()[:1])) as ready:
            next(ready)
            spoil()
            for _ in itertools.islice(ready, 200):
                pass
        raise AssertionError("nothing went wrong")

    monkeypatch.setattr("yolov7_jax.cli.training_program.train", fit)
    started = time.monotonic()
    code = main(["train", "--data", "demo", "--output", "never-written"])
    assert time.monotonic() - started < LONGEST
    return code, capsys.readouterr().err.splitlines()[-1]


def lose(path):
    path.unlink()
    return f"cannot be read: No such file or directory; {ADVICE}"


def cut_off(path):
    path.write_bytes(path.read_bytes()[:40])
    return f"is not an image that OpenCV can decode; {ADVICE}"


def replace(path):
    cv2.imwrite(str(path), np.zeros((30, 90, 3), np.uint8))
    return "has 90 x 30 pixels, not 70 x 50 as when the data set was scanned"


@pytest.mark.parametrize(
    ("spoil", "workers"),
    [*((lose, workers) for workers in WORKERS), (cut_off, (0, False)), (replace, (2, False))],
)
def test_an_image_that_is_spoilt_while_training_is_named(
    dataset, tmp_path, monkeypatch, capsys, spoil, workers
):
    path, told = tmp_path / "3.png", []
    batches = batches_of(dataset, workers)
    code, error = fit_with(monkeypatch, capsys, batches, lambda: told.append(spoil(path)))
    assert code == 2
    assert error == f"error: {path}: {told[0]}"


@pytest.mark.parametrize("halvings", range(4))
@pytest.mark.parametrize("size", [(401, 299), (300, 401), (417, 301)])
def test_a_jpeg_of_another_size_is_named_however_much_it_is_reduced(tmp_path, size, halvings):
    path = str(tmp_path / "a.jpg")
    width, height = size
    cv2.imwrite(path, np.zeros((height, width, 3), np.uint8))
    read_pixels(path, size, 640, halvings)
    if size != (401, 299):
        told = f"a.jpg: has {width} x {height} pixels, not 401 x 299 as when"
        with pytest.raises(UnreadableImageError, match=told):
            read_pixels(path, (401, 299), 640, halvings)


@pytest.fixture
def full_disk():
    """Writing fails as on a full disk, in this process and those that it starts."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_cache_that_cannot_be_filled_is_named(dataset, tmp_path, full_disk, workers):
    path = tmp_path / "cache.images"
    batches = batches_of(dataset, workers, open_cache(dataset, SIZE, "disk", path))
    full_disk()
    with pytest.raises(ValueError, match=f"{path}: the cache of images cannot be written: "):
        next(batches)
    batches.close()


def test_a_worker_process_that_is_killed_ends_the_run(dataset, monkeypatch, capsys):
    def kill():
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    code, error = fit_with(monkeypatch, capsys, batches_of(dataset, (2, True)), kill)
    assert code == 2
    assert "terminated unexpectedly with exit code -9; if for lack of memory, fewer" in error


def test_what_stops_a_run_does_not_stop_its_worker_processes(dataset):
    received = batches_of(dataset, (2, True))

    def stop_all(seen):
        for worker in multiprocessing.active_children():
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(worker.pid, number)
            seen.add(worker.pid)

    early, ready = set(), threading.Event()

    def stop_while_they_start():
        while not ready.wait(0.01) and len(early) < 2:
            stop_all(early)

    with contextlib.closing(received):
        stopping = threading.Thread(target=stop_while_they_start)
        stopping.start()
        next(received)
        ready.set()
        stopping.join()
        assert len(early) == 2
        stop_all(late := set())
        for _ in range(20):
            next(received)
        assert late == early
        assert {worker.pid for worker in multiprocessing.active_children()} == early
    assert not multiprocessing.active_children()


def test_worker_processes_do_not_outlive_a_killed_run(tmp_path):
    # They have its standard output, too, which is at its end when nobody has it any more.
    result = run_program(tmp_path, "itself")
    assert result.returncode == -signal.SIGKILL


def test_worker_processes_leave_no_shared_memory_behind(tmp_path):
    result = run_program(tmp_path, "3.png")
    assert result.returncode == 0
    assert result.stderr == ""
    assert "3.png: cannot be read" in result.stdout


def run_program(folder, lost):
    """Reads batches in a program of its own, until something is lost; returns how that ended."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(TESTS), str(folder), lost],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )


PROGRAM = """
import os, signal, sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from seven_images import EVERYTHING, SIZE, make_dataset
from yolov7_jax.training.pipeline.stream import train_batches

if __name__ == "__main__":
    folder = Path(sys.argv[2])

    def read():
        return train_batches(
            make_dataset(folder), image_size=SIZE, batch_size=4, seed=3, augment=EVERYTHING,
            num_workers=1, worker_processes=True,
        )

    batches = read()
    held = [next(batches)]  # as a device may, which does not copy what is in the host's memory
    if sys.argv[3] == "itself":
        os.kill(os.getpid(), signal.SIGKILL)
    batches.close()
    batches = read()
    held.append(next(batches))
    (folder / sys.argv[3]).unlink()
    try:
        for _ in range(200):
            next(batches)
    except ValueError as error:
        print(error)
    batches.close()
"""
