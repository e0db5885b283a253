"""Which signals end work in order, and which are left alone."""

import signal
import threading

import pytest

from yolov7_jax.signals import on_stop_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_calls_the_function_until_restored(number):
    came, before = [], signal.getsignal(number)
    with on_stop_signal(lambda number, frame: came.append(number)) as restore:
        signal.raise_signal(number)
        restore()
        assert signal.getsignal(number) == before
    assert came == [number]
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_so(monkeypatch):
    # As in the background of a shell without job control.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with on_stop_signal(lambda number, frame: pytest.fail("heard")):
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_is_not_pythons_is_left_alone(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("was replaced"))
    with on_stop_signal(print) as restore:
        restore()


def test_other_threads_change_nothing():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with on_stop_signal(print):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
