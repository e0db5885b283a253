"""Label files that no image takes its objects from are noted, whichever folder they lie in."""

import pytest
from data_sets import scan, without_folder, write_image, write_text

from yolov7_jax.data.layouts import load_dataset, open_source

ROW = "0 0.5 0.5 0.2 0.4\n"


def notes_of(data):
    found = scan(data)
    assert not found.faults
    return [without_folder(note, data) for note in found.notes]


@pytest.fixture
def listed(tmp_path):
    """Two of three images are listed; all have labels in the folder of labels."""
    for name in "abc":
        write_image(tmp_path / f"images/{name}.png")
        write_text(tmp_path / f"labels/{name}.txt", ROW)
    write_text(tmp_path / "some.txt", "images/a.png\nimages/b.png\n")
    return write_text(tmp_path / "data.yaml", "train: some.txt\nval: images\nnames: [cat]\n")


@pytest.fixture
def beside(tmp_path):
    """Two images with their labels beside them."""
    for name in "ab":
        write_image(tmp_path / f"set/{name}.png")
        write_text(tmp_path / f"set/{name}.txt", ROW)
    return write_text(tmp_path / "data.yaml", "train: set\nnames: [cat]\n")


def test_labels_that_are_used_and_other_texts_are_no_news(listed, beside):
    for name in ("classes.txt", "train.txt", ".hidden.txt", "notes.md"):
        write_text(listed.parent / "labels" / name, "")
        write_text(beside.parent / "set" / name, "")
    assert notes_of(listed) == []
    assert notes_of(beside) == []


def test_the_list_of_a_split_may_lie_beside_its_images(beside):
    write_text(beside.parent / "set/mine.txt", "a.png\nb.png\n")
    beside.write_text("train: set/mine.txt\nnames: [cat]\n")
    assert notes_of(beside) == []


def test_labels_beside_images_without_a_image_are_counted_and_the_first_is_named(beside):
    write_text(beside.parent / "set/z.txt", ROW)
    assert notes_of(beside) == ["1 label file without an image, not used: set/z.txt"]
    write_text(beside.parent / "set/a.b.TXT", ROW)
    told = "2 label files without an image, not used: set/a.b.TXT, the first"
    assert notes_of(beside) == [told]
    write_image(beside.parent / "set/a.b.png")
    assert notes_of(beside) == ["1 label file without an image, not used: set/z.txt"]


def test_labels_of_listed_images_without_any_image_on_disk_are_counted(listed):
    write_text(listed.parent / "labels/z.txt", ROW)
    assert notes_of(listed) == ["1 label file without an image, not used: labels/z.txt"]
    write_image(listed.parent / "images/z.png")
    assert notes_of(listed) == []


def test_of_two_label_files_of_a_image_it_is_told_which_is_used(listed):
    text = listed.parent / "images/a.txt"
    write_text(text, "0 0.1 0.1 0.1 0.1\n")
    told = "1 image has a second label file: labels/a.txt is used, images/a.txt is not"
    assert notes_of(listed) == [told]
    assert load_dataset(listed, "train").boxes[0].tolist() == pytest.approx([0.5, 0.5, 0.2, 0.4])
    write_text(listed.parent / "images/b.txt", ROW)
    told = "2 images have a second label file: labels/a.txt is used, images/a.txt is not"
    assert notes_of(listed) == [told + ", the first"]
    (listed.parent / "labels/a.txt").unlink()  # now the one beside is used
    told = "1 image has a second label file: labels/b.txt is used, images/b.txt is not"
    assert notes_of(listed) == [told]


def test_training_is_not_bothered(listed, caplog):
    write_text(listed.parent / "labels/z.txt", ROW)
    write_text(listed.parent / "images/a.txt", ROW)
    assert len(load_dataset(listed, "train")) == 2
    assert not caplog.records


def test_notes_of_the_data_yaml_and_of_its_folders_are_both_told(tmp_path):
    write_image(tmp_path / "set/images/a.png")
    write_text(tmp_path / "set/labels/a.txt", ROW)
    write_text(tmp_path / "set/images/z.txt", ROW)
    data = write_text(tmp_path / "set/data.yaml", "train: ../images\nnames: [cat]\n")
    assert notes_of(data) == ["1 label file without an image, not used: images/z.txt"]
    assert open_source(data, "train").notes == ("'train': there is no ../images; images is used",)
