"""What stops a run."""

import os
import signal

import pytest

from yolov7_jax.training import interruption as watch
from yolov7_jax.training.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop_and_names_itself(number, capsys):
    before = signal.getsignal(number)
    with Interruption(None) as interruption:
        assert not interruption.wanted(1)
        os.kill(os.getpid(), number)
        assert interruption.wanted(2)
        # Once more acts as usual.
        assert signal.getsignal(number) == before
    assert (interruption.signal, interruption.reason) == (number, number.name)
    assert "press again to abort" in capsys.readouterr().err


def test_a_second_interrupt_stops_at_once():
    with Interruption(None):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_signals_act_as_usual_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption(None):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_time_allowed_ends_a_run_and_names_its_flag(monkeypatch):
    now = 100.0
    monkeypatch.setattr(watch.time, "monotonic", lambda: now)
    with Interruption(0.5) as interruption:
        now += 1799
        assert not interruption.wanted(5)
        now += 2
        assert interruption.wanted(5)
    assert (interruption.signal, interruption.reason) == (None, "--max-hours 0.5")


def test_several_processes_stop_at_the_same_step_because_of_one(monkeypatch):
    monkeypatch.setattr(watch.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        watch, "max_over_processes", lambda *own: (signal.SIGTERM, False)
    )  # of another one
    with Interruption(None) as interruption:
        assert not interruption.wanted(15)
        assert interruption.wanted(16)
        assert interruption.wanted(17)
    assert (interruption.signal, interruption.reason) == (signal.SIGTERM, "SIGTERM")
