"""Work ahead of the one who asks: in order, no further than told, and gone when closed."""

import itertools
import threading
import time

import pytest

from yolov7_jax.data.ahead import map_ahead

WORKERS = (0, 1, 2, 5)
LONGEST = 10  # seconds that threads may take to do what they should do at once


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def wait_until(condition):
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Counted:
    """Numbers from 0 on, which know how far they were read."""

    def __init__(self):
        self.read = 0

    def __iter__(self):
        for number in itertools.count():
            self.read = number + 1
            yield number


@pytest.mark.parametrize("workers", WORKERS)
def test_results_come_in_the_order_of_the_items(workers):
    def slow_at_first(number):
        time.sleep(0.02 if number == 0 else 0)
        return -number

    results = map_ahead(slow_at_first, range(20), workers=workers, ahead=7)
    assert list(results) == [-number for number in range(20)]
    assert not threads()
    assert list(map_ahead(str, [], workers=workers, ahead=7)) == []


@pytest.mark.parametrize(("workers", "ahead", "most"), [(1, 4, 4), (2, 4, 4), (3, 1, 3), (1, 0, 1)])
def test_items_are_read_no_further_than_that_many_results_ahead(workers, ahead, most):
    items = Counted()
    results = map_ahead(str, items, workers=workers, ahead=ahead)
    assert items.read == 0
    for place in range(5):
        assert next(results) == str(place)
        assert items.read == place + 1 + most
    results.close()


def test_results_are_made_before_they_are_asked_for():
    made = []
    results = map_ahead(made.append, Counted(), workers=2, ahead=5)
    next(results)
    wait_until(lambda: sorted(made) == list(range(6)))
    results.close()


def test_as_many_items_are_worked_on_at_once_as_there_are_threads():
    together = threading.Barrier(3, timeout=LONGEST)  # passes when three wait at it
    results = map_ahead(lambda _: together.wait(), range(3), workers=3, ahead=1)
    assert sorted(results) == [0, 1, 2]


def test_without_workers_each_is_made_when_asked_and_in_the_callers_thread():
    items = Counted()
    results = map_ahead(lambda _: threading.current_thread(), items, workers=0, ahead=9)
    for place in range(3):
        assert next(results) is threading.current_thread()
        assert items.read == place + 1
    assert not threads()


@pytest.mark.parametrize("workers", WORKERS)
def test_what_the_function_raises_reaches_the_caller_in_its_turn(workers):
    def fail_at_three(number):
        if number == 3:
            raise KeyError("three")
        return number

    results = map_ahead(fail_at_three, itertools.count(), workers=workers, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)
    assert not threads()
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("workers", WORKERS)
def test_what_the_items_raise_reaches_the_caller(workers):
    def broken():
        yield 0
        raise OSError("no more")

    results = map_ahead(str, broken(), workers=workers, ahead=1)
    with pytest.raises(OSError, match="no more"):
        list(results)
    assert not threads()


def test_closing_ends_the_threads_and_starts_nothing_more():
    started = []
    going_on = threading.Event()

    def wait_from_one_on(number):
        started.append(number)
        if number:
            going_on.wait(LONGEST)

    results = map_ahead(wait_from_one_on, Counted(), workers=2, ahead=10)
    next(results)
    wait_until(lambda: len(started) == 3)
    assert len(threads()) == 2
    threading.Timer(0.05, going_on.set).start()
    results.close()
    assert not threads()
    assert sorted(started) == [0, 1, 2]
