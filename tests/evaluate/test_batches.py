import itertools
import os

import cv2
import jax
import numpy as np
import pytest
from bright_boxes import SIZE, SIZES, STRIDE, seven_images

from yolov7_jax.config import PAD_VALUE
from yolov7_jax.data import images
from yolov7_jax.data.images import UnreadableImageError, read_image, read_whole
from yolov7_jax.data.letterbox import LetterboxInfo, letterbox
from yolov7_jax.evaluate.batches import eval_batches


@pytest.fixture
def dataset(tmp_path):
    return seven_images(tmp_path)


def place_of(info):
    """Left, top, right and bottom of the image in the padded one."""
    corners = info.size_wh * [[0], [1]] * info.scale_xy + info.pad_xy
    return corners.round().astype(int).ravel()


@pytest.mark.parametrize("stride", [None, STRIDE])
def test_every_image_comes_once_unscaled_or_shrunk_and_maps_back(dataset, stride, monkeypatch):
    monkeypatch.setattr("yolov7_jax.evaluate.batches.COMPILATION_IMAGES", 0)
    batches = list(eval_batches(dataset, image_size=SIZE, batch_size=3, stride=stride))
    index = np.concatenate([batch.index for batch in batches])
    assert sorted(index[index >= 0].tolist()) == list(range(len(SIZES)))
    shapes = {batch.images.shape for batch in batches}
    assert shapes == {(3, SIZE, SIZE, 3)} if stride is None else len(shapes) > 1
    for batch in batches:
        for row, image in enumerate(batch.index):
            info = LetterboxInfo(*(field[row] for field in batch.letterbox))
            if image < 0:
                assert (batch.images[row] == PAD_VALUE).all()
                continue
            scale = min(1, SIZE / max(SIZES[image]))
            fitted = [max(1, round(side * scale)) for side in SIZES[image]]
            assert (info.scale_xy * SIZES[image]).tolist() == pytest.approx(fitted)
            assert info.size_wh.tolist() == list(SIZES[image])
            x0, y0, x1, y1 = place_of(info)
            square, square_info = letterbox(read_image(dataset.paths[image]), SIZE, enlarge=False)
            u0, v0, u1, v1 = place_of(square_info)
            # The same pixels whatever the shape, and grey around them.
            np.testing.assert_array_equal(batch.images[row, y0:y1, x0:x1], square[v0:v1, u0:u1])
            grey = (batch.images[row] == PAD_VALUE).all(2).sum()
            assert grey == batch.images[row, :, :, 0].size - (y1 - y0) * (x1 - x0)


def test_square_batches_are_in_the_order_of_the_data_set_and_as_letterboxed(dataset):
    batches = list(eval_batches(dataset, image_size=SIZE, batch_size=3))
    index = np.concatenate([batch.index for batch in batches])
    assert index.tolist() == [*range(len(SIZES)), -1, -1]
    images = np.concatenate([batch.images for batch in batches])
    for row, path in enumerate(dataset.paths):
        image, _ = letterbox(read_image(path), SIZE, enlarge=False)
        np.testing.assert_array_equal(images[row], image)


def test_evaluation_batches_do_not_depend_on_the_number_of_workers(dataset):
    passes = [
        list(eval_batches(dataset, image_size=SIZE, batch_size=2, num_workers=workers))
        for workers in (0, 1, 3)
    ]
    for other in passes[1:]:
        jax.tree.map(np.testing.assert_array_equal, passes[0], other)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_image_that_is_gone_or_of_another_size_since_the_scan_is_named(dataset, workers):
    options = {"image_size": SIZE, "batch_size": 2, "num_workers": workers}
    cv2.imwrite(dataset.paths[4], np.zeros((10, 20, 3), np.uint8))
    with pytest.raises(UnreadableImageError, match=r"4\.png: has 20 x 10 pixels, not 200 x 50"):
        list(eval_batches(dataset, **options))
    os.unlink(dataset.paths[4])
    with pytest.raises(UnreadableImageError, match=r"4\.png: cannot be read: No such file"):
        list(eval_batches(dataset, **options))


def test_evaluation_can_be_left_early_and_repeated(dataset):
    batches = eval_batches(dataset, image_size=SIZE, batch_size=2)
    first = next(batches)
    batches.close()
    again = next(eval_batches(dataset, image_size=SIZE, batch_size=2))
    np.testing.assert_array_equal(first.images, again.images)


def test_wrong_numbers_of_an_evaluation_are_named_together(dataset):
    with pytest.raises(ValueError, match=r"image_size \(=0\) .*; stride \(=-1\) must be at least"):
        eval_batches(dataset, image_size=0, batch_size=1, stride=-1)
    batches = eval_batches(dataset, image_size=SIZE, batch_size=2, num_workers=0)
    assert len(list(itertools.islice(batches, 2))) == 2


@pytest.mark.parametrize("stride", [None, STRIDE])
def test_processes_make_their_slices_of_each_batch_and_nothing_else(dataset, stride, monkeypatch):
    monkeypatch.setattr("yolov7_jax.evaluate.batches.COMPILATION_IMAGES", 0)
    opened = []

    def read(path, size, **options):
        opened.append(path)
        return read_whole(path, size)

    monkeypatch.setattr(images, "read_whole", read)
    options = {"image_size": SIZE, "batch_size": 4, "stride": stride, "num_workers": 0}
    whole = list(eval_batches(dataset, **options))
    opened.clear()
    parts = []
    for process in range(2):
        parts.append(list(eval_batches(dataset, **options, process_index=process, process_count=2)))
        own = np.concatenate([batch.index for batch in parts[-1]])
        assert sorted(opened) == sorted(dataset.paths[row] for row in own[own >= 0])
        opened.clear()
    for batch, *slices in zip(whole, *parts, strict=True):
        together = jax.tree.map(lambda *rows: np.concatenate(rows), *slices)
        jax.tree.map(np.testing.assert_array_equal, together, batch)
