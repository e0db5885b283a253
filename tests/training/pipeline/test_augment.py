import dataclasses

import cv2
import numpy as np
import pytest
from drawn import DrawnImages, empty_images, objects_in_pixels, rectangles, seen_box, stars

from yolov7_jax.data.dataset import Dataset, Polygons
from yolov7_jax.data.images import UnreadableImageError, read_image
from yolov7_jax.training.pipeline import augment
from yolov7_jax.training.pipeline.augment import AugmentConfig, random_flips, train_sample
from yolov7_jax.training.pipeline.file_images import FileImages
from yolov7_jax.training.pipeline.geometry import hull_of, outline_of
from yolov7_jax.training.pipeline.plan import plan_sample

SIZE = 96
STILL = AugmentConfig(mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0, flipud=0)
EVERYTHING = AugmentConfig(
    mosaic=0.8,
    mixup=0.5,
    copy_paste=0.5,
    paste_in=0.5,
    degrees=10,
    shear=5,
    perspective=0.0003,
    scale=0.9,
    flipud=0.3,
)


def assert_same(first, second):
    for field, other in zip(first[:3], second[:3], strict=True):
        np.testing.assert_array_equal(field, other)
    for field, other in zip(first.polygons, second.polygons, strict=True):
        np.testing.assert_array_equal(field, other)


@pytest.mark.parametrize("outlined", [False, True])
def test_boxes_stay_on_their_colours_through_the_whole_chain(outlined):
    # As far as colours can still be told apart, so without hue, saturation and mixup.
    config = AugmentConfig(
        mosaic=0.5, hsv_h=0, hsv_s=0, hsv_v=0.1, fliplr=0.5, flipud=0.5, scale=0.6
    )
    seen = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        images = rectangles(rng, outlined=outlined)
        sample = train_sample(images, seed % 9, 160, config, rng)
        for box, label in zip(sample.boxes_xyxy, sample.labels.tolist(), strict=True):
            if (sample.labels == label).sum() > 1:
                continue  # an image may be there twice
            drawn = seen_box(sample.image, label)
            twice = [index for index, _ in images.asked].count(label) > 1
            if not twice:
                np.testing.assert_allclose(box, drawn, atol=2)
                seen += 1
    assert seen > 40


def test_the_same_generator_gives_the_same_sample_and_another_another():
    images = stars(np.random.default_rng(0))
    for seed in range(20):
        samples = [
            train_sample(images, seed % 9, SIZE, EVERYTHING, np.random.default_rng(key))
            for key in (seed, seed, seed + 1000)
        ]
        assert_same(samples[0], samples[1])
        assert not np.array_equal(samples[0].image, samples[2].image)


def test_the_randomness_does_not_depend_on_what_is_drawn():
    rng = np.random.default_rng(0)
    for seed in range(20):
        after = []
        for colours in (stars(rng, size=60), stars(rng, size=60)):
            colours._objects = stars(np.random.default_rng(5), size=60)._objects
            generator = np.random.default_rng(seed)
            train_sample(colours, 0, SIZE, EVERYTHING, generator)
            after.append(generator.random())
        assert after[0] == after[1]


def test_samples_have_one_shape_and_sound_fields():
    images = stars(np.random.default_rng(0))
    for seed in range(40):
        sample = train_sample(images, seed % 9, SIZE, EVERYTHING, np.random.default_rng(seed))
        count = len(sample.labels)
        assert sample.image.shape == (SIZE, SIZE, 3)
        assert sample.image.dtype == np.uint8
        assert sample.image.flags.c_contiguous
        assert sample.boxes_xyxy.shape == (count, 4)
        assert sample.boxes_xyxy.dtype == np.float32
        assert sample.labels.dtype == np.int32
        assert len(sample.polygons.part_offsets) == count + 1
        assert len(sample.polygons.points) == sample.polygons.point_offsets[-1]
        assert (sample.boxes_xyxy >= -1e-3).all()
        assert (sample.boxes_xyxy <= SIZE + 1e-3).all()


@pytest.mark.parametrize("size", [(1, 1), (10_000, 3), (3, 10_000), (2, 1)])
@pytest.mark.parametrize("config", [AugmentConfig(), EVERYTHING, STILL])
def test_images_of_any_size_and_without_objects_pass_through(size, config):
    for images in (empty_images([size] * 2), empty_images([size, (50, 70)])):
        for seed in range(6):
            sample = train_sample(images, 0, 64, config, np.random.default_rng(seed))
            assert sample.image.shape == (64, 64, 3)
            assert sample.boxes_xyxy.shape == (0, 4)
            assert sample.labels.shape == (0,)


def test_outlines_without_corners_pass_through():
    parts = [[], [np.zeros((0, 2))], [[(3, 3)]], [[(2, 2), (30, 30)]]]
    boxes = [[1, 1, 30, 30], [1, 1, 30, 30], [3, 3, 3, 3], [2, 2, 30, 30]]
    objects = objects_in_pixels(boxes, range(4), parts, (32, 32))
    images = DrawnImages([np.zeros((32, 32, 3), np.uint8)], [objects])
    for seed in range(20):
        sample = train_sample(images, 0, 64, EVERYTHING, np.random.default_rng(seed))
        assert 2 not in sample.labels
        assert np.isfinite(sample.boxes_xyxy).all()


def test_no_variation_is_the_letterboxed_image_enlarged_by_up_to_a_tenth():
    image = np.zeros((100, 100, 3), np.uint8)
    objects = objects_in_pixels([[20, 30, 60, 70]], [0], [[]], (100, 100))
    images, zooms = DrawnImages([image], [objects]), []
    for seed in range(200):
        result = train_sample(images, 0, 100, STILL, np.random.default_rng(seed))
        x0, y0, x1, y1 = result.boxes_xyxy[0].tolist()
        zooms.append((x1 - x0) / 40)
        np.testing.assert_allclose((x0 + x1 - 100, y0 + y1 - 100), (-20 * zooms[-1], 0), atol=1e-3)
    assert 1 <= min(zooms) < 1.01  # uniform in [1 - scale, 1.1 + scale]
    assert 1.09 < max(zooms) <= 1.1


def test_each_step_happens_as_often_as_configured(monkeypatch):
    config = AugmentConfig(mosaic=0.7, mixup=0.15, paste_in=0.3)
    images, n = empty_images([(4, 4)]), 2000
    pasted = []
    monkeypatch.setattr(augment, "paste_in", lambda sample, *_: pasted.append(1) or sample)
    plans = []
    for seed in range(n):
        plans.append(plan_sample(0, 1, config, np.random.default_rng(seed)))
        train_sample(images, 0, 4, config, np.random.default_rng(seed), augment.undrawn)
    mosaics = sum(len(plan[0]) > 1 for plan in plans)
    mixups = sum(len(plan) == 2 for plan in plans)
    for found, of, probability in (
        (mosaics, n, 0.7),
        (mixups, mosaics, 0.15),
        (len(pasted), n, 0.3),
    ):
        assert abs(found / of - probability) < 4 * np.sqrt(probability * (1 - probability) / of)


def test_mosaics_ask_only_for_images_of_the_data_set_and_paste_in_comes_after_colour():
    images = stars(np.random.default_rng(0), 7)
    for seed in range(30):
        train_sample(images, 5, 96, EVERYTHING, np.random.default_rng(seed))
    assert {index for index, _ in images.asked} == set(range(7))
    # Colours of cut-outs are unchanged however far the sample's are.
    config = dataclasses.replace(STILL, paste_in=1, hsv_h=1, hsv_s=1, hsv_v=1)
    sample = train_sample(images, 0, 200, config, np.random.default_rng(1))
    alone, unchanged = (
        train_sample(images, 0, 200, other, np.random.default_rng(1)).image
        for other in (dataclasses.replace(config, paste_in=0), STILL)
    )
    assert not np.array_equal(alone, unchanged)
    pasted = sample.labels[1:]
    assert all(seen_box(sample.image, label) is not None for label in set(pasted.tolist()))


@pytest.mark.parametrize(("fliplr", "flipud"), [(1, 0), (0, 1), (1, 1), (0, 0)])
def test_flips_move_pixels_boxes_and_outlines_alike(fliplr, flipud):
    config = dataclasses.replace(STILL, fliplr=fliplr, flipud=flipud)
    images = stars(np.random.default_rng(0))
    sample = train_sample(images, 2, 140, STILL, np.random.default_rng(0))
    flipped = random_flips(sample, config, np.random.default_rng(0))
    expected = sample.image[:: -1 if flipud else 1, :: -1 if fliplr else 1]
    np.testing.assert_array_equal(flipped.image, expected)
    np.testing.assert_allclose(flipped.boxes_xyxy[0], seen_box(flipped.image, 2), atol=2)
    (outline,) = outline_of(flipped.polygons, 0)
    np.testing.assert_allclose(hull_of(outline).clip(0, 140), flipped.boxes_xyxy[0], atol=1e-3)
    twice = random_flips(flipped, config, np.random.default_rng(0))
    np.testing.assert_array_equal(twice.image, sample.image)
    np.testing.assert_allclose(twice.boxes_xyxy, sample.boxes_xyxy, atol=1e-3)


def test_values_out_of_range_are_named_together():
    with pytest.raises(ValueError, match=r"mosaic \(=2\) must be .* 1; scale \(=1\.5\) must be"):
        AugmentConfig(mosaic=2, scale=1.5)
    with pytest.raises(ValueError, match=r"mixup \(=-1\) .*copy_paste \(=nan\) .*paste_in \(=9\)"):
        AugmentConfig(mixup=-1, copy_paste=float("nan"), paste_in=9)


def files(tmp_path, suffix=".jpg", sizes=((300, 200), (131, 77), (90, 140))):
    rng, paths = np.random.default_rng(0), []
    for row, (width, height) in enumerate(sizes):
        coarse = rng.integers(0, 256, (7, 5, 3)).astype(np.uint8)
        paths.append(str(tmp_path / f"{row}{suffix}"))
        cv2.imwrite(paths[-1], cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    outline = np.asarray([(0.3, 0.2), (0.8, 0.3), (0.5, 0.9)])
    return Dataset(
        names=("thing",),
        paths=tuple(paths),
        sizes=np.asarray(sizes, np.int32),
        offsets=np.arange(len(sizes) + 1, dtype=np.int64),
        labels=np.zeros(len(sizes), np.int32),
        boxes=np.asarray([[0.55, 0.55, 0.5, 0.7]] * len(sizes), np.float32),
        polygons=Polygons.pack([[outline]] * len(sizes)),
    )


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_images_are_shrunk_to_the_size_asked_for_and_show_the_same(tmp_path, suffix):
    dataset = files(tmp_path, suffix)
    images = FileImages(dataset)
    for index, path in enumerate(dataset.paths):
        whole = read_image(path)
        height, width = whole.shape[:2]
        for longest in (1000, 140, 64, 10):
            shrink = min(1, longest / max(width, height))
            for halvings in range(4):
                image, scale_xy = images.pixels(index, longest, halvings)
                expected = [
                    -(-max(1, round(side * shrink)) // 2**halvings) for side in (height, width)
                ]
                assert list(image.shape) == [*expected, 3]
                assert scale_xy[0] == pytest.approx(image.shape[1] / width, rel=0.12)
                # Back at full size it is the image, as far as that many pixels can show it.
                matrix = np.diag((1 / scale_xy[0], 1 / scale_xy[1]))
                shift = (1 / np.asarray(scale_xy) - 1) / 2
                back = cv2.warpAffine(
                    image,
                    np.concatenate([matrix, shift[:, None]], 1),
                    (width, height),
                    borderMode=cv2.BORDER_REPLICATE,
                )
                if min(image.shape[:2]) >= 20:
                    assert np.abs(back.astype(int) - whole).mean() < 6


def test_images_are_upright_at_every_size(tmp_path):
    dataset = files(tmp_path, sizes=((200, 100),))
    with open(dataset.paths[0], "rb") as file:
        jpeg = file.read()
    # One entry, tag 0x0112: orientation 6, so the first row is the right side.
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    with open(dataset.paths[0], "wb") as file:
        file.write(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + jpeg[2:])
    upright = dataclasses.replace(dataset, sizes=np.asarray([(100, 200)], np.int32))
    for halvings in range(4):
        pixels = FileImages(upright).pixels(0, 640, halvings)
        assert pixels.image.shape[:2] == (200 >> halvings, -(-100 >> halvings))
        assert pixels.scale_xy == (1 / 2**halvings, 1 / 2**halvings)


def test_an_unreadable_image_is_named(tmp_path):
    dataset = files(tmp_path)
    for content in (b"", b"\xff\xd8 not an image", b"text"):
        with open(dataset.paths[1], "wb") as file:
            file.write(content)
        for halvings in (0, 2):
            with pytest.raises(UnreadableImageError, match=r"1\.jpg"):
                FileImages(dataset).pixels(1, 640, halvings)
