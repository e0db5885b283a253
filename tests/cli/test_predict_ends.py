"""How `predict` ends: with mistakes, signals and nothing to write; and what it tells before."""

import contextlib
import itertools
import json
import re
import signal
import warnings

import cv2
import jax
import pytest
from cli.test_predict import noise, write_images

from yolov7_jax.compiled_programs import keep_compiled
from yolov7_jax.detect import predict_files as looking
from yolov7_jax.signals import stopping_for_sure


def write_video(name, count):
    writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (64, 40))
    for number in range(count):
        writer.write(noise(number))
    writer.release()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gone.jpg"], "gone.jpg: no such file or folder"),
        (["in", "--image-size", "100"], "--image-size (=100) must be a multiple of 32"),
        (["in", "--image-size", "0"], "--image-size (=0) must be an integer from 1"),
        (["in", "--score-threshold", "7"], "--score-threshold (=7.0) must be a number from 0"),
        (["in", "--max-frames", "0"], "--max-frames (=0) must be at least 1"),
        (["in", "--weights", "in/0.png"], "in/0.png: "),
        (["in", "--output", ""], "--output must not be empty"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(predict, tmp_path, arguments, told):
    write_images(tmp_path / "in", 1)
    code, _, err = predict(*arguments)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_jax_loses_still_stops(predict, tmp_path, monkeypatch, number):
    write_images(tmp_path / "in", 20)
    read, before = looking.read_still, signal.getsignal(number)

    def interrupted(still):
        if still.source == "in/0.png":
            with contextlib.suppress(KeyboardInterrupt):  # as JAX's callbacks do
                signal.raise_signal(number)
        return read(still)

    def one_after_another(function, items, workers, ahead):
        return map(function, items)

    monkeypatch.setattr(looking, "read_still", interrupted)
    monkeypatch.setattr(looking, "map_ahead", one_after_another)
    code, _, err = predict("in", "--output", "out")
    assert code == 128 + number
    assert err == f"interrupted by {number.name}\n"
    assert signal.getsignal(number) is before


def interrupt(monkeypatch, number):
    """Has a signal come before the fourth image of every video."""
    read = looking.read_video

    def interrupted(video):
        frames = read(video)
        yield from itertools.islice(frames, 3)
        signal.raise_signal(number)
        yield from frames

    monkeypatch.setattr(looking, "read_video", interrupted)


def test_what_is_done_when_sigterm_comes_is_kept(predict, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("film.avi", 9)
    interrupt(monkeypatch, signal.SIGTERM)
    code, _, err = predict(
        "film.avi", "--batch-size", "1", "--save-coco", "--save-csv", "--output", "out"
    )
    assert (code, err) == (143, "interrupted by SIGTERM\n")
    assert cv2.VideoCapture("out/film.mp4").get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert len(json.loads((tmp_path / "out/detections.json").read_text())["images"]) == 3


@pytest.mark.parametrize(
    ("number", "ended", "code"), [(signal.SIGINT, 2, 0), (signal.SIGTERM, 1, 143)]
)
def test_ctrl_c_ends_one_stream_and_sigterm_all(
    predict, tmp_path, monkeypatch, number, ended, code
):
    monkeypatch.chdir(tmp_path)
    write_video("film.avi", 9)
    interrupt(monkeypatch, number)
    found, _, _ = predict(*[f"file://{tmp_path}/film.avi"] * 2, "--output", "out")
    assert found == code
    assert len(list((tmp_path / "out").iterdir())) == ended


def test_a_signal_that_comes_twice_at_once_is_one():
    with stopping_for_sure():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    with stopping_for_sure(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_a_folder_with_nothing_in_it_goes_again_if_it_was_made(predict, tmp_path):
    write_images(tmp_path / "in", 1)
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "mine").mkdir()
    before = sorted(tmp_path.iterdir())
    assert predict("in", "--no-images")[0] == 0
    assert predict("bad.png", "--output", "new/deeper")[0] == 1
    assert predict("in", "--no-images", "--output", "mine")[0] == 0
    assert sorted(tmp_path.iterdir()) == before


def test_without_images_no_row_names_one(predict, tmp_path):
    write_images(tmp_path / "in", 1)
    predict("in", "--no-images", "--save-jsonl", "--save-csv", "--output", "out")
    assert json.loads((tmp_path / "out/detections.jsonl").read_text())["output"] is None
    rows = (tmp_path / "out/detections.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].endswith(",output")
    assert all(row.endswith(",") for row in rows[1:])


def test_without_a_terminal_a_line_tells_now_and_then_how_far_it_is(predict, tmp_path, monkeypatch):
    write_images(tmp_path / "in", 4)
    write_video("in/film.avi", 4)
    assert predict("in")[2] == ""
    monkeypatch.setattr(looking, "SECONDS_BETWEEN_LINES", 0)
    lines = predict("in")[2].splitlines()
    for of in ("images", "in/film.avi"):
        told = [line for line in lines if line.startswith(f"{of}: ")]
        assert [line.split()[1] for line in told] == ["25%", "50%", "75%", "100%"]
        for line in told:
            assert re.fullmatch(r"\S+: +\d+% \d+\.\d images/s, \d\d:\d\d left", line)


@pytest.mark.parametrize(("beginning", "fault"), [("writing", "written"), ("reading", "damaged")])
def test_compiled_programs_that_cannot_be_kept_are_one_line(
    tmp_path, monkeypatch, capsys, beginning, fault
):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    folder = tmp_path / ".cache/yolov7_jax/compiled"
    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        keep_compiled()
        for name in ("jit_a", "jit_b"):
            entry = f"persistent compilation cache entry for '{name}': OSError: no"
            warnings.warn(f"Error {beginning} {entry}", stacklevel=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {folder} ")
    assert fault in line
