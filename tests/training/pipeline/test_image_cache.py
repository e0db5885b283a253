import dataclasses
import errno
import os
import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.errors import UserError
from yolov7_jax.training.pipeline import image_cache
from yolov7_jax.training.pipeline.file_images import FileImages
from yolov7_jax.training.pipeline.image_cache import CachedImages, cache_file, open_cache
from yolov7_jax.training.pipeline.memory import available_memory
from yolov7_jax.training.pipeline.plan import MAX_HALVINGS

SIZE = 64
# Larger and smaller than SIZE, odd, very thin; JPEG files can be decoded at a fraction.
SHAPES = {"a.jpg": (201, 333), "b.png": (201, 333), "c.jpg": (40, 31), "d.png": (1, 900)}
EVERYTHING = [(index, level) for index in range(len(SHAPES)) for level in range(MAX_HALVINGS + 1)]


def write_image(path, shape, seed):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 5, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC))


@pytest.fixture
def dataset(tmp_path):
    for seed, (name, shape) in enumerate(SHAPES.items()):
        write_image(tmp_path / name, shape, seed)
    count = len(SHAPES)
    return Dataset(
        names=("thing",),
        paths=tuple(str(tmp_path / name) for name in SHAPES),
        sizes=np.asarray([shape[::-1] for shape in SHAPES.values()], np.int32),
        offsets=np.zeros(count + 1, np.int64),
        labels=np.zeros(0, np.int32),
        boxes=np.zeros((0, 4), np.float32),
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "train.images"


class Unread(FileImages):
    """Images whose files must not be decoded."""

    def pixels(self, index, longest, halvings):
        raise AssertionError(f"image {index} was decoded")


def fill(dataset, cache):
    images = CachedImages(FileImages(dataset), cache)
    for index, level in EVERYTHING:
        images.pixels(index, SIZE, level)


def assert_kept(dataset, cache, which=EVERYTHING):
    images, kept = FileImages(dataset), CachedImages(Unread(dataset), cache)
    for index, level in which:
        wanted, found = (each.pixels(index, SIZE, level) for each in (images, kept))
        np.testing.assert_array_equal(wanted.image, found.image)
        assert wanted.scale_xy == found.scale_xy


def missing(cache):
    return [(index, level) for index, level in EVERYTHING if cache.get(index, level) is None]


def backwards(dataset):
    """The same images in another order, so that each slot is of another size."""
    return dataclasses.replace(dataset, paths=dataset.paths[::-1], sizes=dataset.sizes[::-1])


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_kept_images_are_those_of_the_files_bit_for_bit(dataset, path, kind):
    assert open_cache(dataset, SIZE, "none", path) is None
    assert not path.exists()
    cache = open_cache(dataset, SIZE, kind, path)
    assert missing(cache) == EVERYTHING
    fill(dataset, cache)
    assert_kept(dataset, cache)
    assert cache.get(0, 0).image.shape == (39, 64, 3)
    assert cache.get(2, 0).image.shape == (40, 31, 3)  # never enlarged
    with pytest.raises(ValueError, match="read-only"):
        cache.get(0, 0).image[0] = 0


def test_a_file_serves_later_runs_and_other_processes(dataset, path):
    fill(dataset, open_cache(dataset, SIZE, "disk", path))
    assert_kept(dataset, open_cache(dataset, SIZE, "disk", path))
    cache = open_cache(dataset, SIZE, "disk", path)
    assert_kept(dataset, pickle.loads(pickle.dumps(cache)))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_other_sizes_than_the_kept_one_come_from_the_files(dataset, path, kind):
    images = CachedImages(FileImages(dataset), open_cache(dataset, SIZE, kind, path))
    other = images.pixels(0, 32, 0)
    np.testing.assert_array_equal(other.image, FileImages(dataset).pixels(0, 32, 0).image)
    assert images.size(0) == (333, 201)
    assert len(images) == len(SHAPES)
    assert len(images.objects(0).labels) == 0


def test_a_changed_image_is_decoded_again_and_the_others_stay(dataset, path, tmp_path):
    fill(dataset, open_cache(dataset, SIZE, "disk", path))
    write_image(tmp_path / "b.png", SHAPES["b.png"], seed=99)
    cache = open_cache(dataset, SIZE, "disk", path)
    of_it = [place for place in EVERYTHING if place[0] == 1]
    assert missing(cache) == of_it
    fill(dataset, cache)
    assert_kept(dataset, open_cache(dataset, SIZE, "disk", path))


def test_every_damaged_byte_is_noticed(dataset, path):
    fill(dataset, open_cache(dataset, SIZE, "disk", path))
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(len(sound), size=40).tolist() + list(range(0, 4096, 97)):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        cache = open_cache(dataset, SIZE, "disk", path)
        assert missing(cache)
        fill(dataset, cache)
        assert not missing(open_cache(dataset, SIZE, "disk", path))
        assert path.read_bytes() == sound


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        # The slot says filled, the last image is not: the machine went down meanwhile.
        (lambda whole: whole[:-24] + bytes(24), EVERYTHING[-1:]),
        (lambda whole: whole[:-1], EVERYTHING),
        (lambda whole: whole + b"x", EVERYTHING),
        (lambda _: b"", EVERYTHING),
        (lambda _: b"not a cache of images" * 1000, EVERYTHING),
    ],
    ids=["half written", "shorter", "longer", "empty", "foreign"],
)
def test_a_file_that_is_not_whole_or_of_another_kind_is_mended_or_replaced(
    dataset, path, change, lost
):
    fill(dataset, open_cache(dataset, SIZE, "disk", path))
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    cache = open_cache(dataset, SIZE, "disk", path)
    assert missing(cache) == lost
    fill(dataset, cache)
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


def test_a_file_for_other_images_or_another_size_or_opencv_is_replaced(dataset, path, monkeypatch):
    fill(dataset, open_cache(dataset, SIZE, "disk", path))
    assert missing(open_cache(dataset, 32, "disk", path)) == EVERYTHING
    fill(dataset, open_cache(dataset, SIZE, "disk", path))
    assert missing(open_cache(backwards(dataset), SIZE, "disk", path)) == EVERYTHING
    fill(dataset, open_cache(dataset, SIZE, "disk", path))
    monkeypatch.setattr(cv2, "__version__", "99.0")
    assert missing(open_cache(dataset, SIZE, "disk", path)) == EVERYTHING


def test_an_interrupted_creation_leaves_nothing(dataset, path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_cache(dataset, SIZE, "disk", path)
    assert list(path.parent.iterdir()) == []


def test_runs_with_other_images_on_one_file_each_get_their_own(dataset, path, capfd):
    ours = open_cache(dataset, SIZE, "disk", path)
    theirs = open_cache(backwards(dataset), SIZE, "disk", path)  # replaces the file
    fill(dataset, ours)
    fill(backwards(dataset), theirs)
    assert_kept(dataset, ours)
    assert_kept(backwards(dataset), theirs)
    assert_kept(backwards(dataset), pickle.loads(pickle.dumps(theirs)))
    assert capfd.readouterr().err == ""


def test_a_process_that_finds_the_file_replaced_decodes_and_leaves_it_alone(dataset, path, capfd):
    packed = pickle.dumps(open_cache(dataset, SIZE, "disk", path))
    theirs = open_cache(backwards(dataset), SIZE, "disk", path)
    fill(backwards(dataset), theirs)
    content = path.read_bytes()
    worker = pickle.loads(packed)
    warning = capfd.readouterr().err
    assert f"warning: {path}: this cache of images has been replaced" in warning
    assert warning.count("\n") == 1
    fill(dataset, worker)
    assert missing(worker) == EVERYTHING
    assert missing(pickle.loads(pickle.dumps(worker))) == EVERYTHING
    assert path.read_bytes() == content
    path.unlink()
    assert missing(pickle.loads(packed)) == EVERYTHING


def test_runs_that_create_the_file_at_the_same_moment_share_one(dataset, path, monkeypatch):
    allocate, others = os.posix_fallocate, []

    def meanwhile(*arguments):
        monkeypatch.setattr(os, "posix_fallocate", allocate)
        others.append(open_cache(dataset, SIZE, "disk", path))
        allocate(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", meanwhile)
    cache = open_cache(dataset, SIZE, "disk", path)
    fill(dataset, cache)
    assert_kept(dataset, others[0])
    assert list(path.parent.iterdir()) == [path]


def test_caches_for_training_and_for_evaluation_are_not_taken_for_each_other(dataset, path):
    fill(dataset, open_cache(dataset, SIZE, "disk", path))
    cache = open_cache(dataset, SIZE, "disk", path, "evaluation")
    assert [cache.get(index, 0) for index in range(len(SHAPES))] == [None] * len(SHAPES)
    assert cache.misfits(SIZE, "evaluation") == []
    assert cache.misfits(32, "training") == [
        "cache has images for evaluation, wanted training",
        "cache has images for the image_size 64, wanted 32",
    ]
    assert missing(open_cache(dataset, SIZE, "disk", path)) == EVERYTHING


def test_a_cache_that_does_not_fit_is_refused_with_numbers(dataset, path, monkeypatch):
    count = 100_000
    many = dataclasses.replace(
        dataset,
        paths=dataset.paths[:1] * count,
        sizes=np.tile(np.asarray([[640, 480]], np.int32), (count, 1)),
        offsets=np.zeros(count + 1, np.int64),
        image_ids=None,
    )
    monkeypatch.setattr(image_cache, "available_memory", lambda: 10 << 30)
    with pytest.raises(UserError, match=r"memory needs 114\.0 GiB for 100000 .* only 9\.0 GiB"):
        open_cache(many, 640, "memory", path)
    disk = SimpleNamespace(f_bavail=1 << 20, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda folder: disk)
    with pytest.raises(UserError, match=r"disk needs 114\.0 GiB in .* only 4\.0 GiB are free"):
        open_cache(many, 640, "disk", path)
    assert not path.exists()


def test_a_folder_that_cannot_be_written_to_is_named(dataset, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/train\.images: the cache of images cannot"):
        open_cache(dataset, SIZE, "disk", tmp_path / "file" / "train.images")


def test_a_file_has_all_its_blocks_from_the_start(dataset, path):
    # Reading or writing a block that a full disk cannot give would kill the process.
    open_cache(dataset, SIZE, "disk", path)
    status = path.stat()
    assert status.st_blocks * 512 >= status.st_size > 20_000


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        ("posix_fallocate", errno.EDQUOT, r"disk needs 0\.\d MiB in .* for 4 .*: Disk quota exc"),
        ("pwrite", errno.ENOSPC, "cannot be written: No space left on device"),
    ],
)
def test_a_disk_that_is_full_at_the_start_or_later_is_an_error_not_a_crash(
    dataset, path, monkeypatch, call, code, message
):
    def full(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match=message):
        fill(dataset, open_cache(dataset, SIZE, "disk", path))
    assert list(path.parent.iterdir()) == ([path] if call == "pwrite" else [])


def test_pixels_of_the_wrong_size_are_not_kept(dataset, path):
    cache = open_cache(dataset, SIZE, "memory", path)
    pixels = FileImages(dataset).pixels(0, SIZE, 1)
    with pytest.raises(ValueError, match=r"image 0 has the shape .*, wanted \(39, 64, 3\)"):
        cache.put(0, 0, pixels)


def test_the_file_is_beside_the_data_or_where_the_user_may_write(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    data = tmp_path / "data" / "data.yaml"
    data.parent.mkdir()
    beside = cache_file(data, "train", 640)
    assert beside.is_relative_to(data.parent)
    assert len({beside, cache_file(data, "val", 640), cache_file(data, "train", 320)}) == 3
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != data.parent)
    at_home = cache_file(data, "train", 640)
    assert at_home.is_relative_to(tmp_path / "home")
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    assert cache_file(data, "train", 640) == beside  # so that the error names it


def test_available_memory_is_a_plausible_number():
    assert 1 << 20 < available_memory() <= 1 << 62
