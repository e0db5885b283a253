"""Progress lines and the contact sheet."""

import cv2
import numpy as np
import pytest

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.detect.drawing import COLOURS
from yolov7_jax.evaluate.coco_ap import ScoredBoxes
from yolov7_jax.training.progress import TILE, Progress, draw_contact_sheet, epoch_line
from yolov7_jax.training.step import Metrics
from yolov7_jax.training.train_config import TrainConfig

RECORD = {
    "epoch": 3,
    "ap": 0.25,
    "ap50": 0.5,
    "train/ota/box": 0.1,
    "train/ota/obj": 0.2,
    "train/ota/cls": None,
    "val/ota/box": 0.4,
    "images_per_second": 12.34,
    "data_wait": 0.125,
    "seconds": 56.0,
}
CONFIG = TrainConfig(epochs=20, assigner="ota")
METRICS = Metrics(np.float32(0.125), np.float32(0.25), np.float32(0.5), *np.zeros(4, np.float32))


@pytest.fixture
def dataset(tmp_path):
    """Three black images of different shapes, with an object in each."""
    sizes = np.array([(160, 120), (100, 200), (320, 320)], np.int32)
    paths = []
    for number, (width, height) in enumerate(sizes):
        paths.append(str(tmp_path / f"{number}.png"))
        cv2.imwrite(paths[-1], np.zeros((height, width, 3), np.uint8))
    return Dataset(
        names=("cat", "dog"),
        paths=tuple(paths),
        sizes=sizes,
        offsets=np.arange(4),
        labels=np.zeros(3, np.int32),
        boxes=np.full((3, 4), 0.5, np.float32),
    )


def detections(*rows: tuple) -> ScoredBoxes:
    """Rows are image, x0, y0, x1, y1, score, label."""
    table = np.array(rows, np.float64).reshape(-1, 7)
    return ScoredBoxes(table[:, 0].astype(int), table[:, 1:5], table[:, 5], table[:, 6].astype(int))


def drawn(dataset, tmp_path, found: ScoredBoxes) -> np.ndarray:
    draw_contact_sheet(dataset, found, tmp_path / "sheet.png")
    return cv2.imread(str(tmp_path / "sheet.png"), cv2.IMREAD_COLOR_RGB)


def has_colour(image: np.ndarray, label: int) -> bool:
    return bool((image == COLOURS[label]).all(-1).any())


def test_truth_is_drawn_left_and_detections_right(dataset, tmp_path):
    sheet = drawn(dataset, tmp_path, detections((0, 10, 10, 60, 60, 0.9, 1)))
    half = sheet.shape[1] // 4
    left, right = sheet[: TILE // 2, :half], sheet[: TILE // 2, half : 2 * half]
    assert has_colour(left, 0)
    assert not has_colour(left, 1)
    assert has_colour(right, 1)
    assert not has_colour(right, 0)


def test_weak_and_overlapping_detections_are_not_drawn(dataset, tmp_path):
    strong = (0, 10, 10, 60, 60, 0.9, 1)
    alone = drawn(dataset, tmp_path, detections(strong))
    weak, overlapping = (0, 80, 80, 99, 99, 0.24, 0), (0, 12, 12, 62, 62, 0.5, 1)
    np.testing.assert_array_equal(
        drawn(dataset, tmp_path, detections(weak, overlapping, strong)), alone
    )
    other_class = (0, 12, 12, 62, 62, 0.5, 0)
    assert (drawn(dataset, tmp_path, detections(strong, other_class)) != alone).any()


def test_sheet_without_detections_can_be_drawn(dataset, tmp_path):
    sheet = drawn(dataset, tmp_path, detections())
    assert sheet.shape[0] >= 2 * TILE * 120 // 160  # two rows for three images


def test_without_a_terminal_progress_is_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr("yolov7_jax.training.progress.SECONDS_BETWEEN_LINES", 0.0)
    with Progress(total_images=80, silent=False) as progress:
        progress.start(40)
        progress.update(8, "6/10", METRICS)
        assert capsys.readouterr().err == ""  # it took the time of the compilation, too
        progress.update(8, "6/10", METRICS)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "epoch 6/10" in printed.err
    assert "70%" in printed.err
    assert "images/s" in printed.err
    assert "left" in printed.err
    assert "box 0.1250" in printed.err
    assert "\r" not in printed.err


def test_of_several_processes_one_speaks_for_all(capsys, monkeypatch):
    monkeypatch.setattr("yolov7_jax.training.progress.SECONDS_BETWEEN_LINES", 0.0)
    with Progress(total_images=80, silent=True) as progress:
        progress.update(8, "6/10", METRICS)
        progress.line("text")
        assert progress.seen == 8
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_progress_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(total_images=80, silent=False) as progress:
        progress.start(40)
        progress.update(40, "10/10", METRICS)
        progress.line("a line that stays")
    printed = capsys.readouterr().err
    assert "\r" in printed
    assert "100%" in printed
    assert "a line that stays\n" in printed


def test_epoch_line_has_accuracy_losses_and_speed():
    line = epoch_line(RECORD, CONFIG)
    for part in ("epoch  3/20", "AP 0.250", "AP50 0.500", "box 0.1000", "12.3 images/s", "56 s"):
        assert part in line
    assert "waited 12%" in line


def test_an_epoch_that_was_not_evaluated_has_no_accuracy_and_one_without_loss_a_dash():
    record = {name: value for name, value in RECORD.items() if not name.startswith("ap")}
    line = epoch_line(record, CONFIG)
    assert "AP" not in line
    assert "cls -" in line


def test_undefined_accuracy_is_a_dash():
    assert "AP50 -" in epoch_line(RECORD | {"ap50": None}, CONFIG)
