"""`yolov7-jax val` as its users meet it."""

import contextlib
import json
import pathlib
import shutil
import signal
import struct
import zlib

import cv2
import jax
import numpy as np
import pytest
from data_sets import IMAGES, coco_content, write_coco, write_text, write_yolo

from yolov7_jax import create
from yolov7_jax.cli import main
from yolov7_jax.demo_data import demo
from yolov7_jax.evaluate import detect_split as evaluation
from yolov7_jax.weights import load_model, save_safetensors

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "checkpoint"
TINY = str(GOLDEN / "yolov7-tiny-narrow.pt")  # of the classes cat and dog
FILES = {
    "detections.json",
    "metrics.json",
    "precision_recall.png",
    "f1.png",
    "confusion.png",
    "worst.png",
    "report.html",
}


def val(data, *more):
    options = ["--split", "train", "--image-size", "64", "--batch-size", "3"]
    return main(["val", "--weights", TINY, "--data", str(data), *options, *map(str, more)])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of an evaluation, and what it printed."""
    folder = tmp_path_factory.mktemp("base")
    data = write_coco(folder / "data")
    out = folder / "out"
    with pytest.MonkeyPatch.context() as monkeypatch:
        printed = []
        monkeypatch.setattr("builtins.print", lambda *texts, **_: printed.extend(texts))
        assert val(data, "--output", out, "--report") == 0
    return out, "\n".join(printed).splitlines()


def test_all_files_are_written(base):
    folder, printed = base
    assert {path.name for path in folder.iterdir()} == FILES
    assert all(name in printed[-1] for name in FILES)
    for path in folder.glob("*.png"):
        assert cv2.imread(str(path)).shape[1] >= 300


def test_printed_numbers_are_those_of_the_file(base):
    folder, printed = base
    numbers = json.loads((folder / "metrics.json").read_text())
    rows = {line[:10].strip(): line.split()[-1] for line in printed if line}
    titles = {"AP": "ap", "AP50": "ap50", "AP small": "ap_small", "AR100": "ar100"}
    for title, name in titles.items():
        value = numbers[name]
        assert rows[title] == ("-" if value is None else f"{value:.3f}")
    assert (numbers["images"], numbers["objects"], numbers["left_out"]) == (3, 3, [])
    assert [entry["name"] for entry in numbers["classes"]] == ["cat", "dog"]
    assert [entry["objects"] for entry in numbers["classes"]] == [2, 1]
    assert np.shape(numbers["confusion"]) == (3, 3)
    assert numbers["settings"]["batch_size"] == 8  # for eight devices to share
    best = f"from a score of {numbers['best_score']:.3f}"
    assert any(best in line for line in printed)


def rows_of(folder, names):
    """Detections as sorted rows, with the names of classes instead of their ids."""
    rows = json.loads((folder / "detections.json").read_text())
    return sorted(
        (row["image_id"], *row["bbox"], row["score"], names[row["category_id"]]) for row in rows
    )


def test_detections_have_the_ids_of_the_source(base):
    rows = json.loads((base[0] / "detections.json").read_text())
    assert len(rows) > 20
    assert {row["image_id"] for row in rows} == {100, 101, 102}
    assert {row["category_id"] for row in rows} == {3, 18}


def test_classes_in_another_order_are_taken_by_their_names(base, tmp_path):
    content = coco_content()
    content["categories"] = [{"id": 3, "name": "dog"}, {"id": 18, "name": "cat"}]
    for item in content["annotations"]:
        item["category_id"] = 21 - item["category_id"]
    data = write_coco(tmp_path / "data", content)
    assert val(data, "--output", tmp_path / "out") == 0
    mine = rows_of(tmp_path / "out", {3: "dog", 18: "cat"})
    usual = rows_of(base[0], {3: "cat", 18: "dog"})
    assert [row[-1] for row in mine] == [row[-1] for row in usual]
    np.testing.assert_allclose([row[:-1] for row in mine], [row[:-1] for row in usual], atol=1e-3)
    numbers, before = (
        json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "out", base[0])
    )
    assert numbers["ap"] == pytest.approx(before["ap"], abs=1e-6)
    assert [entry["name"] for entry in numbers["classes"]] == ["dog", "cat"]


def test_of_the_classes_of_the_weights_only_those_of_the_data_are_looked_for(
    base, tmp_path, capsys
):
    content = coco_content()
    content["categories"] = [{"id": 18, "name": "dog"}]
    content["annotations"] = [row for row in content["annotations"] if row["category_id"] == 18]
    assert val(write_coco(tmp_path / "data", content), "--output", tmp_path / "out") == 0
    assert "1 class of the weights is not in the data" in capsys.readouterr().out
    mine, usual = (rows_of(folder, {3: "cat", 18: "dog"}) for folder in (tmp_path / "out", base[0]))
    dogs = [row for row in usual if row[-1] == "dog"]
    assert len(mine) >= len(dogs) > 5
    scores = {round(row[-2], 4) for row in mine}
    assert {round(row[-2], 4) for row in dogs} <= scores


def test_what_is_wrong_with_the_data_is_counted_and_listed_in_a_file(tmp_path, capsys):
    content = coco_content()
    content["images"][0]["width"] += 2
    faulty = content["annotations"][-1]
    assert faulty["image_id"] != content["images"][0]["id"]
    content["annotations"].append(faulty | {"id": 77, "category_id": 5})
    data = write_coco(tmp_path / "data", content)
    assert val(data, "--output", tmp_path / "out") == 1
    printed = capsys.readouterr()
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (numbers["images"], numbers["objects_left_out"]) == (2, 1)
    (left_out,) = numbers["left_out"]
    assert "pixels, but annotated as" in left_out
    assert f"left out: {left_out}" in printed.err
    assert "2 images (1 left out) in rectangles" in printed.out
    assert "objects (1 left out) of 2 classes" in printed.out
    faults = (tmp_path / "out" / "faults.txt").read_text().splitlines()
    assert len(faults) == 2
    assert f"{left_out} (image left out)" in faults
    assert "2 faults (1 image left out, 1 object left out); see " in printed.err
    assert "python -m train" not in printed.err


@pytest.mark.parametrize("annotations", [[], None])
def test_of_images_without_annotations_the_detections_are_written(
    base, tmp_path, capsys, annotations
):
    content = coco_content() | {"annotations": annotations}
    if annotations is None:
        del content["annotations"]
    data = write_coco(tmp_path / "data", content)
    assert val(data, "--output", tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.json"]
    written = (tmp_path / "out" / "detections.json").read_text()
    assert written == (base[0] / "detections.json").read_text()
    assert "3 images" in capsys.readouterr().out
    assert val(data, "--output", tmp_path / "page", "--report") == 2
    assert capsys.readouterr().err.count("has no objects to compare detections with\n") == 1
    assert not (tmp_path / "page").exists()


def test_a_signal_that_jax_loses_while_it_compiles_ends_val(tmp_path, capsys, monkeypatch):
    compiled = evaluation.forward

    def lose(*args, **options):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        return compiled(*args, **options)

    monkeypatch.setattr(evaluation, "forward", lose)
    assert val(write_coco(tmp_path / "data"), "--output", tmp_path / "out") == 143
    assert capsys.readouterr().err == "interrupted by SIGTERM\n"


def test_val_knows_the_embedded_data_set(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "make_demo", lambda: write_yolo(tmp_path / "drawn"))
    assert val("demo", "--output", tmp_path / "out") == 0
    assert "drawn/data.yaml, train: 3 images" in capsys.readouterr().out


def damaged_png(width, height):
    """A PNG whose header and end are sound."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", b"no pixels" * 20), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_damaged_images_are_named_counted_and_change_the_exit_code(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_yolo(tmp_path / "data")
    images = tmp_path / "data" / "images" / "train"
    (images / "b.jpg").write_bytes(damaged_png(30, 30))
    (images / "c.jpg").write_bytes((images / "c.jpg").read_bytes()[:-30])  # truncated
    (tmp_path / "runs" / "val").mkdir(parents=True)
    assert val(data) == 1
    printed = capsys.readouterr()
    assert "train: 1 image (2 left out)" in printed.out
    named = [line for line in printed.err.splitlines() if line.startswith("left out: ")]
    assert ["c.jpg" in named[0], "b.jpg: is not an image" in named[1]] == [True, True]
    assert "libpng" not in printed.err
    numbers = json.loads((tmp_path / "runs" / "val-2" / "metrics.json").read_text())
    assert (numbers["images"], numbers["objects"], len(numbers["left_out"])) == (1, 2, 2)


def test_images_with_a_hole_are_left_out_too(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_yolo(tmp_path / "data")
    noise = np.random.default_rng(0).integers(0, 255, (*IMAGES["a"][::-1], 3), np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    hole = whole[: len(whole) // 2] + whole[-2:]
    (tmp_path / "data/images/train/a.jpg").write_bytes(hole)
    assert val(data) == 1
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "left out: " in line]
    assert "a.jpg: is truncated or damaged (Corrupt JPEG data: " in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image-size", "3200000"], "--image-size (=3200000) must be at most 16384"),
        (["--image-size", "100"], "--image-size (=100) must be a positive multiple of 32"),
        (["--batch-size", "0"], "--batch-size (=0) must be at least 1"),
        (["--score-threshold", "2"], "--score-threshold (=2) must be in [0, 1]"),
        (["--iou-threshold", "nan"], "--iou-threshold (=nan) must be in [0, 1]"),
        (["--split", "test"], "test"),
        (["--data", "nowhere.yaml"], "--data (=nowhere.yaml): no such file"),
        (["--weights", "nowhere.pt"], "--weights (=nowhere.pt): no such file"),
        (["--output", "full"], "--output (=full) exists; it must be a new folder"),
        (["--output", "full/file"], "--output (=full/file) is a file"),
        (["--data", "other/data.yaml"], "do not know 1 of the data's 2 classes: 'horse'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_yolo(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "other")
    text = (tmp_path / "other" / "data.yaml").read_text().replace("dog", "horse")
    write_text(tmp_path / "other" / "data.yaml", text)
    write_text(tmp_path / "full" / "file", "precious")
    assert val("data/data.yaml", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert not (tmp_path / "runs").exists()


def test_weights_without_names_need_as_many_classes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_safetensors(load_model(TINY), "nameless.safetensors")
    data = write_yolo(tmp_path / "data")
    text = data.read_text().replace("cat, dog", "cat, dog, horse")
    write_text(data, text)
    assert val(data, "--weights", "nameless.safetensors") == 2
    assert "2 classes without names, the data 3: 'cat', 'dog', 'horse'" in capsys.readouterr().err


def test_weights_of_one_class_measure_all_objects_as_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = create("yolov7-tiny", 1, key=jax.random.key(0), width=0.125)
    save_safetensors(model, "one.safetensors", names=["object"])
    data = write_yolo(tmp_path / "data")
    assert val(data, "--weights", "one.safetensors") == 2
    assert "they know 'object' instead" in capsys.readouterr().err
    assert val(data, "--weights", "one.safetensors", "--single-class", "--output", "out") == 0
    assert "of 1 class" in capsys.readouterr().out
