"""Images that two splits share, under one path or under two."""

import builtins

import cv2
import numpy as np
import pytest

from yolov7_jax.data import split_overlap as between_splits
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.data.split_overlap import contradictions, identical_images


def write(path, seed, size=(8, 6)):
    path.parent.mkdir(exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    cv2.imwrite(str(path), image)


def dataset(folder, *names, size=(8, 6), classes=("a",)):
    """Images of a folder; a name may itself be a path."""
    return Dataset(
        names=classes,
        paths=tuple(str(folder / name) for name in names),
        sizes=np.tile(np.int32([size]), (len(names), 1)),
        offsets=np.zeros(len(names) + 1, np.int64),
        labels=np.zeros(0, np.int32),
        boxes=np.zeros((0, 4), np.float32),
    )


@pytest.fixture
def splits(tmp_path):
    """One image of val and one of test is one of train; all have as many bytes."""
    seeds = {"train": (1, 2, 3), "val": (4, 2, 5), "test": (3, 6)}
    for split, of_split in seeds.items():
        for number, seed in enumerate(of_split):
            write(tmp_path / f"{split}/{number}.bmp", seed)
    return {
        split: dataset(tmp_path / split, *(f"{number}.bmp" for number in range(len(of_split))))
        for split, of_split in seeds.items()
    }


def told(notes, folder):
    return [note.replace(f"{folder}/", "") for note in notes]


def test_identical_images_are_told_for_each_two_splits(splits, tmp_path):
    assert told(identical_images(splits), tmp_path) == [
        "1 image of val is in train too, byte for byte: val/1.bmp is train/1.bmp",
        "1 image of test is in train too, byte for byte: test/0.bmp is train/2.bmp",
    ]


def test_several_are_counted_and_the_first_is_named(splits, tmp_path):
    for number in (0, 2):
        write(tmp_path / f"val/{number}.bmp", 3)
    (note, *_) = told(identical_images(splits), tmp_path)
    first = "val/0.bmp is train/2.bmp, the first"
    assert note == f"3 images of val are in train too, byte for byte: {first}"


def test_only_files_of_as_many_bytes_and_pixels_as_one_of_another_split_are_read(
    splits, tmp_path, monkeypatch
):
    opened = []

    def watched(path, *arguments, **options):
        opened.append(str(path))
        return builtins.open(path, *arguments, **options)

    monkeypatch.setattr(between_splits, "open", watched, raising=False)
    write(tmp_path / "train/3.bmp", 7, size=(9, 9))
    splits["train"] = dataset(tmp_path / "train", *(f"{n}.bmp" for n in range(4)))
    identical_images(splits)
    assert sorted(opened) == sorted(p for s in splits.values() for p in s.paths if "/3." not in p)
    opened.clear()
    other = dataset(tmp_path / "val", "1.bmp", size=(6, 8))  # as many bytes, other sides
    assert identical_images({"train": splits["train"], "val": other}) == []
    assert opened == []


def test_identical_images_within_a_split_are_nobodys_business(tmp_path):
    for name in ("train/a.bmp", "train/b.bmp"):
        write(tmp_path / name, 1)
    write(tmp_path / "val/a.bmp", 2)
    train = dataset(tmp_path / "train", "a.bmp", "b.bmp")
    assert identical_images({"train": train, "val": dataset(tmp_path / "val", "a.bmp")}) == []


def test_the_same_file_in_two_splits_contradicts_and_is_not_told_twice(tmp_path):
    write(tmp_path / "train/a.bmp", 1)
    train = dataset(tmp_path / "train", "a.bmp")
    both = {"train": train, "val": train}
    assert contradictions(both) == ["1 image of train is in val too"]
    assert identical_images(both) == []


def test_other_classes_contradict(tmp_path):
    datasets = {"train": dataset(tmp_path), "val": dataset(tmp_path, classes=("a", "b"))}
    (warning,) = contradictions(datasets)
    assert warning.startswith("train has the classes a and val has a, b; 'names' in a data.yaml")


def test_a_image_that_is_lost_meanwhile_is_like_no_other(splits, tmp_path):
    (tmp_path / "val/1.bmp").unlink()
    (note,) = identical_images(splits)
    assert "test/0.bmp" in note
