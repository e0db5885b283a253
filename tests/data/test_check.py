import json

import pytest
from data_sets import (
    IMAGES,
    coco_content,
    write_coco,
    write_image,
    write_text,
    write_voc,
    write_yolo,
)

from yolov7_jax.cli.check import make_parser, run
from yolov7_jax.data.layouts import load_dataset
from yolov7_jax.data.statistics import statistics
from yolov7_jax.errors import UserError


def check_command(arguments):
    return run(make_parser(arguments).parse(arguments))


def check(capsys, *arguments):
    code = check_command(["--data", *map(str, arguments)])
    return code, capsys.readouterr().out


@pytest.fixture
def faulty(tmp_path):
    """Eight unknown classes in one file and a truncated image."""
    data = write_yolo(tmp_path)
    rows = "".join(f"{label} 0.5 0.5 0.1 0.1\n" for label in range(10))
    write_text(tmp_path / "labels/train/a.txt", rows)
    path = tmp_path / "images/train/b.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    return data


@pytest.mark.parametrize("write", [write_yolo, write_coco, write_voc])
def test_a_sound_data_set_of_any_layout_has_no_faults(tmp_path, capsys, write):
    data = write(tmp_path)
    code, text = check(capsys, data, "--split", "train", "--strict")
    assert code == 0
    assert "no faults" in text
    assert "images   3, 1 of them without objects" in text
    assert "objects    3: 0 crowd regions, 0 with outlines" in text
    assert "cat        2  66.7 %" in text
    assert "objects by class\n" in text


def test_classes_without_objects_are_counted(tmp_path, capsys):
    data = write_yolo(tmp_path)
    data.write_text(data.read_text().replace("dog", "dog, elk"))
    assert "objects by class (1 of 3 have none)\n" in check(capsys, data, "--split", "train")[1]


def test_every_fault_is_grouped_and_only_some_are_shown(faulty, capsys):
    code, text = check(capsys, faulty, "--split", "train", "--show", 2)
    assert code == 0
    assert "9 faults: 1 image left out, 8 objects left out" in text
    assert "unreadable or truncated image: 1 (image left out)" in text
    assert "  images/train/b.jpg: is truncated or damaged" in text
    assert "unknown class: 8 (object left out)" in text
    assert text.count("labels/train/a.txt:") == 2
    assert "  labels/train/a.txt:3: class 2 is not one of 0 to 1\n" in text
    assert "and 6 more" in text


def test_the_report_has_every_fault_and_all_figures(faulty, capsys, tmp_path):
    report = tmp_path / "report.json"
    check(capsys, faulty, "--split", "train", "--report", report)
    content = json.loads(report.read_text())
    split = content["splits"]["train"]
    assert len(split["faults"]) == 9
    assert split["faults"][1] == {
        "kind": "unknown class",
        "effect": "object left out",
        "file": str(tmp_path / "labels/train/a.txt"),
        "line": 3,
        "reason": "class 2 is not one of 0 to 1",
    }
    assert (split["images"], split["looked_at"], split["objects"]) == (2, 3, 3)
    assert split["classes"] == {"cat": 2, "dog": 1}


def test_a_report_that_cannot_be_written_is_noticed_before_the_scan(faulty, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("nothing was to be scanned")

    monkeypatch.setattr("yolov7_jax.data.check.scan_source", refuse)
    kept = write_text(tmp_path / "kept.json", "old")
    for report in (tmp_path / "gone/a.json", tmp_path / "data.yaml/a.json"):
        with pytest.raises(UserError, match=r"--report .* cannot be written: "):
            check_command(["--data", str(faulty), "--report", str(report)])
    for report in (kept, tmp_path / "new.json"):
        with pytest.raises(UserError, match=r"--data \(=no/data\): no such"):
            check_command(["--data", "no/data", "--report", str(report)])
    assert kept.read_text() == "old"
    assert not (tmp_path / "new.json").exists()


def test_a_tilde_is_the_users_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_yolo(tmp_path / "set")
    data = "~/set/data.yaml"
    code, text = check(capsys, data, "--split", "train", "--report", "~/report.json")
    assert (code, "train: looked at 3 images" in text) == (0, True)
    assert f"the index is kept in {tmp_path}/set/.yolov7_jax_cache, " in text
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["data"] == f"{tmp_path}/set/data.yaml"


def test_what_an_earlier_check_found_is_told_to_be_that(faulty, capsys):
    first = check(capsys, faulty, "--split", "train")[1]
    second = check(capsys, faulty, "--split", "train")[1]
    told = "\ntrain: 3 images, unchanged since the last check, which found:\n"
    assert (told in first, told in second) == (False, True)
    assert second.count("\n") == first.count("\n")
    (faulty.parent / "labels/train/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert told not in check(capsys, faulty, "--split", "train")[1]


def test_a_file_with_one_word_in_a_row_is_told_in_good_english(tmp_path, capsys):
    data = write_yolo(tmp_path)
    write_text(tmp_path / "labels/train/a.txt", "0\n")
    assert "x3 y3), got 1 column\n" in check(capsys, data, "--split", "train")[1]


def test_unused_label_files_are_told_without_the_folder_and_are_no_faults(tmp_path, capsys):
    data = write_yolo(tmp_path)
    write_text(tmp_path / "images/train/a.txt", "")
    write_text(tmp_path / "images/train/z.txt", "")
    code, text = check(capsys, data, "--split", "train", "--strict")
    assert code == 0
    assert "  note: 1 label file without an image, not used: images/train/z.txt\n" in text
    used = "labels/train/a.txt is used, images/train/a.txt is not"
    assert f"  note: 1 image has a second label file: {used}\n" in text


def test_identical_images_of_two_splits_are_a_note_and_no_fault(tmp_path, capsys):
    data = write_yolo(tmp_path)
    copy_of = {"a.jpg": "y.jpg", "b.jpg": "x.jpg"}
    for name, copy in copy_of.items():
        content = (tmp_path / "images/train" / name).read_bytes()
        write_image(tmp_path / "images/val/z.jpg", 50, 60)
        (tmp_path / "images/val" / copy).write_bytes(content)
    write_text(tmp_path / "labels/val/y.txt", "0 0.5 0.5 0.1 0.1\n")
    report = tmp_path / "report.json"
    code, text = check(capsys, data, "--strict", "--report", report)
    note = "2 images of val are in train too, byte for byte: {0}images/val/x.jpg is "
    note += "{0}images/train/b.jpg, the first"
    assert code == 0
    assert f"\nnote: {note.format('')}\n" in text
    assert json.loads(report.read_text())["notes"] == [note.format(f"{tmp_path}/")]


def test_strict_makes_any_fault_fatal(faulty, capsys):
    assert check(capsys, faulty, "--split", "train")[0] == 0
    assert check(capsys, faulty, "--split", "train", "--strict")[0] == 1


def test_all_splits_are_checked_and_compared(tmp_path, capsys):
    data = write_voc(tmp_path)
    write_text(tmp_path / "ImageSets/Main/val.txt", "c\n")
    code, text = check(capsys, data, "--strict")
    assert "train: looked at 3 images" in text
    assert "val: looked at 1 image in" in text
    assert "warning: 1 image of train is in val too" in text
    assert code == 1


def test_splits_with_other_classes_are_told(tmp_path, capsys):
    for split in ("train", "val"):
        write_coco(tmp_path / split)
    path = tmp_path / "val/instances.json"
    path.write_text(path.read_text().replace('"dog"', '"elk"'))
    data = write_text(
        tmp_path / "data.yaml", "train: train/instances.json\nval: val/instances.json"
    )
    warning = "warning: train has the classes cat, dog and val has cat, elk; 'names' in"
    assert warning in check(capsys, data)[1]


def test_sizes_are_counted_as_coco_does(tmp_path):
    write_image(tmp_path / "images/a.png", 200, 200)
    sides = (31.9, 32, 96, 96.1)
    rows = "".join(f"0 0.5 0.5 {side / 200} {side / 200}\n" for side in sides)
    write_text(tmp_path / "labels/a.txt", rows)
    data = write_text(tmp_path / "data.yaml", "train: images\nnames: [cat]")
    figures = statistics(load_dataset(data, "train"))
    assert figures["box_sizes"] == {"small": 1, "medium": 2, "large": 1}
    assert figures["objects_per_image_quantiles"]["50 %"] == 4
    assert figures["image_sizes"] == [[200, 200, 1]]


@pytest.mark.parametrize("write", [write_yolo, write_coco, write_voc])
def test_a_data_set_without_objects_or_images_is_reported_too(tmp_path, capsys, write):
    data = write(tmp_path, **({"objects": {n: [] for n in IMAGES}} if write is write_yolo else {}))
    for path in tmp_path.rglob("a.jpg"):
        path.write_bytes(b"")
    assert "is empty, 0 bytes" in check(capsys, data, "--split", "train")[1]
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(b"")
    code, text = check(capsys, data, "--split", "train")
    assert (code, "images   0, 0 of them" in text) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x", "--splt", "y"], "--splt"),
        ([], "--data"),
        (["--data", "x", "--workers", "-1"], "--workers (=-1) must be at least 0"),
        (["--data", "demo", "--report", "."], "--report (=.) must be a file, not a folder"),
        (
            ["--data", "demo", "--report", "no/a"],
            "--report (=no/a) cannot be written: No such file",
        ),
        (["--data", "gone.yaml"], "--data (=gone.yaml): no such file or folder"),
    ],
)
def test_wrong_use_is_one_line(arguments, message):
    with pytest.raises(UserError) as fault:
        check_command(arguments)
    assert message in str(fault.value)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("val", "reason"),
    [
        ("", "has no split 'val'; it has train"),
        ("val: images/val\n", "'val': there is no {folder}/images/val"),
        ("val: 3\n", "'val' must be a folder, a .txt file that lists images"),
        ("val: broken.json\n", "{folder}/broken.json: wanted a JSON object"),
    ],
)
def test_a_split_that_cannot_be_read_is_its_fault_and_the_other_is_checked(
    tmp_path, capsys, val, reason
):
    write_yolo(tmp_path)
    write_text(tmp_path / "broken.json", "[]")
    data = write_text(tmp_path / "data.yaml", f"train: images/train\n{val}names: [cat, dog]\n")
    report = tmp_path / "report.json"
    code, text = check(capsys, data, "--report", report)
    (line,) = [line for line in text.splitlines() if line.startswith("val: NOT USABLE: ")]
    assert reason.format(folder=tmp_path) in line
    assert "train: looked at 3 images" in text
    assert code == 0
    assert check(capsys, data, "--strict")[0] == 1
    splits = json.loads(report.read_text())["splits"]
    assert splits["train"]["images"] == 3
    (fault,) = splits["val"]["faults"]
    assert (fault["kind"], fault["effect"]) == ("split that cannot be read", "split not usable")
    for arguments in (["--split", "val"], ["--split", "tset"]):
        with pytest.raises(UserError):
            check_command(["--data", str(data), *arguments])


def test_a_data_set_of_which_no_split_can_be_read_is_one_error(tmp_path, capsys):
    data = write_text(tmp_path / "data.yaml", "train: x\nval: y\nnames: [a]\n")
    with pytest.raises(UserError) as fault:
        check_command(["--data", str(data)])
    assert "there is no" in str(fault.value)
    assert "/x; " in str(fault.value)
    assert "\n" not in str(fault.value)
    assert capsys.readouterr().out == ""


def test_a_json_that_serves_every_split_lacks_none(tmp_path, capsys):
    code, text = check(capsys, write_coco(tmp_path), "--strict")
    assert (code, "NOT USABLE" in text) == (0, False)


def test_a_split_without_any_label_is_a_loud_fault(tmp_path, capsys):
    data = write_yolo(tmp_path, {name: [] for name in IMAGES})
    code, text = check(capsys, data, "--split", "train", "--strict")
    assert code == 1
    assert (
        "NOT USABLE: no image has a label: there is no label file; that of images/train/a.jpg, "
        "the first, would be labels/train/a.txt or images/train/a.txt\n" in text
    )
    assert "1 fault: 1 split not usable" in text
    assert "so that training starts at once" not in text


def test_the_folder_labels_is_explained_where_no_folder_is_named_images(tmp_path, capsys):
    write_image(tmp_path / "pics/a.jpg")
    data = write_text(tmp_path / "data.yaml", "train: pics\nnames: [a]\n")
    text = check(capsys, data, "--split", "train")[1]
    assert "would be pics/a.txt, or in a folder 'labels' if its images were in one" in text


def test_notes_are_told_and_are_no_faults(tmp_path, capsys):
    content = coco_content()
    content["annotations"][0]["segmentation"] = {"counts": [80, 400, 320], "size": [20, 40]}
    write_coco(tmp_path / "set", content)
    (tmp_path / "set/instances.json").rename(tmp_path / "instances.json")
    (tmp_path / "set").rename(tmp_path / "other")
    text = "train: ../instances.json\nimages: other/images\nlicense: MIT\n"
    data = write_text(tmp_path / "data.yaml", text)
    report = tmp_path / "report.json"
    code, printed = check(capsys, data, "--split", "train", "--strict", "--report", report)
    assert code == 0
    assert "\nnote: keys of other tools, not used: license\n" in printed
    masks = "1 mask in run lengths (RLE): outlines are traced, without holes"
    assert f"\n  note: {masks}\n" in printed
    roboflow = "'train': there is no ../instances.json; instances.json is used"
    assert f"\n  note: {roboflow}\n" in printed
    content = json.loads(report.read_text())
    assert content["notes"] == ["keys of other tools, not used: license"]
    assert content["splits"]["train"]["notes"] == [roboflow, masks]


def test_where_the_index_is_kept_is_told(tmp_path, capsys):
    text = check(capsys, write_yolo(tmp_path), "--split", "train")[1]
    folder = tmp_path / ".yolov7_jax_cache"
    assert f"\nthe index is kept in {folder}, so that" in text
    assert folder.is_dir()


def test_help_tells_the_exit_codes_and_the_three_layouts(capsys):
    with pytest.raises(SystemExit):
        check_command(["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in ("Exit code: 0 if", "1 if --strict", "2 if no split can be read", "data.yaml"):
        assert part in text
    assert "COCO .json file" in text
    assert "Pascal VOC" in text
