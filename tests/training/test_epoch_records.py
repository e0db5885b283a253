"""What the records of epochs tell: divergence, the best epoch, the end of patience."""

import types

import numpy as np
import pytest

from yolov7_jax.training.epoch_records import (
    evaluation_record,
    highest_ap,
    out_of_patience,
    warnings,
)

LOSS = "train/ota/total"


def epochs(losses, aps=None, skipped=None):
    aps, skipped = aps or [None] * len(losses), skipped or [0] * len(losses)
    return [
        {"epoch": epoch, LOSS: loss, "skipped": left_out} | ({} if ap is None else {"ap": ap})
        for epoch, (loss, ap, left_out) in enumerate(zip(losses, aps, skipped, strict=True), 1)
    ]


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


def test_numbers_of_a_diverged_evaluation_are_nothing_in_the_record():
    accuracy = types.SimpleNamespace(
        ap=0.0, ap50=0.0, ap75=float("nan"), class_ap=np.array([0, np.nan]), class_ap50=np.zeros(2)
    )
    losses = {"box": 0.1, "obj": float("inf"), "cls": float("nan")}
    evaluation = types.SimpleNamespace(accuracy=accuracy, losses=losses)
    record = evaluation_record(evaluation, ("cat", "dog"), "ota")
    assert record["val/ota/box"] == 0.1
    assert [record[f"val/ota/{name}"] for name in ("obj", "cls", "total")] == [None] * 3
    assert (record["ap75"], record["class_ap"]) == (None, {"cat": 0.0, "dog": None})
