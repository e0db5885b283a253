import itertools

import cv2
import numpy as np
import pytest

from train.data.augment import AugmentConfig
from train.data.dataset import Dataset
from train.data.pipeline import epoch_end, eval_batches, stack_targets, train_batches
from yolov7_jax.image import letterbox_boxes, unletterbox

SIZE = 64
PLAIN = AugmentConfig(mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)


@pytest.fixture
def dataset(tmp_path):
    """Seven pictures, each of its own grey and with its own number of objects, 0 to 6."""
    paths, sizes = [], []
    for number in range(7):
        width, height = 40 + 10 * number, 50
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((height, width, 3), 20 * number, np.uint8))
        paths.append(str(path))
        sizes.append((width, height))
    counts = np.arange(7)
    rng = np.random.default_rng(0)
    centres, sides = rng.uniform(0.3, 0.7, (21, 2)), rng.uniform(0.3, 0.6, (21, 2))
    return Dataset(
        names=tuple("abcdefg"),
        paths=tuple(paths),
        sizes=np.asarray(sizes, np.int32),
        offsets=np.cumsum([0, *counts]),
        labels=np.repeat(counts, counts).astype(np.int32),
        boxes=np.concatenate([centres, sides], 1).astype(np.float32),
    )


def take(dataset, count, **changes):
    options = {"image_size": SIZE, "batch_size": 4, "seed": 3, "augment": AugmentConfig()}
    batches = train_batches(dataset, **(options | changes))
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        np.testing.assert_array_equal(batch.images, other.images)
        for field, same in zip(batch.targets, other.targets, strict=True):
            np.testing.assert_array_equal(field, same)


def pictures_shown(batches):
    """The greys in the middle of plain batches tell which pictures they show."""
    return [round(image[SIZE // 2, SIZE // 2, 0] / 20) for b in batches for image in b.images]


def test_every_epoch_shows_each_picture_once_in_another_order(dataset):
    shown = pictures_shown(take(dataset, 7, augment=PLAIN))  # 28 samples: 4 epochs of 7
    epochs = [shown[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_continuing_at_a_step_gives_what_would_have_come(dataset):
    assert_same(take(dataset, 3, first_step=4), take(dataset, 7)[4:])


def test_batches_do_not_depend_on_the_number_of_workers(dataset):
    inline = take(dataset, 5, num_workers=0)
    assert_same(inline, take(dataset, 5, num_workers=1))
    assert_same(inline, take(dataset, 5, num_workers=4))


def test_samples_depend_on_their_position_not_on_the_batch_size(dataset):
    small = np.concatenate([batch.images for batch in take(dataset, 6, batch_size=2)])
    large = np.concatenate([batch.images for batch in take(dataset, 2, batch_size=6)])
    np.testing.assert_array_equal(small, large)


def test_another_seed_gives_other_batches(dataset):
    one, other = take(dataset, 1, seed=1)[0], take(dataset, 1, seed=2)[0]
    assert not np.array_equal(one.images, other.images)


def test_a_picture_is_varied_anew_in_every_epoch(dataset):
    one = Dataset(
        names=dataset.names,
        paths=dataset.paths[6:],
        sizes=dataset.sizes[6:],
        offsets=np.asarray([0, 6]),
        labels=dataset.labels[-6:],
        boxes=dataset.boxes[-6:],
    )
    images = [image.tobytes() for batch in take(one, 3) for image in batch.images]
    assert len(set(images)) == 12


def test_batches_have_the_declared_types_and_normalised_boxes(dataset):
    for batch in take(dataset, 4):
        assert batch.images.shape == (4, SIZE, SIZE, 3)
        assert batch.images.dtype == np.uint8
        boxes, labels, valid = batch.targets
        assert (boxes.dtype, labels.dtype, valid.dtype) == (np.float32, np.int32, bool)
        corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2]], -1)[valid]
        assert corners.min() >= -1e-6
        assert boxes.max() <= 1
        assert ((labels >= 0) & (labels < 7)).all()


def test_targets_are_padded_to_a_short_ladder_and_keep_every_object():
    for count, length in ((0, 8), (1, 8), (8, 8), (9, 16), (100, 128), (513, 1024)):
        boxes = np.tile(np.asarray([[8, 16, 24, 64]], np.float32), (count, 1))
        targets = stack_targets(
            [boxes, boxes[:0]], [np.arange(count, dtype=np.int32), np.zeros(0, np.int32)], 64, 0
        )
        assert targets.boxes.shape == (2, length, 4)
        assert targets.valid.sum(1).tolist() == [count, 0]
        assert targets.labels[0][targets.valid[0]].tolist() == list(range(count))
        np.testing.assert_allclose(
            targets.boxes[targets.valid], np.tile([[0.25, 0.625, 0.25, 0.75]], (count, 1))
        )


def test_batches_with_few_objects_are_padded_like_usual_ones():
    boxes = np.asarray([[8, 16, 24, 64]], np.float32)
    targets = stack_targets([boxes], [np.zeros(1, np.int32)], 64, 20)
    assert targets.boxes.shape == (1, 32, 4)
    assert targets.valid.sum() == 1


def test_an_epoch_ends_with_the_step_that_shows_its_last_picture():
    assert [epoch_end(epoch, 7, 4) for epoch in range(4)] == [2, 4, 6, 7]
    assert epoch_end(0, 1000, 8) == 125
    assert epoch_end(9, 3, 64) == 1


def test_evaluation_covers_the_split_once_in_order_and_maps_back(dataset):
    batches = list(eval_batches(dataset, image_size=SIZE, batch_size=3))
    assert [batch.images.shape for batch in batches] == [(3, SIZE, SIZE, 3)] * 3
    assert np.concatenate([batch.index for batch in batches]).tolist() == [*range(7), -1, -1]
    for batch in batches:
        boxes, _, valid = batch.targets
        half = boxes[..., 2:] / 2
        corners = np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], -1) * SIZE
        originals = unletterbox(corners, batch.letterbox)
        for row, index in enumerate(batch.index):
            if index < 0:
                assert (batch.images[row] == 114).all()
                assert not valid[row].any()
                continue
            wanted = dataset.objects_of(int(index)).boxes_cxcywh * np.tile(dataset.sizes[index], 2)
            found = originals[row][valid[row]]
            centres = (found[:, :2] + found[:, 2:]) / 2
            np.testing.assert_allclose(centres, wanted[:, :2], atol=1e-3)
            np.testing.assert_allclose(found[:, 2:] - found[:, :2], wanted[:, 2:], atol=1e-3)
            assert batch.letterbox.scale[row] == pytest.approx(
                min(1, SIZE / dataset.sizes[index].max())
            )
            assert batch.letterbox.size_wh[row].tolist() == dataset.sizes[index].tolist()
            x0, y0, x1, y1 = letterbox_boxes(
                np.asarray([[0, 0, *dataset.sizes[index]]], np.float32),
                type(batch.letterbox)(*(field[row] for field in batch.letterbox)),
            )[0].astype(int)
            assert (batch.images[row, y0:y1, x0:x1] == 20 * index).all()


def test_evaluation_can_be_left_early_and_repeated(dataset):
    batches = eval_batches(dataset, image_size=SIZE, batch_size=2)
    first = next(batches)
    batches.close()
    again = next(eval_batches(dataset, image_size=SIZE, batch_size=2))
    np.testing.assert_array_equal(first.images, again.images)


def test_wrong_numbers_and_an_empty_data_set_are_named_at_once(dataset):
    with pytest.raises(ValueError, match=r"image_size \(=0\) .*; seed \(=-1\) must be at least 0"):
        take(dataset, 1, image_size=0, seed=-1)
    empty = Dataset(
        names=("a",),
        paths=(),
        sizes=np.zeros((0, 2), np.int32),
        offsets=np.zeros(1, np.int64),
        labels=np.zeros(0, np.int32),
        boxes=np.zeros((0, 4), np.float32),
    )
    with pytest.raises(ValueError, match="no pictures"):
        train_batches(
            empty, image_size=SIZE, batch_size=1, seed=0, augment=AugmentConfig(), num_workers=0
        )


def test_a_picture_that_vanished_is_named(dataset, tmp_path):
    (tmp_path / "3.png").unlink()
    with pytest.raises(ValueError, match=r"3\.png: cannot be read"):
        take(dataset, 2)


def test_a_data_set_whose_arrays_do_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"sizes has the shape \(1, 2\), wanted \(2, 2\)"):
        Dataset(
            names=("a",),
            paths=("x", "y"),
            sizes=np.zeros((1, 2), np.int32),
            offsets=np.zeros(3, np.int64),
            labels=np.zeros(0, np.int32),
            boxes=np.zeros((0, 4), np.float32),
        )
