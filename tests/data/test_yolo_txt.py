import cv2
import numpy as np
import pytest
from data_sets import error_of, faults_of, scan, write_image

from yolov7_jax.data.faults import summarize
from yolov7_jax.data.layouts import load_dataset

YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
WANTED = (
    "wanted 5 columns (class cx cy w h) or a class and at least 3 corners "
    "(class x1 y1 x2 y2 x3 y3), got"
)


@pytest.fixture
def folder(tmp_path):
    """Three images: two objects, no label file, one object."""
    (tmp_path / "data.yaml").write_text(YAML)
    for number in range(3):
        write_image(tmp_path / f"images/train/{number}.png", 20 + number, 10)
    write_labels(tmp_path, 0, "1 0.5 0.5 0.2 0.4\n0 0.25 0.25 0.5 0.5\n")
    write_labels(tmp_path, 2, "0 0.1 0.2 0.1 0.2")
    return tmp_path


def write_labels(folder, number, text):
    path = folder / f"labels/train/{number}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def test_every_object_is_read_and_images_without_labels_are_background(folder):
    dataset = load_dataset(folder, "train")
    assert dataset.names == ("cat", "dog")
    assert [path.rsplit("/", 1)[1] for path in dataset.paths] == ["0.png", "1.png", "2.png"]
    assert dataset.sizes.tolist() == [[20, 10], [21, 10], [22, 10]]
    assert dataset.offsets.tolist() == [0, 2, 2, 3]
    labels, boxes, _, _ = dataset.objects_of(0)
    assert labels.tolist() == [1, 0]
    wanted = np.float32([[0.5, 0.5, 0.2, 0.4], [0.25, 0.25, 0.5, 0.5]])
    np.testing.assert_array_equal(boxes, wanted)
    assert dataset.objects_of(1).boxes_cxcywh.shape == (0, 4)


def test_rows_of_boxes_and_of_polygons_may_be_mixed(folder):
    write_labels(folder, 0, "0 0.1 0.2 0.5 0.2 0.3 0.8\n1 0.5 0.5 0.2 0.4\n")
    dataset = load_dataset(folder, "train")
    labels, boxes, crowd, polygons = dataset.objects_of(0)
    assert labels.tolist() == [0, 1]
    np.testing.assert_allclose(boxes, [[0.3, 0.5, 0.4, 0.6], [0.5, 0.5, 0.2, 0.4]], rtol=1e-6)
    np.testing.assert_array_equal(polygons.points, np.float32([[0.1, 0.2], [0.5, 0.2], [0.3, 0.8]]))
    assert polygons.part_offsets.tolist() == [0, 1, 1]
    assert not crowd.any()


def test_outlines_stay_with_their_objects_when_others_are_left_out(folder):
    bad, good = "1 0.5 0.5 0.2 0.4\n" * 2, "0 0.{0} 0.2 0.5 0.2 0.3 0.8\n"
    write_labels(folder, 0, good.format(1) + bad + good.format(2))
    write_labels(folder, 2, good.format(15))
    dataset = load_dataset(folder, "train")
    assert dataset.offsets.tolist() == [0, 3, 3, 4]
    firsts = [dataset.polygons.of_objects(row, row + 1).points[:1].tolist() for row in range(4)]
    wanted = [[[np.float32(x), np.float32(0.2)]] for x in (0.1, 0.2, 0.15)]
    assert firsts == [wanted[0], [], wanted[1], wanted[2]]


def test_names_may_be_a_map_and_path_is_relative_to_the_yaml(folder):
    (folder / "meta").mkdir()
    text = "path: ..\ntrain: images/train\nnc: 2\nnames: {1: dog, 0: cat}\n"
    (folder / "meta" / "data.yaml").write_text(text)
    dataset = load_dataset(folder / "meta" / "data.yaml", "train")
    assert dataset.names == ("cat", "dog")
    assert len(dataset) == 3
    assert len(dataset.labels) == 3


def test_splits_may_be_lists_of_files_and_folders(folder):
    write_image(folder / "more/images/deep/images/a.jpg")
    labels = folder / "more/images/deep/labels/a.txt"
    labels.parent.mkdir()
    labels.write_text("0 0.5 0.5 1 1")
    (folder / "some.txt").write_text("./images/train/2.png\n\nimages/train/0.png\n")
    (folder / "data.yaml").write_text("train: [some.txt, more/images]\nnames: [cat, dog]")
    dataset = load_dataset(folder, "train")
    assert [path.rsplit("/", 1)[1] for path in dataset.paths] == ["2.png", "0.png", "a.jpg"]
    assert dataset.offsets.tolist() == [0, 1, 3, 4]


def test_folders_below_and_linked_ones_belong_to_the_split_and_circles_end(folder):
    write_image(folder / "elsewhere/z.png")
    (folder / "images/train/1dir").symlink_to(folder / "elsewhere")
    (folder / "images/train/again").symlink_to(folder / "images")
    paths = load_dataset(folder, "train").paths
    names = [path.removeprefix(f"{folder}/images/train/") for path in paths]
    assert names == ["0.png", "1.png", "1dir/z.png", "2.png"]


def test_labels_may_lie_beside_the_images(tmp_path):
    write_image(tmp_path / "set/a.png")
    (tmp_path / "set/a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text("train: set\nnames: [cat]")
    assert load_dataset(tmp_path / "data.yaml", "train").labels.tolist() == [0]


def test_repeated_rows_are_left_out_and_counted(folder, caplog):
    write_labels(folder, 0, "1 0.5 0.5 0.2 0.4\n1 0.50 0.5 0.2 0.4\n0 0.5 0.5 0.2 0.4\n" * 2)
    dataset = load_dataset(folder / "data.yaml", "train")
    assert dataset.objects_of(0).labels.tolist() == [1, 0]
    assert faults_of(folder) == [
        "labels/train/0.txt:2: the same class and box as line 1",
        "labels/train/0.txt:4: the same class and box as line 1",
        "labels/train/0.txt:5: the same class and box as line 1",
        "labels/train/0.txt:6: the same class and box as line 3",
    ]
    data = folder / "data.yaml"
    assert [record.getMessage() for record in caplog.records] == [
        f"{data}: train: 4 faults (4 objects left out); "
        f"see `yolov7-jax check --data {data} --split train`"
    ]


def test_rounding_beyond_the_border_is_clipped_without_complaint(folder):
    write_labels(folder, 0, "0 0.5 0.5 1.0005 0.5\n0 0.0498 0.5 0.1 0.1")
    boxes = load_dataset(folder, "train").objects_of(0).boxes_cxcywh
    np.testing.assert_allclose(boxes, [[0.5, 0.5, 1, 0.5], [0.0499, 0.5, 0.0998, 0.1]], rtol=1e-5)
    assert not scan(folder).faults


def test_a_box_that_sticks_out_is_clipped_and_named(folder):
    write_labels(folder, 0, "0 0.95 0.5 0.5 0.5")
    assert faults_of(folder) == [
        "labels/train/0.txt:1: box of 10 x 5 pixels at x 14, y 2.5 in an image of 20 x 10; "
        "it is clipped"
    ]
    boxes = load_dataset(folder, "train").objects_of(0).boxes_cxcywh
    np.testing.assert_allclose(boxes, [[0.85, 0.5, 0.3, 0.5]], rtol=1e-6)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2 is not one of 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 is not one of 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 is not one of 0 to 1"),
        ("0", f"{WANTED} 1 column"),
        ("0 0.5 0.5 0.1", f"{WANTED} 4 columns"),
        ("0 0.5 0.5 0.1 0.1 0.9", f"{WANTED} 6 columns"),
        ("0 0.5 0.5 0.1 0.1 0.9 0.9 0.8", f"{WANTED} 8 columns"),
        ("cat 0.5 0.5 0.1 0.1", "wanted numbers, got cat 0.5 0.5 0.1 0.1"),
        ("0 0.5 0.5 0.1 \x07", r"wanted numbers, got 0 0.5 0.5 0.1 \x07"),
        ("0 nan 0.5 0.1 0.1", "wanted finite numbers, got 0 nan 0.5 0.1 0.1"),
        ("inf 0.5 0.5 0.1 0.1", "wanted finite numbers, got inf 0.5 0.5 0.1 0.1"),
        ("0 320 0.5 0.1 0.1", "cx is 320, wanted between 0 and 1 (normalised)"),
        ("0 0.5 0.5 0.1 1.1", "h is 1.1, wanted between 0 and 1 (normalised)"),
        ("0 0.5 0.5 0.1 0.2 0.7 -0.1", "y3 is -0.1, wanted between 0 and 1 (normalised)"),
        ("0 0.5 0.5 0 0.1", "w and h are 0 and 0.1, wanted more than 0"),
        (
            "0 0.5 0.1 0.5 0.2 0.5 0.7",
            "the outline's width and height are 0 and 0.6, wanted more than 0",
        ),
        (
            "0 0.5 0.5 1e-60 0.1",
            "box of 2e-59 x 1 pixels at x 10, y 4.5 in an image of 20 x 10; "
            "wanted a box with an area",
        ),
    ],
)
def test_a_wrong_row_is_left_out_and_named_by_file_line_and_reason(folder, line, reason):
    write_labels(folder, 0, f"0 0.5 0.5 0.1 0.1\n{line}\r\n1 0.5 0.5 0.1 0.1")
    assert faults_of(folder) == [f"labels/train/0.txt:2: {reason}"]
    assert load_dataset(folder, "train").labels.tolist() == [0, 1, 0]


def test_a_image_with_unreadable_labels_is_left_out_not_taken_for_background(folder):
    write_labels(folder, 0, b"\xff\xfe0\0 \0")
    reason = "cannot be read as text in UTF-8; its image is left out"
    assert faults_of(folder) == [f"labels/train/0.txt: {reason}"]
    assert len(load_dataset(folder, "train")) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    ids=("nonsense", "empty", "png", "jpg"),
    argvalues=[
        (b"nonsense", "is not an image that OpenCV can decode"),
        (b"", "is empty, 0 bytes"),
        (cv2.imencode(".png", np.zeros((10, 20, 3)))[1].tobytes()[:-3], "is truncated or damaged"),
        (cv2.imencode(".jpg", np.zeros((10, 20, 3)))[1].tobytes()[:-9], "is truncated or damaged"),
    ],
)
def test_a_broken_image_is_left_out_and_named_without_decoding_the_others(folder, content, reason):
    (folder / "images/train/0.png").write_bytes(content)
    (fault,) = faults_of(folder)
    assert fault.startswith(f"images/train/0.png: {reason}")
    dataset = load_dataset(folder, "train")
    assert dataset.offsets.tolist() == [0, 0, 1]
    assert dataset.sizes.tolist() == [[21, 10], [22, 10]]


def test_labels_without_a_image_are_named(folder):
    write_labels(folder, 5, "0 0.5 0.5 0.1 0.1")
    (folder / "labels/train/classes.txt").write_text("cat\ndog\n")
    reason = "there is no image with these labels"
    assert faults_of(folder) == [f"labels/train/5.txt: {reason}"]


def test_a_suffix_in_upper_case_is_read_where_there_is_none_in_lower_case(folder):
    (folder / "labels/train/2.txt").rename(folder / "labels/train/2.TXT")
    (folder / "labels/train/0.TXT").write_text("0 0.5 0.5 0.1 0.1")
    (folder / "labels/train/1.Txt").write_text("0 0.5 0.5 0.1 0.1")
    reason = "no image takes its labels from here; wanted a name that ends in .txt"
    assert faults_of(folder) == [
        f"labels/train/0.TXT: {reason}",
        f"labels/train/1.Txt: {reason}",
    ]
    assert load_dataset(folder, "train").offsets.tolist() == [0, 2, 2, 3]


def test_a_label_file_that_cannot_be_opened_is_named_with_the_reason(folder):
    (folder / "labels/train/1.txt").mkdir()
    reason = "cannot be read: Is a directory; its image is left out"
    assert faults_of(folder) == [f"labels/train/1.txt: {reason}"]
    assert len(load_dataset(folder, "train")) == 2


def test_images_that_are_listed_twice_or_missing_are_left_out_and_named(folder):
    lines = "images/train/0.png\nimages/train/9.png\n./images/train/0.png\nimages/train/1\0.png"
    (folder / "list.txt").write_text(lines)
    (folder / "images/train/1 .png").write_bytes((folder / "images/train/0.png").read_bytes())
    (folder / "data.yaml").write_text("train: list.txt\nnames: [a, b]")
    assert faults_of(folder) == [
        "images/train/0.png: is named more than once by 'train'",
        "list.txt:2: there is no image images/train/9.png",
        "list.txt:4: there is no image images/train/1\\x00.png",
    ]
    assert len(load_dataset(folder, "train")) == 1


def test_images_are_counted_once_however_often_they_are_listed_or_faulty(folder):
    lines = ["images/train/0.png"] * 3 + ["gone.png"] * 2 + ["images/train/1.png"]
    (folder / "list.txt").write_text("\n".join(lines))
    (folder / "images/train/1.png").write_bytes(b"")
    write_labels(folder, 1, b"\xff")
    (folder / "data.yaml").write_text("train: list.txt\nnames: [a, b]")
    found = scan(folder)
    # gone.png, and 1.png of which neither image nor labels can be read
    assert summarize(found.faults) == "2 images left out, 3 repetitions left out"
    assert (len(found.looked_at), len(found.dataset)) == (2, 1)
    both = "is empty, 0 bytes; nor can its labels be read: labels/train/1.txt: cannot be read as"
    assert any(both in fault for fault in faults_of(folder))


def test_images_that_share_a_label_file_are_kept_and_named(folder):
    write_image(folder / "images/train/0.jpg", 20, 10)
    write_image(folder / "images/train/1.jpg", 20, 10)  # without labels there is no doubt
    assert faults_of(folder) == [
        "images/train/0.png: labels/train/0.txt holds the labels of images/train/0.jpg too"
    ]
    assert load_dataset(folder, "train").offsets.tolist() == [0, 2, 4, 4, 4, 5]


def test_images_of_a_type_that_is_not_read_are_left_out_and_named(folder):
    for name in ("a.heic", "b.GIF", "notes.txt", ".hidden.gif", "Thumbs.db"):
        (folder / "images/train" / name).write_text("")
    wanted = "is not read; wanted .bmp .jpeg .jpg .png .tif .tiff .webp"
    assert faults_of(folder) == [
        f"images/train/a.heic: .heic {wanted}",
        f"images/train/b.GIF: .gif {wanted}",
    ]
    assert summarize(scan(folder).faults) == "2 images left out"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train: images/train\nnames: [no, cat]",
            "YAML reads yes, no, on and off in 'names' as truths: quote them",
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
            "'train' must be a folder, a .txt file that lists images, a COCO .json file, "
            "or a list of these; got [3]",
        ),
        ("- 1", "wanted a map with the keys path, train, val, test, nc, names, images"),
        ("", "wanted a map with the keys path, train, val, test, nc, names, images"),
    ],
)
def test_a_wrong_description_is_one_clear_line(folder, text, message):
    (folder / "data.yaml").write_text(text)
    assert error_of(folder) == f"data.yaml: {message}".replace("[3]", "3")


def test_what_is_not_yaml_is_named_with_its_line(folder):
    (folder / "data.yaml").write_text("train: images/train\nnames: [a, b\nnc: 2\n")
    assert error_of(folder).startswith("data.yaml:3: is not YAML: ")


def test_missing_folders_are_named(folder):
    assert error_of(folder, "val").startswith("data.yaml: 'val': there is no images/val")
    (folder / "images/val").write_text("")
    assert error_of(folder, "val").startswith("data.yaml: 'val': images/val is neither a folder")
    (folder / "images/val").unlink()
    (folder / "images/val").mkdir()
    assert error_of(folder, "val").startswith("data.yaml: 'val': no images (.bmp ")


def test_a_split_without_images_tells_of_those_that_are_not_read_and_not_of_labels(folder):
    for path in ("images/empty/notes", "labels/empty/o.txt", "images/phone/p.heic"):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text("0 0.5 0.5 0.1 0.1")
    (folder / "data.yaml").write_text("train: [images/empty, images/phone]\nnames: [a]\n")
    assert "p.heic: .heic is not read" in error_of(folder, "train")
