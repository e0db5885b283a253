"""A data.yaml as other tools write it: what is theirs is told, what is misspelt is refused."""

import pytest
from data_sets import write_coco, write_text, write_yolo

from yolov7_jax.data.data_yaml import KEYS, read_data_yaml, unused_keys
from yolov7_jax.data.layouts import load_dataset
from yolov7_jax.errors import UserError

FOREIGN = (
    "roboflow:\n  workspace: mine\n  version: 2\nlicense: MIT\ndownload: https://example.org/a.zip\n"
    "augment: true\nflip_idx: [0]\ntest: ../test/images\ndescription: none\n1: 2\n"
)


def extend(data, text):
    data.write_text(data.read_text() + text)
    return data


def test_keys_of_other_tools_are_told_once_and_change_nothing(tmp_path, caplog):
    plain = load_dataset(write_yolo(tmp_path), "train")
    data = extend(tmp_path / "data.yaml", FOREIGN)
    assert load_dataset(data, "train").fingerprint() == plain.fingerprint()
    told = [record.getMessage() for record in caplog.records]
    keys = "roboflow, license, download, augment, flip_idx, description, 1"
    assert told == [f"{data}: keys of other tools, not used: {keys}"]
    caplog.clear()
    (tmp_path / "images/val").symlink_to(tmp_path / "images/train")
    (tmp_path / "labels/val").symlink_to(tmp_path / "labels/train")
    load_dataset(data, "val")
    assert not caplog.records


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("trian", "train"),
        ("Train", "train"),
        ("name", "names"),
        ("namse", "names"),
        ("valid", "val"),
        ("pth", "path"),
        ("image", "images"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_one_that_was_meant(tmp_path, key, meant):
    data = extend(write_yolo(tmp_path), f"{key}: x\nroboflow: 1\n")
    with pytest.raises(UserError) as fault:
        load_dataset(data, "train")
    assert str(fault.value) == f"{data}: unknown key '{key}'; did you mean '{meant}'?"


def test_every_misspelt_key_is_in_the_message(tmp_path):
    data = write_text(tmp_path / "data.yaml", "trian: x\nname: [a]\n")
    with pytest.raises(
        UserError, match=r"'trian'; did you mean 'train'\?; unknown key 'name'; did"
    ):
        read_data_yaml(data, "train")


def test_a_missing_split_is_told_with_the_keys_that_might_be_it(tmp_path):
    data = write_text(tmp_path / "data.yaml", "train: x\nvalidation: y\nnames: [a]\n")
    with pytest.raises(UserError) as fault:
        read_data_yaml(data, "val")
    assert str(fault.value) == (
        f"{data}: has no split 'val'; it has train (and, not used: validation)"
    )


def test_no_key_is_unused_that_is_known(tmp_path):
    text = "".join(f"{key}: x\n" for key in KEYS)
    assert unused_keys(write_text(tmp_path / "data.yaml", text)) == []


def test_a_folder_that_roboflow_names_one_too_high_is_found_and_told(tmp_path, caplog):
    write_yolo(tmp_path / "set")
    data = write_text(
        tmp_path / "set/data.yaml", "train: ../images/train\nval: ../gone\nnames: [cat, dog]\n"
    )
    assert len(load_dataset(data, "train")) == 3
    note = "'train': there is no ../images/train; images/train is used"
    assert [record.getMessage() for record in caplog.records] == [f"{data}: {note}"]
    with pytest.raises(UserError, match=r"'val': there is no .*/set/\.\./gone"):
        load_dataset(data, "val")


def test_a_folder_that_exists_where_it_is_named_is_taken(tmp_path, caplog):
    data = write_yolo(tmp_path / "set")
    write_yolo(tmp_path)
    (tmp_path / "images/train/a.jpg").unlink()
    (tmp_path / "labels/train/a.txt").unlink()
    data.write_text("train: ../images/train\nnames: [cat, dog]\n")
    assert len(load_dataset(data, "train")) == 2
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: a\nnames: {0: a, 1: b, 1: c}\n", "2: 1 is set again"),
        ("train: a\nnames:\n  0: a\n  1: b\n  01: c\n", "5: 01 is set again"),
        ("train: a\nnames: [a]\ntrain: b\n", "3: train is set again"),
    ],
)
def test_a_key_that_is_set_twice_is_refused_with_its_line(tmp_path, text, told):
    data = write_text(tmp_path / "data.yaml", text)
    with pytest.raises(UserError) as fault:
        read_data_yaml(data, "train")
    assert str(fault.value) == f"{data}:{told}"


def test_a_key_may_stand_beside_the_same_key_of_a_merged_mapping(tmp_path):
    text = "x: &x {0: a, 1: b}\ntrain: x\nnames: {<<: *x, 1: c}\n"
    assert read_data_yaml(write_text(tmp_path / "data.yaml", text), "train").names == ("a", "c")


def test_label_files_with_keypoints_are_refused_and_coco_files_are_not(tmp_path):
    data = extend(write_yolo(tmp_path), "kpt_shape: [17, 3]\n")
    with pytest.raises(UserError, match=r"data.yaml: 'kpt_shape' says that label files have keyp"):
        load_dataset(data, "train")
    data.write_text("train: a.json\nkpt_shape: [17, 3]\n")
    assert read_data_yaml(data, "train").entries == (tmp_path / "a.json",)


@pytest.mark.parametrize(
    "text",
    [
        "path: ~/set\ntrain: images/train\n",
        "train: ~/set/images/train\n",
        "train: [~/set/images/train]\n",
        "train: ~/list.txt\n",
    ],
)
def test_a_tilde_is_the_users_folder_in_every_path(tmp_path, monkeypatch, text):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_yolo(tmp_path / "set")
    write_text(tmp_path / "list.txt", "".join(f"~/set/images/train/{n}.jpg\n" for n in "abc"))
    write_text(tmp_path / "elsewhere/data.yaml", text + "names: [cat, dog]\n")
    dataset = load_dataset("~/elsewhere/data.yaml", "train")
    assert [path.removeprefix(f"{tmp_path}/set/images/train/") for path in dataset.paths] == [
        *("a.jpg", "b.jpg", "c.jpg")
    ]
    assert (tmp_path / "elsewhere/.yolov7_jax_cache").is_dir()


def test_a_tilde_is_the_users_folder_where_the_images_of_a_coco_file_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_coco(tmp_path / "set")
    (tmp_path / "set/images").rename(tmp_path / "images")
    text = "train: ~/set/instances.json\nimages: ~/images\n"
    data = write_text(tmp_path / "data.yaml", text)
    assert len(load_dataset(data, "train")) == 3


def test_the_folder_of_an_unknown_user_is_one_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match="~nobody-of-that-name/x: there is no such file or folder"):
        load_dataset("~nobody-of-that-name/x", "train")
    data = write_text(tmp_path / "data.yaml", "train: ~nobody-of-that-name/x\nnames: [a]\n")
    with pytest.raises(UserError, match=r"'train': there is no .*/~nobody-of-that-name/x"):
        load_dataset(data, "train")
