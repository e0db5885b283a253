import dataclasses
import hashlib

import numpy as np
import pytest
from seven_images import (
    EVERYTHING,
    NUM_IMAGES,
    PLAIN,
    SIZE,
    images_shown,
    make_dataset,
    take,
)

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.training import multi_scale
from yolov7_jax.training.pipeline import stream as pipeline
from yolov7_jax.training.pipeline.augment import train_sample, undrawn
from yolov7_jax.training.pipeline.file_images import FileImages
from yolov7_jax.training.pipeline.image_cache import open_cache
from yolov7_jax.training.pipeline.plan import most_objects, plan_sample
from yolov7_jax.training.pipeline.stream import (
    epoch_end,
    load_sample,
    usual_objects,
)
from yolov7_jax.training.pipeline.workers import load_shared, share


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        np.testing.assert_array_equal(batch.images, other.images)
        for field, same in zip(batch.targets, other.targets, strict=True):
            np.testing.assert_array_equal(field, same)


def digest(batches):
    arrays = [array for batch in batches for array in (batch.images, *batch.targets)]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def test_every_epoch_shows_each_image_once_in_another_order(dataset):
    shown = images_shown(take(dataset, 7, augment=PLAIN))  # 28 samples: 4 epochs of 7
    epochs = [shown[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("step", [1, 5])  # 5 is in the middle of the third epoch
@pytest.mark.parametrize("probabilities", [None, np.arange(1, NUM_IMAGES + 1) / 28])
def test_continuing_at_a_step_gives_what_would_have_come(dataset, step, probabilities):
    options = {"probabilities": probabilities}
    rest = take(dataset, 2, first_step=step, **options)
    assert_same(rest, take(dataset, step + 2, **options)[step:])


@pytest.mark.parametrize("num_workers", [1, 5])
def test_batches_do_not_depend_on_the_number_of_threads(dataset, num_workers):
    assert_same(take(dataset, 5), take(dataset, 5, num_workers=num_workers))


def test_batches_of_processes_with_a_cache_on_disk_are_the_same(dataset, tmp_path):
    cache = open_cache(dataset, SIZE, "disk", tmp_path / "images")
    in_processes = take(dataset, 5, first_step=3, num_workers=2, worker_processes=True, cache=cache)
    assert_same(in_processes, take(dataset, 8)[3:])
    # What other processes, the workers, have put into the cache is here now, and the same too.
    assert any(cache.get(index, 0) is not None for index in range(NUM_IMAGES))
    assert_same(in_processes, take(dataset, 5, first_step=3, cache=cache))


@pytest.mark.parametrize(
    ("hosts", "first_step", "batch_size"),
    [(2, 0, 4), (4, 5, 4), (4, 0, 20)],  # the last are longer than an epoch
)
def test_the_slices_of_all_hosts_are_the_batch_of_one(dataset, hosts, first_step, batch_size):
    options = {"first_step": first_step, "batch_size": batch_size}
    whole = take(dataset, 3, **options)
    slices = [
        take(dataset, 3, **options, process_index=host, process_count=hosts)
        for host in range(hosts)
    ]
    for step, batch in enumerate(whole):
        parts = [of_host[step] for of_host in slices]
        np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), batch.images)
        for field in range(3):
            joined = np.concatenate([part.targets[field] for part in parts])
            np.testing.assert_array_equal(joined, batch.targets[field])


def crowded(dataset, count):
    """The data set with so many objects in image 0 and none in the others."""
    return made_of(
        dataset.paths,
        dataset.sizes,
        np.asarray([0, *[count] * NUM_IMAGES]),
        np.tile(np.asarray([[0.5, 0.5, 0.9, 0.9]], np.float32), (count, 1)),
    )


def made_of(paths, sizes, offsets, boxes):
    return Dataset(
        names=("a",),
        paths=paths,
        sizes=sizes,
        offsets=offsets,
        labels=np.zeros(len(boxes), np.int32),
        boxes=boxes,
    )


def test_hosts_pad_alike_when_only_one_has_many_objects(dataset, monkeypatch):
    monkeypatch.setattr("yolov7_jax.training.pipeline.stream.SAMPLES_COUNTED", 1)
    busy = crowded(dataset, 40)
    options = {"augment": PLAIN, "batch_size": 2}
    whole = take(busy, 7, **options)
    lengths = [batch.targets.valid.shape[1] for batch in whole]
    assert set(lengths) == {8, 64}
    for host in range(2):
        part = take(busy, 7, **options, process_index=host, process_count=2)
        assert [batch.targets.valid.shape[1] for batch in part] == lengths


def test_hosts_count_the_objects_of_others_exactly(dataset):
    images = FileImages(dataset)
    for seed in range(150):
        config = dataclasses.replace(EVERYTHING, mosaic=seed % 2)
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        counted = pipeline._num_objects(images, SIZE, config, seed % NUM_IMAGES, rngs[0])
        sample = train_sample(images, seed % NUM_IMAGES, SIZE, config, rngs[1])
        assert counted == len(sample.labels)


def test_no_sample_has_more_objects_than_its_plan_lets_hosts_expect(dataset):
    images = FileImages(dataset)
    counts = np.diff(dataset.offsets)
    close = 0
    for seed in range(150):
        config = dataclasses.replace(EVERYTHING, paste_in=seed % 2 / 2)
        index = seed % NUM_IMAGES
        plan = plan_sample(index, NUM_IMAGES, config, np.random.default_rng(seed))
        most = most_objects(plan, counts, config)
        rng = np.random.default_rng(seed)
        sample = train_sample(images, index, SIZE, config, rng, undrawn)
        assert len(sample.labels) <= most
        close += len(sample.labels) > most / 2
    assert close > 5


@pytest.mark.parametrize("copy_paste", [0, 0.5])
def test_hosts_pad_alike_with_and_without_looking_where_objects_end_up(
    dataset, monkeypatch, copy_paste
):
    monkeypatch.setattr(pipeline, "usual_objects", lambda *_: 1)
    augment = dataclasses.replace(EVERYTHING, copy_paste=copy_paste)
    options = {"augment": augment, "batch_size": 4}
    lengths = [batch.targets.valid.shape[1] for batch in take(dataset, 12, **options)]
    assert len(set(lengths)) > 1
    for host in range(4):
        part = take(dataset, 12, **options, process_index=host, process_count=4)
        assert [batch.targets.valid.shape[1] for batch in part] == lengths


def test_counting_the_objects_of_others_draws_no_image(dataset, monkeypatch):
    def unwanted(*arguments):
        raise AssertionError("an image was drawn")

    monkeypatch.setattr(pipeline._Blank, "pixels", unwanted)
    without = dataclasses.replace(EVERYTHING, paste_in=0)
    assert usual_objects(FileImages(dataset), SIZE, without) > 0


def test_samples_depend_on_their_position_not_on_the_batch_size(dataset):
    small = np.concatenate([batch.images for batch in take(dataset, 6, batch_size=2)])
    large = np.concatenate([batch.images for batch in take(dataset, 2, batch_size=6)])
    np.testing.assert_array_equal(small, large)


def one_image(dataset):
    return made_of(dataset.paths[6:], dataset.sizes[6:], np.asarray([0, 6]), dataset.boxes[-6:])


def test_another_seed_gives_other_images_in_another_order(dataset):
    one = one_image(dataset)  # which has no order
    assert digest(take(one, 2, seed=1)) != digest(take(one, 2, seed=2))
    plain = [images_shown(take(dataset, 2, seed=seed, augment=PLAIN)) for seed in (1, 2)]
    assert plain[0] != plain[1]


def test_images_that_are_drawn_by_chance_share_no_random_numbers_with_their_order(
    dataset, monkeypatch
):
    seeds = []

    def watched(seed=None):
        seeds.append(seed)
        return default_rng(seed)

    default_rng = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", watched)
    pipeline._permutation.cache_clear()
    take(dataset, 4, augment=PLAIN)
    orders = {seed for seed in seeds if isinstance(seed, tuple)}
    seeds.clear()
    probabilities = np.full(NUM_IMAGES, 1 / NUM_IMAGES)
    take(dataset, 4, augment=PLAIN, probabilities=probabilities)
    drawn = {seed for seed in seeds if isinstance(seed, tuple)}
    samples = {seed for seed in drawn if seed[0] == pipeline.SAMPLE_STREAM}
    assert orders & drawn == samples
    assert len(drawn - samples) == len(samples) == 16


def test_every_use_of_random_numbers_has_a_stream_of_its_own():
    streams = [
        getattr(module, name)
        for module in (pipeline, multi_scale)
        for name in vars(module)
        if name.endswith("_STREAM") and name != "END_OF_STREAM"
    ]
    assert sorted(streams) == [0, 1, 2, 3, 4]


def test_a_image_is_varied_anew_in_every_epoch(dataset):
    batches = take(one_image(dataset), 3)
    images = [image.tobytes() for batch in batches for image in batch.images]
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


def test_crowd_regions_are_not_learnt(dataset):
    shown = take(dataset, 7, augment=PLAIN, batch_size=1)
    counts = {
        image: int(batch.targets.valid.sum())
        for image, batch in zip(images_shown(shown), shown, strict=True)
    }
    assert counts == {0: 0, 1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5}


def test_a_loaded_sample_has_its_objects_and_outlines_in_pixels(dataset):
    sample = load_sample(dataset, 3)
    assert sample.image.shape == (50, 70, 3)
    assert sample.labels.tolist() == [3, 3]
    middle = (sample.boxes_xyxy[:, :2] + sample.boxes_xyxy[:, 2:]) / 2
    np.testing.assert_allclose(middle, dataset.boxes[3:5, :2] * (70, 50), rtol=1e-5)
    points = sample.polygons.points.reshape(2, 4, 2)
    np.testing.assert_allclose(points.mean(1), middle, rtol=1e-5)
    np.testing.assert_allclose(points.min(1), sample.boxes_xyxy[:, :2], rtol=1e-4)


def test_a_training_step_is_compiled_at_most_twice_in_ten_epochs(dataset):
    batches = take(dataset, 18)
    lengths = {batch.targets.valid.shape for batch in batches}
    assert len(lengths) <= 2
    most = max(int(batch.targets.valid.sum(1).max()) for batch in batches)
    usual = usual_objects(FileImages(dataset), SIZE, EVERYTHING)
    assert 0 < usual < 2 * most


def test_an_epoch_ends_with_the_step_that_shows_its_last_image():
    assert [epoch_end(epoch, 7, 4) for epoch in range(4)] == [2, 4, 6, 7]
    assert epoch_end(0, 1000, 8) == 125
    assert epoch_end(9, 3, 64) == 1


@pytest.mark.parametrize("objects", [0, 2])
def test_what_worker_processes_share_is_the_same_and_lies_in_one_memory(dataset, tmp_path, objects):
    dataset = crowded(dataset, objects)
    share({"dataset": dataset, "again": dataset}, tmp_path)
    shared = load_shared(tmp_path)
    other = shared["dataset"]
    assert other is shared["again"]
    assert (other.names, other.paths) == (dataset.names, dataset.paths)
    assert other.fingerprint() == dataset.fingerprint()
    for name in ("areas", "image_ids", "category_ids"):
        array = getattr(other, name)
        np.testing.assert_array_equal(array, getattr(dataset, name))
        assert not array.flags.owndata
        assert not array.flags.writeable
    assert (tmp_path / "value").stat().st_size < 5000
    assert digest(take(other, 2)) == digest(take(dataset, 2))


def test_wrong_numbers_and_an_empty_data_set_are_named_at_once(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"image_size \(=0\) .*; seed \(=-1\) must be at least 0"):
        take(dataset, 1, image_size=0, seed=-1)
    with pytest.raises(ValueError, match=r"batch_size \(=4\) must be a multiple of .* \(=3\)"):
        take(dataset, 1, process_count=3)
    with pytest.raises(ValueError, match=r"process_index \(=2\) must be at least 0 and less than"):
        take(dataset, 1, process_count=2, process_index=2)
    cache = open_cache(dataset, 32, "memory", tmp_path)
    with pytest.raises(ValueError, match=r"cache is in the memory of this process.*; cache has"):
        take(dataset, 1, cache=cache, num_workers=1, worker_processes=True)
    nothing = (), np.zeros((0, 2), np.int32), np.zeros(1, np.int64), np.zeros((0, 4), np.float32)
    with pytest.raises(ValueError, match="no images"):
        take(made_of(*nothing), 1)


def test_a_data_set_whose_arrays_do_not_fit_is_refused(dataset):
    with pytest.raises(ValueError, match=r"sizes has the shape \(1, 2\), wanted \(7, 2\)"):
        dataclasses.replace(dataset, sizes=dataset.sizes[:1])
