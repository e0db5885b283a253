import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yolov7_jax.training.mesh import make_mesh
from yolov7_jax.training.prefetch import Prefetch


class Source:
    """Numbered batches; notes what was made, where, and whether it was closed."""

    def __init__(self, end=1000, fault=None):
        self.made, self.threads, self.closed = 0, set(), False
        self.end, self.fault = end, fault

    def batches(self):
        try:
            for number in range(self.end):
                if number == self.fault:
                    raise ValueError(f"batch {number} is broken")
                self.made += 1
                self.threads.add(threading.get_ident())
                yield np.full((2, 3), number, np.uint8), np.full(2, number, np.int32)
        finally:
            self.closed = True


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(2, jax.devices()[:1])


def settle(source, made):
    """Waits until so many batches are made, and gives more the chance to follow."""
    deadline = time.monotonic() + 5
    while source.made < made and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.05)
    return source.made


def test_batches_come_in_order_on_the_devices_and_keep_their_types(mesh):
    with Prefetch(Source(5).batches(), mesh) as batches:
        taken = list(batches)
    assert [int(images[0, 0]) for images, _ in taken] == list(range(5))
    images, numbers = taken[3]
    assert isinstance(images, jax.Array)
    assert (images.dtype, numbers.dtype) == (jnp.uint8, jnp.int32)


@pytest.mark.parametrize("ready", [1, 3])
def test_exactly_so_many_batches_are_made_ahead_and_one_meanwhile(mesh, ready):
    source = Source()
    with Prefetch(source.batches(), mesh, ready) as batches:
        assert settle(source, ready + 1) == ready + 1
        for taken in range(1, 4):
            next(batches)
            assert settle(source, taken + ready + 1) == taken + ready + 1
    assert threading.get_ident() not in source.threads


def test_batches_are_made_while_the_taker_works(mesh):
    def slow():
        for number in range(6):
            time.sleep(0.05)
            yield np.full((2, 1), number)

    started = time.monotonic()
    with Prefetch(slow(), mesh) as batches:
        for _ in batches:
            time.sleep(0.05)
    assert time.monotonic() - started < 0.55  # one after the other takes 0.6 s


def test_an_exception_comes_in_the_place_of_its_batch(mesh):
    source = Source(fault=3)
    with Prefetch(source.batches(), mesh) as batches:
        settle(source, 2)
        assert [int(next(batches)[1][0]) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="batch 3 is broken"):
            next(batches)
        with pytest.raises(StopIteration):
            next(batches)
    assert source.closed


def test_closing_ends_the_thread_and_the_source_at_any_time(mesh):
    for taken in (0, 1, 5):
        before, source = threading.active_count(), Source()
        batches = Prefetch(source.batches(), mesh)
        for _ in range(taken):
            next(batches)
        settle(source, 1)
        batches.close()
        batches.close()
        assert source.closed
        assert threading.active_count() == before
        with pytest.raises(StopIteration):
            next(batches)


def test_a_batch_is_what_the_source_made_not_what_became_of_it(mesh):
    with Prefetch(Source(20).batches(), mesh, ready=8) as batches:
        sums = [int(jnp.sum(images)) for images, _ in batches]
    assert sums == [6 * number for number in range(20)]
