import csv
import io
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from cli.conftest import NAMES

from yolov7_jax.detect import predict_files as looking


def noise(seed, height=40, width=64):
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def write_images(folder, count, suffix=".png"):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        assert cv2.imwrite(str(folder / f"{number}{suffix}"), noise(number))
    return folder


def everything(name):
    return [
        *(f"--save-{kind}" for kind in ("txt", "coco", "csv", "jsonl", "crops")),
        *("--output", name),
    ]


def test_all_formats_tell_the_same_objects(predict, tmp_path):
    folder = write_images(tmp_path / "in", 5)
    code, out, _ = predict("in", *everything("out"))
    assert code == 0
    of_lines = [json.loads(line) for line in (tmp_path / "out/detections.jsonl").open()]
    assert [line["source"] for line in of_lines] == [f"in/{number}.png" for number in range(5)]
    count = sum(len(line["objects"]) for line in of_lines)
    assert count > 10
    assert f"5 images, {count} objects; written to out" in out

    rows = list(csv.DictReader((tmp_path / "out/detections.csv").open(encoding="utf-8")))
    coco = json.loads((tmp_path / "out/detections.json").read_text(encoding="utf-8"))
    assert [category["name"] for category in coco["categories"]] == list(NAMES)
    files = {image["id"]: image["file_name"] for image in coco["images"]}
    crops = sorted((tmp_path / "out/crops").rglob("*.jpg"))
    assert len(rows) == len(coco["annotations"]) == len(crops) == count
    flat = [(line["source"], thing) for line in of_lines for thing in line["objects"]]
    for (source, thing), row, annotation in zip(flat, rows, coco["annotations"], strict=True):
        assert row["source"] == files[annotation["image_id"]] == source
        assert row["name"] == thing["name"] == NAMES[annotation["category_id"] - 1]
        assert float(row["score"]) == thing["score"] == annotation["score"]
        box = [float(row[side]) for side in ("x0", "y0", "x1", "y1")]
        assert box == thing["box_xyxy"]
        x, y, w, h = annotation["bbox"]
        assert [x, y, x + w, y + h] == pytest.approx(box, abs=2e-3)
    for line in of_lines:
        name = os.path.basename(line["source"]).removesuffix(".png")
        labels = np.loadtxt(tmp_path / f"out/labels/{name}.txt", ndmin=2)
        boxes = np.asarray([thing["box_xyxy"] for thing in line["objects"]]).reshape(-1, 4)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / (64, 40)
        assert labels[:, 0].tolist() == [thing["label"] for thing in line["objects"]]
        np.testing.assert_allclose(labels[:, 1:3], centre, atol=1e-4)
        drawn = cv2.imread(str(tmp_path / f"out/{name}.png"))
        assert drawn.shape == (40, 64, 3)
        assert (drawn != cv2.imread(str(folder / f"{name}.png"))).any() == bool(len(boxes))


def test_names_of_classes_stay_in_their_folder(predict, tmp_path):
    write_images(tmp_path / "in", 3)
    predict("in", "--save-crops", "--no-images", "--output", "out")
    folders = {path.name for path in (tmp_path / "out/crops").iterdir()}
    assert folders <= {"猫 _b_", "dog___", "bird"}
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"crops"}


def test_the_coco_file_is_a_data_set(predict, tmp_path):
    from yolov7_jax.data.layouts import load_dataset

    write_images(tmp_path / "in", 3)
    predict("in", "--save-coco", "--no-images", "--output", "out")
    path = tmp_path / "out/detections.json"
    for image in (tmp_path / "in").iterdir():
        (tmp_path / "out/in").mkdir(exist_ok=True)
        image.rename(tmp_path / "out/in" / image.name)
    dataset = load_dataset(path, "train")
    assert len(dataset) == 3
    assert dataset.names == NAMES


def test_images_of_the_same_name_do_not_overwrite_each_other(predict, tmp_path):
    for folder in ("a", "b"):
        write_images(tmp_path / folder, 1)
    write_images(tmp_path / "a", 1, ".jpg")
    sources = ["a/0.png", "b/0.png", "a/0.jpg"]
    tables = ["--save-txt", "--save-jsonl", "--save-csv"]
    code, _, _ = predict(*sources, *tables, "--output", "out")
    assert code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("0.png", "0-2.png", "0-3.jpg", "labels", "detections.jsonl", "detections.csv"),
    }
    lines = [json.loads(line) for line in (tmp_path / "out/detections.jsonl").open()]
    written = {line["source"]: line["output"] for line in lines}
    assert written == dict(zip(sources, ["0.png", "0-2.png", "0-3.jpg"], strict=True))
    rows = list(csv.DictReader((tmp_path / "out/detections.csv").open(encoding="utf-8")))
    assert rows
    assert all(row["output"] == written[row["source"]] for row in rows)
    assert len(list((tmp_path / "out/labels").iterdir())) == 3


def test_frames_and_crops_do_not_overwrite_images_that_are_called_like_them(predict, tmp_path):
    folder = write_images(tmp_path / "in", 1)
    (folder / "0.png").rename(folder / "film-000001.png")
    write_images(tmp_path / "in/crops", 1)
    write_images(tmp_path / "in/Labels", 1)
    writer = cv2.VideoWriter("in/film.avi", cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (64, 40))
    for number in range(3):
        writer.write(noise(number))
    writer.release()
    code, _, _ = predict("in", "--save-txt", "--save-crops", "--output", "out")
    assert code == 0
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert {name for name in written if not name.startswith("crops/")} == {
        *("film-000001.png", "film.mp4", "crops-2/0.png", "Labels-2/0.png"),
        *("labels/film-000001.txt", "labels/crops-2/0.txt", "labels/Labels-2/0.txt"),
        *("labels/film-000000.txt", "labels/film-000001-2.txt", "labels/film-000002.txt"),
    }


def test_folders_keep_their_folders(predict, tmp_path):
    write_images(tmp_path / "in", 1)
    write_images(tmp_path / "in/deeper", 1)
    predict("in", "--output", "out")
    assert (tmp_path / "out/0.png").is_file()
    assert (tmp_path / "out/deeper/0.png").is_file()


def test_a_video_becomes_a_video_and_its_rows_have_frame_numbers(predict, tmp_path):
    writer = cv2.VideoWriter("film.avi", cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (64, 40))
    for number in range(6):
        writer.write(noise(number))
    writer.release()
    code, out, _ = predict("film.avi", *everything("out"), "--max-frames", "4")
    assert code == 0
    assert "film.avi: 4 images; " in out
    capture = cv2.VideoCapture("out/film.mp4")
    assert capture.get(cv2.CAP_PROP_FPS) == 12
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    lines = [json.loads(line) for line in (tmp_path / "out/detections.jsonl").open()]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3]
    assert {line["output"] for line in lines} == {"film.mp4"}
    assert (tmp_path / "out/labels/film-000003.txt").is_file()


def test_a_image_may_come_through_a_pipe(predict, tmp_path, monkeypatch):
    class Stdin:
        buffer = io.BytesIO((write_images(tmp_path / "in", 1) / "0.png").read_bytes())

    monkeypatch.setattr(sys, "stdin", Stdin)
    code, out, _ = predict("-", "--output", "out")
    assert code == 0
    assert "standard input: " in out
    assert (tmp_path / "out/stdin.png").is_file()


def test_a_name_of_several_classes_chooses_all_of_them():
    assert looking.chosen_classes(["tank", "0"], ("bird", "tank", "fish", "tank")) == (1, 3, 0)


def test_classes_are_chosen_by_name_or_index(predict, tmp_path):
    write_images(tmp_path / "in", 4)

    def labels(*wanted):
        folder = "-".join(("out", *wanted)).replace("/", "")
        predict("in", "--save-csv", "--no-images", "--output", folder, "--classes", *wanted)
        rows = csv.DictReader((tmp_path / folder / "detections.csv").open(encoding="utf-8"))
        return {int(row["label"]) for row in rows}

    assert labels("bird") == labels("2") == {2}
    assert labels("dog/..") <= labels("0", "dog/..") <= {0, 1}
    code, _, err = predict("in", "--classes", "brid", "--output", "none")
    assert code == 2
    assert "the weights have no class brid; did you mean bird?" in err


def strange_files(folder, count):
    """Images of several formats, whole, cut, with bytes changed, and files that are none."""
    rng = np.random.default_rng(0)
    whole = [
        cv2.imencode(suffix, noise(seed, *rng.integers(1, 50, 2).tolist()))[1].tobytes()
        for seed, suffix in enumerate((".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif") * 3)
    ]
    whole += [cv2.imencode(".png", np.zeros((3, 20000), np.uint8))[1].tobytes()]
    folder.mkdir()
    for number in range(count):
        data = bytearray(whole[number % len(whole)])
        match number // len(whole) % 5:
            case 1:
                data = data[: int(rng.integers(len(data)))]
            case 2 | 3:
                for place in rng.integers(0, len(data), rng.integers(1, 20)).tolist():
                    data[place] = int(rng.integers(256))
            case 4:
                data = bytearray(rng.bytes(int(rng.integers(0, 300))))
        suffix = (".jpg", ".png", ".gif", ".tif")[number % 4]  # of some other format, mostly
        (folder / f"{number:04d}{suffix}").write_bytes(data)


def test_a_thousand_strange_files_are_each_looked_at_or_named(predict, tmp_path):
    strange_files(tmp_path / "in", 1000)
    code, out, err = predict("in", "--output", "out", "--save-jsonl")
    assert code == 1
    lines = [json.loads(line) for line in (tmp_path / "out/detections.jsonl").open()]
    assert [line["source"] for line in lines] == [
        str(path.relative_to(tmp_path)) for path in sorted((tmp_path / "in").iterdir())
    ]
    bad = [line for line in lines if "fault" in line]
    assert 200 < len(bad) < 800
    for line in bad:
        assert line["fault"]
        assert f"{line['source']}: {line['fault']}" in err
    assert f"{len(bad)} could not be read" in out
    for line in lines:
        assert (f"{line['source']}: " in out) == ("fault" not in line)
    drawn = [path for path in (tmp_path / "out").iterdir() if path.suffix != ".jsonl"]
    assert len(drawn) == len(lines) - len(bad)
    assert "libpng" not in "\n".join(row for row in err.splitlines() if not row.startswith("in/"))


def test_no_file_is_replaced(predict, tmp_path):
    write_images(tmp_path / "in", 1)
    before = (tmp_path / "in/0.png").read_bytes()
    code, _, err = predict("in", "--output", "in")
    assert code == 2
    assert "--output (=in) exists; it must be a new folder, or an empty one" in err
    assert (tmp_path / "in/0.png").read_bytes() == before
    assert [predict("in")[0], predict("in")[0]] == [0, 0]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"predict", "predict-2"}


def test_the_second_start_compiles_nothing(model_file, tmp_path):
    write_images(tmp_path / "in", 1)
    environment = os.environ | {"HOME": str(tmp_path), "JAX_LOG_COMPILES": "1", "XLA_FLAGS": ""}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    compiled, told = tmp_path / ".cache/yolov7_jax/compiled", []
    for start in range(3):
        for entry in compiled.iterdir() if start == 2 else ():
            entry.write_bytes(entry.read_bytes()[:40])
        done = subprocess.run(
            [sys.executable, "-m", "yolov7_jax", "predict", "--weights", model_file, "in"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        told.append(done.stderr)
    assert "cache hit for 'jit__detect'" not in told[0]
    assert "cache hit for 'jit__detect'" in told[1]
    assert told[0].count("Finished XLA compilation") == told[1].count("cache hit for")
    damaged = [line for line in told[2].splitlines() if "arning" in line]
    assert damaged == [
        f"warning: {compiled} is damaged, so programs are compiled anew; the folder may be deleted"
    ]


def test_a_name_that_is_no_text_is_escaped_and_the_others_are_looked_at(predict, tmp_path):
    write_images(tmp_path / "in", 2)
    odd = os.fsdecode(os.fsencode(tmp_path / "in") + b"/bad\xff.png")
    os.rename(tmp_path / "in/0.png", odd)
    code, out, _ = predict("in", *everything("out"))
    assert code == 0
    assert "in/bad\\udcff.png: " in out
    sources = [json.loads(line)["source"] for line in (tmp_path / "out/detections.jsonl").open()]
    assert sorted(sources) == ["in/1.png", "in/bad\udcff.png"]
    assert json.loads((tmp_path / "out/detections.json").read_text())["images"]


def test_links_to_nothing_and_shut_folders_are_named(predict, tmp_path, monkeypatch):
    write_images(tmp_path / "in", 1)
    (tmp_path / "in/gone.png").symlink_to("nowhere.png")
    code, _, err = predict("in", "--output", "out")
    assert code == 1
    assert "in/gone.png: cannot be read: No such file or directory" in err

    def shut(top, onerror):
        onerror(PermissionError(13, "Permission denied", "in/shut"))
        return iter([("in", [], ["0.png"])])

    monkeypatch.setattr("os.walk", shut)
    code, out, err = predict("in", "--output", "out2")
    assert code == 1
    assert "in/shut: cannot be looked into: Permission denied" in err
    assert "1 image, " in out


def test_a_disk_that_is_full_is_named_with_the_file_and_leaves_no_half(
    predict, tmp_path, monkeypatch
):
    write_images(tmp_path / "in", 1)

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    code, _, err = predict("in", "--output", "out")
    assert code == 2
    assert err == "error: out/0.png: No space left on device\n"
    assert not (tmp_path / "out").exists()


def test_a_video_that_is_not_whole_is_no_success(predict, tmp_path, monkeypatch):
    writer = cv2.VideoWriter("film.avi", cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (64, 40))
    for number in range(3):
        writer.write(noise(number))
    writer.release()

    class Silent:  # as OpenCV's is on a full disk
        def __init__(self, path, *_):
            open(path, "wb").close()

        def isOpened(self):  # noqa: N802 - OpenCV's name
            return True

        def write(self, image):
            pass

        def release(self):
            pass

    Silent.fourcc = cv2.VideoWriter.fourcc
    monkeypatch.setattr(cv2, "VideoWriter", Silent)
    code, _, err = predict("film.avi", "--output", "out")
    assert code == 2
    assert err == "error: out/film.mp4: the video could not be written whole\n"
