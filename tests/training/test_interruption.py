"""What stops a run, and what it warns of."""

import os
import signal

import pytest

from yolov7_jax.training import interruption as watch
from yolov7_jax.training.interruption import Interruption, highest_ap, out_of_patience, warnings

LOSS = "train/ota/total"


def epochs(losses, aps=None, skipped=None):
    aps, skipped = aps or [None] * len(losses), skipped or [0] * len(losses)
    return [
        {"epoch": epoch, LOSS: loss, "skipped": left_out} | ({} if ap is None else {"ap": ap})
        for epoch, (loss, ap, left_out) in enumerate(zip(losses, aps, skipped, strict=True), 1)
    ]


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
    monkeypatch.setattr(watch, "most", lambda *own: (signal.SIGTERM, False))  # of another one
    with Interruption(None) as interruption:
        assert not interruption.wanted(15)
        assert interruption.wanted(16)
        assert interruption.wanted(17)
    assert (interruption.signal, interruption.reason) == (signal.SIGTERM, "SIGTERM")


def test_a_steady_run_is_not_warned_of():
    assert warnings(epochs([0.3, 0.2, 0.29], [0.1, 0.3, 0.16]), "ota") == []
    assert warnings(epochs([0.3]), "ota") == []


def test_a_loss_far_above_its_lowest_is_called_divergence_with_advice():
    (text,) = warnings(epochs([0.3, 0.2, 0.31]), "ota")
    assert "the training loss is 0.31, and was 0.2" in text
    assert "--optim.lr0" in text


def test_an_accuracy_far_below_its_best_is_told_with_the_epoch_of_the_best():
    (text,) = warnings(epochs([0.3, 0.2, 0.2], [0.1, 0.5, 0.2]), "ota")
    assert "AP is 0.200, and was 0.500 after epoch 2" in text
    assert warnings(epochs([0.3, 0.2], [0.019, 0.0]), "ota") == []  # noise


def test_averaged_weights_without_finite_losses_are_called_divergence():
    records = epochs([0.3, 0.2])
    records[-1]["val/ota/total"] = None
    (text,) = warnings(records, "ota")
    assert "the averaged weights give no finite losses any more: training diverges" in text


def test_batches_left_out_are_counted_in_words():
    (text,) = warnings(epochs([0.3, 0.2], skipped=[0, 4]), "ota")
    assert "4 batches of epoch 2 were left out" in text


def test_an_epoch_that_learnt_nothing_has_no_loss_to_compare():
    records = epochs([None, 0.3, None], skipped=[3, 0, 3])
    assert all("left out" in text for text in warnings(records, "ota"))
    assert warnings(records[:2], "ota") == []


def test_the_highest_accuracy_is_the_earliest_of_equals():
    assert highest_ap(epochs([1, 1, 1, 1], [0.1, 0.4, None, 0.4]))["epoch"] == 2
    assert highest_ap(epochs([1, 1])) is None


@pytest.mark.parametrize(
    ("aps", "patience", "over"),
    [
        ([0.3, 0.2, 0.2], 2, True),
        ([0.3, 0.2, 0.2], 3, False),
        ([0.3, 0.2, 0.2], 0, False),
        ([0.1, 0.2, 0.3], 1, False),
        ([0.3, None, None], 1, False),  # nothing was measured since
        ([0.3, None, 0.3], 2, True),
        ([None, None, None], 1, False),
        ([], 1, False),
    ],
)
def test_patience_ends_when_so_many_epochs_gave_no_higher_accuracy(aps, patience, over):
    assert out_of_patience(epochs([1] * len(aps), aps), patience) is over
