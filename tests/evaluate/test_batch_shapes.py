"""Which shapes rectangular batches of evaluation have."""

import numpy as np
import pytest

from yolov7_jax.evaluate.batches import COMPILATION_IMAGES, MOST_SHAPES, batch_shapes

STRIDE = 32


def test_shapes_are_few_and_waste_little():
    rng = np.random.default_rng(0)
    camera = np.asarray([(640, 480), (480, 640), (640, 427), (427, 640), (640, 360), (500, 375)])
    sizes = camera[rng.integers(6, size=2000)]
    odd = rng.integers(1, 1000, (300, 2))
    sizes = np.concatenate([sizes, odd]).astype(np.int32)
    shapes = batch_shapes(sizes, 640, 32)
    assert 1 < len(np.unique(shapes, axis=0)) <= MOST_SHAPES
    assert (shapes % 32 == 0).all()
    assert shapes.max() == 640
    fitted = sizes * np.minimum(1, 640 / sizes.max(1, keepdims=True))
    assert (shapes[:, ::-1] >= np.maximum(fitted.round(), 1)).all()
    # Squares would have 1.65 times the pixels of the images.
    assert shapes.prod(1).sum() < 1.25 * fitted.prod(1).sum()
    shuffled = rng.permutation(len(sizes))
    np.testing.assert_array_equal(batch_shapes(sizes[shuffled], 640, 32), shapes[shuffled])


@pytest.mark.parametrize(
    ("landscape", "portrait", "count"),
    [((640, 480), (480, 640), 60), ((640, 360), (360, 640), 63), ((640, 360), (360, 640), 1)],
)
def test_a_few_images_of_another_shape_do_not_make_all_batches_square(landscape, portrait, count):
    sizes = np.asarray([landscape] * 5000 + [portrait] * count, np.int32)
    shapes = batch_shapes(sizes, 640, 32)
    squares = 640 * 640 * COMPILATION_IMAGES
    needed = -(-sizes // 32) * 32
    assert shapes.prod(1).sum() - needed.prod(1).sum() < squares


@pytest.mark.parametrize("seed", range(5))
def test_shapes_that_are_spared_cost_less_padding_than_their_compilations(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 21, (8, 2)).repeat(rng.integers(1, 900, 8), 0) * 32
    shapes = batch_shapes(sizes.astype(np.int32), 640, 32)
    compilation = 640 * 640 * COMPILATION_IMAGES
    used = len(np.unique(shapes, axis=0))
    assert used <= MOST_SHAPES
    if used < MOST_SHAPES:
        saved = (len(np.unique(sizes, axis=0)) - used) * compilation
        assert shapes.prod(1).sum() - sizes.prod(1).sum() <= saved


def test_a_small_split_has_one_shape_that_holds_all():
    sizes = np.asarray([(640, 480)] * 10 + [(100, 200)] * 20, np.int32)
    assert np.unique(batch_shapes(sizes, 640, 32), axis=0).tolist() == [[480, 640]]
    assert batch_shapes(np.zeros((0, 2), np.int32), 640, 32).shape == (0, 2)
