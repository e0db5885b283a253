import json

import numpy as np
import pytest
from data_sets import (
    IMAGES,
    NAMES,
    OBJECTS,
    coco_content,
    error_of,
    write_coco,
    write_image,
    write_text,
    write_voc,
    write_yolo,
)

from yolov7_jax.data.layouts import expected_splits, load_dataset

WRITERS = (write_yolo, write_coco, write_voc)


@pytest.mark.parametrize("write", WRITERS)
def test_every_layout_holds_the_same_objects(tmp_path, write):
    dataset = load_dataset(write(tmp_path), "train")
    assert dataset.names == NAMES
    assert [path.rsplit("/", 1)[1] for path in dataset.paths] == ["a.jpg", "b.jpg", "c.jpg"]
    assert dataset.sizes.tolist() == [list(size) for size in IMAGES.values()]
    assert dataset.offsets.tolist() == [0, 2, 2, 3]
    for row, (name, size) in enumerate(IMAGES.items()):
        labels, boxes, crowd, _ = dataset.objects_of(row)
        assert labels.tolist() == [label for label, _ in OBJECTS[name]]
        corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2])
        wanted = [box for _, box in OBJECTS[name]]
        wanted = np.reshape([b[:2] for b in wanted] + [b[2:] for b in wanted], (-1, 2))
        np.testing.assert_allclose(corners * size, wanted, atol=1e-4)
        assert not crowd.any()
    np.testing.assert_allclose(dataset.areas, [200, 800, 160], rtol=1e-5)
    types = {"sizes": np.int32, "labels": np.int32, "boxes": np.float32, "crowd": bool}
    types |= {"offsets": np.int64, "image_ids": np.int64, "category_ids": np.int64}
    assert {name: getattr(dataset, name).dtype for name in types} == types


@pytest.mark.parametrize("write", WRITERS)
def test_a_data_yaml_may_name_every_layout_and_reorder_its_classes(tmp_path, write):
    data = write(tmp_path / "set")
    where = {write_yolo: "set/images/train", write_coco: "set/instances.json", write_voc: "set"}
    yaml = write_text(tmp_path / "all.yaml", f"train: {where[write]}\nnames: [dog, cat, bird]\n")
    dataset = load_dataset(yaml, "train")
    assert dataset.names == ("dog", "cat", "bird")
    flipped = [1, 0, 0] if write is write_yolo else [0, 1, 1]
    assert dataset.labels.tolist() == flipped
    assert load_dataset(data, "train").labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize("write", WRITERS)
def test_paths_are_absolute_so_that_a_run_resumes_from_any_folder(tmp_path, write, monkeypatch):
    data = write(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert load_dataset(data.relative_to(tmp_path), "train").paths[0].startswith(str(tmp_path))


def test_a_folder_with_a_data_yaml_is_that_data_yaml(tmp_path):
    write_yolo(tmp_path)
    assert len(load_dataset(tmp_path, "train")) == 3


def test_coco_images_are_found_in_cocos_own_layout(tmp_path):
    for split in ("train", "val", "test"):
        for name, size in IMAGES.items():
            write_image(tmp_path / f"{split}2017/{name}.jpg", *size)
        path = tmp_path / f"annotations/instances_{split}2017.json"
        write_text(path, json.dumps(coco_content()))
    for data in ("instances_train2017.json", "instances_val2017.json"):
        for split in ("train", "val", "test"):
            dataset = load_dataset(tmp_path / "annotations" / data, split)
            assert dataset.paths[0] == str(tmp_path / f"{split}2017" / "a.jpg")
        assert expected_splits(tmp_path / "annotations" / data) == ["train", "val", "test"]
    path.unlink()
    path = path.with_name("instances_val2017.json")
    assert expected_splits(path) == ["train", "val"]
    assert "has no split 'test' beside it" in error_of(path, "test")


def test_a_data_yaml_may_say_where_coco_images_are(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    assert "are in none of" in error_of(tmp_path / "instances.json")
    for images in ("elsewhere", "{train: elsewhere}"):
        yaml = write_text(tmp_path / "d.yaml", f"train: instances.json\nimages: {images}\n")
        assert len(load_dataset(yaml, "train")) == 3


def test_an_undivided_json_serves_every_split_with_a_warning(tmp_path, caplog):
    path = write_coco(tmp_path)
    load_dataset(path, "train")
    assert not caplog.records
    assert len(load_dataset(path, "val")) == 3
    assert "'val' is the same as 'train'" in caplog.text
    assert expected_splits(path) == ["train"]


def test_several_voc_folders_and_lists_are_one_split(tmp_path):
    write_voc(tmp_path / "one")
    write_voc(tmp_path / "two", split="trainval")
    text = "train: [one, two/ImageSets/Main/trainval.txt]\n"
    dataset = load_dataset(write_text(tmp_path / "data.yaml", text), "train")
    assert (len(dataset), dataset.names) == (6, NAMES)


def test_voc_classes_are_those_of_all_splits(tmp_path):
    write_voc(tmp_path)
    write_text(tmp_path / "ImageSets/Main/val.txt", "c -1\n")
    for split, labels in (("train", [1, 0, 0]), ("val", [0])):
        dataset = load_dataset(tmp_path, split)
        assert (dataset.names, dataset.labels.tolist()) == (NAMES, labels)
    assert expected_splits(tmp_path) == ["train", "val"]
    assert "has no split 'test'" in error_of(tmp_path, "test")
    write_text(tmp_path / "ImageSets/Main/test.txt", "a\n")
    write_text(tmp_path / "ImageSets/Main/cat_test.txt", "a 1\n")  # of one class
    assert expected_splits(tmp_path) == ["train", "val", "test"]


def test_what_is_no_data_set_is_said_to_be_none(tmp_path):
    assert error_of(tmp_path / "gone.yaml") == "gone.yaml: there is no such file or folder"
    assert "neither a Pascal VOC folder (Annotations/ and" in error_of(tmp_path)
    assert "wanted a data.yaml, a COCO .json file or" in error_of(write_text(tmp_path / "x", ""))
    yaml = write_text(tmp_path / "a.yaml", "train: [a.json, b.json]\n")
    assert "must be one COCO .json file" in error_of(yaml)
    yaml = write_text(tmp_path / "b.yaml", "train: gone.json\n")
    assert "there is no file" in error_of(yaml)
    yaml = write_text(tmp_path / "c.yaml", "train: .\nimages: x\nnames: [a]\n")
    assert "'images' is for splits that are COCO .json files" in error_of(yaml)
    write_voc(tmp_path / "voc")
    yaml = write_text(tmp_path / "d.yaml", "train: [voc, other]\nnames: [a]\n")
    assert "has Pascal VOC folders and" in error_of(yaml)


@pytest.mark.parametrize("write", WRITERS)
def test_a_split_of_which_nothing_is_left_is_refused(tmp_path, write):
    data = write(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(b"")
    message = error_of(data)
    assert "no image of 'train' can be used" in message
    assert "is empty, 0 bytes" in message
    assert "yolov7-jax check" in message


def test_a_split_whose_objects_are_all_faulty_is_refused(tmp_path):
    data = write_yolo(tmp_path)
    for name in "ac":
        (tmp_path / f"labels/train/{name}.txt").write_text("7 0.5 0.5 0.1 0.1")
    assert "no object of 'train' can be used" in error_of(data)
    assert "labels/train/a.txt:1: class 7 is not one of 0 to 1" in error_of(data)


@pytest.mark.parametrize("write", WRITERS)
def test_a_split_without_any_label_is_refused_and_told_where_labels_were_looked_for(
    tmp_path, write
):
    nothing = {name: [] for name in IMAGES}
    content = coco_content(nothing)
    data = write(tmp_path, content if write is write_coco else nothing)
    if write is write_voc:
        data = write_text(tmp_path / "data.yaml", "train: .\nnames: [cat, dog]\n")
    message = error_of(data)
    place = {
        write_yolo: "that of images/train/a.jpg, the first, would be labels/train/a.txt or "
        "images/train/a.txt",
        write_coco: "no annotation in instances.json",
        write_voc: "no file like Annotations/a.xml",
    }
    assert "'train': no image has a label: " in message
    assert place[write] in message


def test_label_files_that_are_all_empty_are_told_from_missing_ones(tmp_path):
    data = write_yolo(tmp_path, {name: [] for name in IMAGES})
    for name in "ab":
        write_text(tmp_path / f"labels/train/{name}.txt", "\n")
    assert "no image has a label: 2 label files, without a row" in error_of(data)


def test_a_repeated_listing_is_not_taken_for_a_faulty_object(tmp_path):
    write_voc(tmp_path, {name: [] for name in IMAGES})
    write_text(tmp_path / "ImageSets/Main/train.txt", "a\nb\na\n")
    data = write_text(tmp_path / "data.yaml", "train: .\nnames: [cat, dog]\n")
    assert "no image has a label" in error_of(data)
