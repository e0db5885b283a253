"""Images chosen by what is detected badly, and epochs without mosaics."""

import dataclasses
import signal
import threading

import numpy as np
import pytest
from seven_images import ALONE, NUM_IMAGES, PLAIN, images_shown, make_dataset, take
from stopped_runs import signal_after

from benchmarks.interruptions import differences
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.training import loop
from yolov7_jax.training.image_weights import EVEN_SHARE, image_probabilities
from yolov7_jax.training.loop import train
from yolov7_jax.training.progress import epoch_line

BATCH = 4


def made_up(labels_of_images, crowd=None):
    """A data set of such objects; no image is ever read."""
    counts = [len(labels) for labels in labels_of_images]
    labels = np.asarray([label for labels in labels_of_images for label in labels], np.int32)
    return Dataset(
        names=("a", "b"),
        paths=tuple(f"{number}.png" for number in range(len(counts))),
        sizes=np.full((len(counts), 2), 10, np.int32),
        offsets=np.cumsum([0, *counts]),
        labels=labels,
        boxes=np.full((len(labels), 4), 0.5, np.float32),
        crowd=crowd,
    )


def record(**class_ap):
    return {"epoch": 1, "class_ap": class_ap}


DATA = made_up([[0], [0, 0], [0], [1], []])


@pytest.mark.parametrize("records", [[], [record(a=0.5, b=0.25)], [record(a=None, b=1.0)]])
def test_chances_are_a_distribution_with_a_share_for_every_image(records):
    probabilities = image_probabilities(DATA, records)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities.min() >= EVEN_SHARE / len(DATA) * (1 - 1e-9)
    assert probabilities[4] == pytest.approx(EVEN_SHARE / len(DATA))  # has no objects


def test_an_object_counts_as_the_formula_says():
    probabilities = image_probabilities(DATA, [record(a=0.5, b=0.2)])
    a, b = (1 - 0.5) ** 2 / 4, (1 - 0.2) ** 2 / 1
    shares = np.asarray([a, 2 * a, a, b, 0])
    np.testing.assert_allclose(probabilities, 0.9 * shares / shares.sum() + 0.1 / 5)


def test_rare_classes_and_those_detected_badly_come_more_often():
    before = image_probabilities(DATA, [])
    assert before[3] > before[1] > before[0]  # the only "b", two objects, one object
    worse = image_probabilities(DATA, [record(a=0.1, b=0.9)])
    assert worse[0] > before[0]
    assert worse[3] < before[3]


def test_the_last_evaluation_counts():
    records = [record(a=0.9, b=0.1), record(a=0.1, b=0.9), {"epoch": 3}]
    np.testing.assert_array_equal(
        image_probabilities(DATA, records), image_probabilities(DATA, records[1:2])
    )


def test_where_nothing_is_left_to_learn_all_images_are_alike():
    for data in (DATA, made_up([[], []])):
        probabilities = image_probabilities(data, [record(a=1.0, b=1.0)])
        np.testing.assert_allclose(probabilities, 1 / len(data))


def test_crowd_regions_do_not_count():
    crowd = np.asarray([False, True, True])
    probabilities = image_probabilities(made_up([[0], [1], [1]], crowd), [])
    np.testing.assert_allclose(probabilities, [0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("images"))


def assert_rows_equal(one, other, rows):
    np.testing.assert_array_equal(one.images[rows], other.images[rows])
    for row in rows:
        for field, same in zip(one.targets, other.targets, strict=True):
            valid, wanted = one.targets.valid[row], other.targets.valid[row]
            np.testing.assert_array_equal(field[row][valid], same[row][wanted])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_last_epochs_are_exactly_as_if_there_were_never_a_mosaic(images, workers):
    steps, plain_from = 7, 2  # 28 samples of 7 images: four epochs
    options = {"num_workers": workers}
    mixed = take(images, steps, plain_from=plain_from, **options)
    plain = take(images, steps, augment=ALONE, **options)
    never = take(images, steps, **options)
    for step in range(steps):
        positions = step * BATCH + np.arange(BATCH)
        late = positions >= plain_from * NUM_IMAGES
        assert_rows_equal(mixed[step], plain[step], np.flatnonzero(late))
        assert_rows_equal(mixed[step], never[step], np.flatnonzero(~late))
    assert any((a.images != b.images).any() for a, b in zip(plain, never, strict=True))


def test_images_come_as_often_as_their_chances(images):
    probabilities = np.asarray([0.5, 0.25, 0.25, 0, 0, 0, 0])
    shown = images_shown(take(images, 150, augment=PLAIN, probabilities=probabilities))
    counts = np.bincount(shown, minlength=NUM_IMAGES)
    assert counts[3:].sum() == 0
    np.testing.assert_allclose(counts / counts.sum(), probabilities, atol=0.05)


@pytest.mark.usefixtures("quick_programs")
def test_a_run_by_chances_resumes_bit_for_bit(small, tmp_path, monkeypatch):
    sources = []

    def line_and_count(*args):
        sources.append(sum("thread-prefetch" in thread.name for thread in threading.enumerate()))
        return epoch_line(*args)

    monkeypatch.setattr(loop, "epoch_line", line_and_count)
    config = dataclasses.replace(small, image_weights=True, plain_epochs=1, epochs=2)
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(config, whole)
    assert sources == [1, 1]  # one source of batches at a time
    with signal_after(4 * 8, signal.SIGTERM):
        stopped = train(config, run)
    assert 3 < stopped.step < 6  # in the second epoch, which has probabilities of its own
    train(config, run)
    assert differences(whole, run) == []
