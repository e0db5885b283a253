import struct

import cv2
import numpy as np
import pytest

from train.data.picture_size import picture_size
from train.data.yolo_txt import load_yolo
from train.errors import UserError
from yolov7_jax.image import read_image

YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def write_picture(path, width=20, height=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Three pictures: two objects, no label file, one object."""
    (tmp_path / "data.yaml").write_text(YAML)
    for number in range(3):
        write_picture(tmp_path / f"images/train/{number}.png", 20 + number, 10)
    write_labels(tmp_path, 0, "1 0.5 0.5 0.2 0.4\n0 0.25 0.25 0.5 0.5\n")
    write_labels(tmp_path, 2, "0 0.1 0.2 0.1 0.2")
    return tmp_path


def write_labels(folder, number, text):
    path = folder / f"labels/train/{number}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def fault_of(folder, split="train"):
    with pytest.raises(UserError) as fault:
        load_yolo(folder / "data.yaml", split)
    message = str(fault.value)
    assert "\n" not in message
    return message.replace(str(folder) + "/", "")


def test_every_object_is_read_and_pictures_without_labels_are_background(folder):
    dataset = load_yolo(folder / "data.yaml", "train")
    assert dataset.names == ("cat", "dog")
    assert [path.rsplit("/", 1)[1] for path in dataset.paths] == ["0.png", "1.png", "2.png"]
    assert dataset.sizes.tolist() == [[20, 10], [21, 10], [22, 10]]
    assert dataset.offsets.tolist() == [0, 2, 2, 3]
    labels, boxes, _, _ = dataset.objects_of(0)
    assert labels.tolist() == [1, 0]
    np.testing.assert_allclose(boxes, [[0.5, 0.5, 0.2, 0.4], [0.25, 0.25, 0.5, 0.5]], rtol=1e-6)
    assert dataset.objects_of(1).boxes_cxcywh.shape == (0, 4)
    assert [field.dtype for field in (dataset.sizes, dataset.labels)] == [np.int32] * 2
    assert (dataset.offsets.dtype, dataset.boxes.dtype) == (np.int64, np.float32)


def test_names_may_be_a_map_and_path_is_relative_to_the_yaml(folder):
    (folder / "meta").mkdir()
    text = "path: ..\ntrain: images/train\nnc: 2\nnames: {1: dog, 0: cat}\n"
    (folder / "meta" / "data.yaml").write_text(text)
    dataset = load_yolo(folder / "meta" / "data.yaml", "train")
    assert dataset.names == ("cat", "dog")
    assert len(dataset) == 3


def test_splits_may_be_lists_of_files_and_folders(folder):
    write_picture(folder / "more/images/deep/images/a.jpg")
    labels = folder / "more/images/deep/labels/a.txt"
    labels.parent.mkdir()
    labels.write_text("0 0.5 0.5 1 1")
    (folder / "some.txt").write_text("./images/train/2.png\n\nimages/train/0.png\n")
    (folder / "data.yaml").write_text("train: [some.txt, more/images]\nnames: [cat, dog]")
    dataset = load_yolo(folder / "data.yaml", "train")
    assert [path.rsplit("/", 1)[1] for path in dataset.paths] == ["2.png", "0.png", "a.jpg"]
    assert dataset.offsets.tolist() == [0, 1, 3, 4]


def test_labels_may_lie_beside_the_pictures(tmp_path):
    write_picture(tmp_path / "set/a.png")
    (tmp_path / "set/a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text("train: set\nnames: [cat]")
    assert load_yolo(tmp_path / "data.yaml", "train").labels.tolist() == [0]


def test_repeated_rows_are_dropped_and_counted(folder, caplog):
    write_labels(folder, 0, "1 0.5 0.5 0.2 0.4\n1 0.50 0.5 0.2 0.4\n0 0.5 0.5 0.2 0.4\n" * 2)
    dataset = load_yolo(folder / "data.yaml", "train")
    assert dataset.objects_of(0).labels.tolist() == [1, 0]
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}/data.yaml: 4 repeated label rows of train were dropped"
    ]


def test_a_split_without_any_object_is_loaded_with_a_warning(tmp_path, caplog):
    write_picture(tmp_path / "set/a.png")
    (tmp_path / "data.yaml").write_text("train: set\nnames: [cat]")
    assert load_yolo(tmp_path / "data.yaml", "train").boxes.shape == (0, 4)
    assert "no picture of train has a labelled object" in caplog.text


def test_rounding_beyond_the_border_is_clipped_not_refused(folder):
    write_labels(folder, 0, "0 1.0005 0.5 1.0005 0.5\n0 -0.0002 0.5 0.1 0.1")
    boxes = load_yolo(folder / "data.yaml", "train").objects_of(0).boxes_cxcywh
    np.testing.assert_allclose(boxes, [[1, 0.5, 1, 0.5], [0, 0.5, 0.1, 0.1]])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2 is not one of 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 is not one of 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 is not one of 0 to 1"),
        ("0 0.5 0.5 0.1", "wanted 5 columns (class cx cy w h), got 4"),
        ("0 0.5 0.5 0.1 0.1 0.9", "wanted 5 columns (class cx cy w h), got 6"),
        ("cat 0.5 0.5 0.1 0.1", "wanted 5 numbers (class cx cy w h), got cat 0.5 0.5 0.1 0.1"),
        ("0 nan 0.5 0.1 0.1", "wanted finite numbers, got 0 nan 0.5 0.1 0.1"),
        ("inf 0.5 0.5 0.1 0.1", "wanted finite numbers, got inf 0.5 0.5 0.1 0.1"),
        ("0 320 0.5 0.1 0.1", "cx is 320, wanted between 0 and 1 (normalised)"),
        ("0 0.5 0.5 0.1 1.1", "h is 1.1, wanted between 0 and 1 (normalised)"),
        ("0 0.5 0.5 0 0.1", "w and h are 0 and 0.1, wanted more than 0"),
    ],
)
def test_a_wrong_label_is_named_by_file_line_and_reason(folder, line, reason):
    write_labels(folder, 0, f"0 0.5 0.5 0.1 0.1\n{line}\n")
    assert fault_of(folder) == f"labels/train/0.txt:2: {reason}"


def test_the_first_of_several_faults_is_named_and_the_others_are_counted(folder):
    write_labels(folder, 0, "7 0.5 0.5 0.1 0.1\n0 0.5\n")
    (folder / "images/train/1.png").write_bytes(b"nonsense")
    assert fault_of(folder) == (
        "labels/train/0.txt:1: class 7 is not one of 0 to 1 (and 2 more faults)"
    )


def test_a_broken_picture_is_named(folder):
    (folder / "images/train/1.png").write_bytes(b"nonsense")
    assert fault_of(folder) == "images/train/1.png: is not a picture that OpenCV can decode"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\nnamse: [a]", "unknown key 'namse'; did you mean 'names'?"),
        (
            YAML + "zzz: 1\nyyy: 2",
            "unknown key 'zzz'; the keys are path, train, val, test, nc, names "
            "(and 1 more unknown keys)",
        ),
        (YAML + "nc: 3", "'nc' is 3, but 'names' has 2 classes"),
        (
            "train: images/train\nnames: {0: a, 2: b}",
            "the keys of 'names' must be 0 to 1, each once; got [0, 2]",
        ),
        (
            "train: images/train",
            "'names' must list the classes, or map 0, 1, 2 ... to them; got None",
        ),
        ("val: images/val\nnames: [a]", "has no split 'train'; it has val"),
        (
            "train: 3\nnames: [a]",
            "'train' must be a folder, a .txt file that lists pictures, or a list of these; got 3",
        ),
        ("- 1", "wanted a map with the keys path, train, val, test, nc, names"),
        ("", "wanted a map with the keys path, train, val, test, nc, names"),
    ],
)
def test_a_wrong_description_is_one_clear_line(folder, text, message):
    (folder / "data.yaml").write_text(text)
    assert fault_of(folder) == f"data.yaml: {message}"


def test_what_is_not_yaml_is_named_with_its_line(folder):
    (folder / "data.yaml").write_text("train: images/train\nnames: [a, b\nnc: 2\n")
    assert fault_of(folder).startswith("data.yaml:3: is not YAML: ")


def test_missing_files_and_folders_are_named(folder, tmp_path):
    assert fault_of(folder, "val") == (
        "data.yaml: 'val': images/val is neither a folder nor a .txt file that lists pictures"
    )
    (folder / "images/val").mkdir()
    assert fault_of(folder, "val").startswith("data.yaml: 'val': no pictures (.bmp ")
    (folder / "list.txt").write_text("images/train/0.png\nimages/train/9.png\n")
    (folder / "data.yaml").write_text("train: list.txt\nnames: [a, b]")
    assert fault_of(folder) == "list.txt:2: there is no picture images/train/9.png"
    with pytest.raises(UserError, match=r"gone\.yaml: cannot be read: No such file"):
        load_yolo(tmp_path / "gone.yaml", "train")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(9))
def test_size_read_from_a_jpeg_header_is_that_of_the_decoded_picture(tmp_path, order, orientation):
    _, encoded = cv2.imencode(".jpg", np.zeros((10, 20, 3), np.uint8))
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    tiff = mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    data = encoded.tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    height, width = read_image(path).shape[:2]
    assert picture_size(path) == (width, height)
    assert (width < height) == (orientation >= 5)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".tiff", ".jpg"])
def test_size_is_read_from_every_format(tmp_path, suffix):
    write_picture(tmp_path / f"a{suffix}", 21, 12)
    assert picture_size(tmp_path / f"a{suffix}") == (21, 12)
