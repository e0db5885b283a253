"""report.html, read back as a browser would."""

import dataclasses
import pathlib
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from detected import detected, grey_split, objects

from yolov7_jax.evaluate.coco_ap import GroundTruth, ScoredBoxes, coco_ap
from yolov7_jax.evaluate.report.matched_split import match_split
from yolov7_jax.training.run_report import write_report
from yolov7_jax.training.train_config import TrainConfig

NASTY = """<b>&"'x<td>"""
BOX, FAR = (10, 10, 50, 50), (60, 60, 90, 90)


def text(part):
    return "".join(part.itertext())


def texts(part, tag):
    return [text(child) for child in part.iter(tag)]


def of_class(part, tag, name):
    return [child for child in part.iter(tag) if name in child.get("class", "").split()]


TRUTH = objects((0, 0, *BOX), (0, 1, *FAR), (1, 0, *BOX), (2, 1, *BOX))
FOUND = detected(
    (0, 0, 0.9, *BOX),
    (0, 1, 0.8, *FAR),
    (1, 1, 0.9, *BOX),
    (2, 1, 0.9, 12, 12, 50, 50),
    (2, 1, 0.85, 70, 70, 80, 80),
)
RECORDS = ({"epoch": 1, "step": 10, "ap": 0.5, "seconds": 3.0},)


def report(folder, names=("cat", "dog"), truth=TRUTH, found=FOUND, **options):
    return report_of(grey_split(folder, names, 3), truth, found, **options)


def report_of(dataset, truth=TRUTH, found=FOUND, records=RECORDS, config=None, title="A run"):
    path = pathlib.Path(dataset.paths[-1]).parent / "report.html"
    split = match_split(dataset, truth, found)
    config = config or TrainConfig()
    write_report(path, title=title, config=config, records=records, split=split)
    return ElementTree.parse(path).getroot()  # strict: what is open is closed, in order


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    records = [{"ap": 0.25, "loss": 2.0}, {"ap": 0.75, "loss": 4.0}, {"loss": 3.0}]
    return report(tmp_path_factory.mktemp("page"), ("cat", "dog", "none"), records=records)


def section(page, name):
    return page.find(f".//section[@id='{name}']")


def rows(part):
    """The tables of a part of the page, as lists of texts."""
    return [[text(cell) for cell in row] for row in part.iter("tr")]


def charts(page):
    """Title to figure."""
    return {text(part.find(".//b")): part for part in section(page, "epochs").iter("figure")}


def test_page_refers_to_nothing_outside_of_it_and_has_no_script(page):
    assert page.find(".//script") is None
    assert not any(word in text(page.find(".//style")) for word in ("url(", "@import"))
    found = [part.get(name) for part in page.iter() for name in ("href", "src") if part.get(name)]
    assert found
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in found)
    anchors = {part.get("id") for part in page.iter("section")}
    assert {address[1:] for address in found if address.startswith("#")} == anchors


def test_headlines_are_those_of_the_evaluation(page):
    cards = dict(zip(texts(page, "span"), texts(page, "b"), strict=False))
    accuracy = coco_ap(TRUTH, FOUND, num_images=3, num_classes=3)
    assert cards["AP"] == f"{accuracy.ap:.3f}"
    assert cards["AP50"] == f"{accuracy.ap50:.3f}"
    assert cards["best AP, epoch 2"] == "0.750"
    assert cards["epochs"] == "3"


def test_epochs_are_drawn_where_their_numbers_are(page):
    chart = charts(page)["loss"]
    assert texts(chart, "circle")[:2] == ["loss: 2 (epoch 1)", "loss: 4 (epoch 2)"]
    assert text(of_class(chart, "div", "legend")[0]) == "loss: 3"
    points = chart.find(".//polyline").get("points").split()
    x, y = np.array([point.split(",") for point in points], float).T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert y[0] - y[1] == pytest.approx(2 * (y[0] - y[2]), abs=0.2)  # upwards is less
    assert y[0] > y[2] > y[1]


@pytest.mark.parametrize("epochs", [0, 1, 300])
def test_any_number_of_epochs_is_drawn(tmp_path, epochs):
    records = [{"epoch": epoch + 1, "ap": 0.5, "train/total": 3.0} for epoch in range(epochs)]
    drawn = charts(report(tmp_path, records=records))
    assert set(drawn) == ({"all classes", "total"} if epochs else set())
    lines = [line for part in drawn.values() for line in part.iter("polyline")]
    assert [len(line.get("points").split()) for line in lines] == [300, 300] * (epochs > 1)


def test_names_are_shown_as_they_are_whatever_they_hold(tmp_path):
    folder = tmp_path / "<i>&"
    folder.mkdir()
    records = [{"epoch": 1, NASTY: 0.5, "class_ap": {NASTY: 0.5}}]
    config = dataclasses.replace(TrainConfig(), data=NASTY)
    page = report(folder, (NASTY, "dog"), records=records, config=config, title=NASTY)
    assert text(page.find(".//h1")) == text(page.find("head/title")) == NASTY
    assert NASTY in [row[0] for row in rows(section(page, "classes"))]
    assert NASTY in charts(page)
    assert ["data", NASTY] in rows(section(page, "settings"))
    heads = [part for part in section(page, "confusion").iter("th") if text(part) == NASTY]
    assert [part.get("title") for part in heads] == [NASTY, NASTY]
    assert any(NASTY in title for title in texts(section(page, "images"), "title"))


def test_file_names_that_are_no_unicode_can_be_written(tmp_path):
    dataset = grey_split(tmp_path, ("cat", "dog"), 3)
    dataset = dataclasses.replace(dataset, paths=("/none/\udcff.png", *dataset.paths[1:]))
    assert "udcff.png" in text(section(report_of(dataset, objects((0, 0, *BOX))), "images"))


def test_class_table_has_accuracy_the_best_class_first(page):
    table = rows(section(page, "classes"))
    accuracy = coco_ap(TRUTH, FOUND, num_images=3, num_classes=3)
    assert table[0] == ["class", "objects", "AP", "AP50", "precision", "recall", "F1"]
    # Of two cats one is found; both dogs are, and two more where there are none.
    cat, dog = (f"{accuracy.class_ap[label]:.3f}" for label in (0, 1))
    assert [row[:3] for row in table[1:3]] == [["cat", "2", cat], ["dog", "2", dog]]
    assert [row[4:6] for row in table[1:3]] == [["1.000", "0.500"], ["0.500", "1.000"]]
    assert table[3] == ["none", "0", "–", "–", "–", "–", "–"]  # noqa: RUF001 - a dash is meant


def test_faults_are_counted_by_kind(page):
    counts = {row[0]: row[1] for row in rows(section(page, "faults"))}
    assert (counts.pop("objects"), counts.pop("detections")) == ("count", "count")
    names = ("found", "missed", "correct", "duplicate", "wrong class", "badly placed", "false")
    assert counts == dict(zip(names, "3130101", strict=True))


def test_confusions_are_a_matrix_with_numbers(page):
    part = section(page, "confusion")
    assert rows(of_class(part, "table", "matrix")[0]) == [
        ["", "cat", "dog", "none", "background"],
        ["cat", "1", "1", "", ""],
        ["dog", "", "2", "", ""],
        ["none", "", "", "", ""],
        ["background", "", "1", "", ""],
    ]
    assert rows(part.findall(".//table")[1])[1:] == [["cat taken for dog", "1", "0.500"]]


@pytest.mark.parametrize(("classes", "shown"), [(1, 1), (80, 80), (130, 100)])
def test_matrix_has_a_row_for_every_class_up_to_a_hundred(tmp_path, classes, shown):
    truth = objects(*[(0, label, *BOX) for label in range(classes)])
    found = detected(*[(0, label, 0.9, *BOX) for label in range(classes - 1)])
    names = [f"class {label}" for label in range(classes)]
    page = report(tmp_path, names, truth, found)
    table = rows(of_class(page, "table", "matrix")[0])
    assert len(table) == len(table[0]) == shown + 2
    assert (f"of {classes}." in text(section(page, "confusion"))) == (classes > 100)
    assert len(rows(section(page, "classes"))) == classes + 1


@pytest.mark.parametrize("truth", [objects(), objects((0, 0, *BOX), crowd=[0]), TRUTH])
@pytest.mark.parametrize("found", [detected(), FOUND])
def test_nothing_to_find_and_nothing_found_is_no_fault(tmp_path, truth, found):
    page = report(tmp_path, truth=truth, found=found, records=[{"ap": None}])
    assert bool(texts(section(page, "curves"), "svg")) == (truth is TRUTH)
    if truth is not TRUTH:
        assert "no object to find" in text(section(page, "curves"))


def test_few_classes_have_a_curve_each_and_of_many_the_best_and_worst(tmp_path):
    for classes, lines in ((3, 4), (20, 7)):
        truth = objects(*[(0, label, *BOX) for label in range(classes)])
        names = [f"class {label}" for label in range(classes)]
        page = report(tmp_path, names, truth)
        assert len(texts(section(page, "curves").find(".//figure"), "polyline")) == lines


def images(page):
    """Names of the images, worst first."""
    return texts(section(page, "images"), "b")


def test_worst_images_come_first_and_none_is_shown_twice(page):
    # In 1 the only object is missed, in 2 a false detection stands beside, 0 is right.
    assert images(page) == ["1.png", "2.png", "0.png"]
    captions = texts(section(page, "images"), "figcaption")
    wanted = "0.00: 0 of 1 objects", "0.67: 1 of 1 objects", "1.00: 2 of 2 objects"
    for caption, numbers, wrong in zip(captions, wanted, (1, 1, 0), strict=True):
        assert f"F1 {numbers} found, {wrong} wrong" in caption


def test_objects_and_detections_are_drawn_in_place_by_kind(tmp_path):
    dataset = grey_split(tmp_path, ("cat", "dog"), 3, size=(960, 480))
    crowd = objects(*[(2, 1, 200, 200, 300, 300), (1, 0, *BOX), (0, 0, *BOX)], crowd=[0])
    found = detected((1, 1, 0.9, 10, 12, 50, 50), (0, 0, 0.8, *BOX), (2, 0, 0.9, *FAR))
    page = report_of(dataset, crowd, found)
    figures = {text(part.find(".//b")): part for part in section(page, "images").iter("figure")}

    def drawn(name):
        return [(rect.get("class").split()[1], text(rect)) for rect in figures[name].iter("rect")]

    assert drawn("0.png") == [("truth", "cat: object"), ("correct", "cat 0.80: correct, IoU 1.00")]
    assert drawn("1.png") == [
        ("missed", "cat: missed"),
        ("wrong_class", "dog 0.90: wrong class, IoU 0.95"),
    ]
    assert drawn("2.png") == [("crowd", "dog: crowd region"), ("false", "cat 0.90: false")]
    rect = figures["1.png"].findall(".//rect")[1].attrib
    assert [float(rect[name]) for name in ("x", "y", "width", "height")] == [10, 12, 40, 38]
    assert figures["1.png"].find("svg").get("viewBox") == "0 0 960 480"


def test_images_that_cannot_be_read_are_left_out_and_named(tmp_path):
    dataset = grey_split(tmp_path, ("cat", "dog"), 3)
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes(b"no image")
    page = report_of(dataset)
    assert images(page) == ["0.png"]
    assert "1.png: cannot be read" in text(section(page, "images"))
    assert "and 1 more" in text(section(page, "images"))


def test_settings_are_listed_and_what_is_not_the_default_is_bold(tmp_path):
    usual = TrainConfig()
    optim = dataclasses.replace(usual.optim, lr0=0.125)
    config = dataclasses.replace(usual, epochs=7, optim=optim)
    part = section(report(tmp_path, config=config), "settings")
    assert ["epochs", "7"] in rows(part)
    assert ["lr0", "0.125"] in rows(part)
    assert sorted(texts(part, "b")) == ["0.125", "7"]
    fields = {field.name for field in dataclasses.fields(config)}
    groups = {name for name in fields if dataclasses.is_dataclass(getattr(config, name))}
    assert fields - groups < {row[0] for row in rows(part)}


def test_a_large_run_stays_below_three_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    classes, num_images = 80, 20
    names = [f"class {label}" for label in range(classes)]
    dataset = grey_split(tmp_path, names, num_images)
    for path in dataset.paths:  # noise is the worst that a JPEG can meet
        cv2.imwrite(path, rng.integers(0, 256, (900, 900, 3), np.uint8))
    count = 3000
    low = rng.uniform(0, 700, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(20, 200, (count, 2))], 1)
    image, labels = rng.integers(0, num_images, count), rng.integers(0, classes, count)
    truth = GroundTruth(image[::4], boxes[::4], labels[::4])
    seen = rng.integers(0, classes, count)
    found = ScoredBoxes(image, boxes + 1, rng.random(count), np.where(seen % 2, seen, labels))
    numbers = [f"{split}/ota/{loss}" for split in ("train", "val") for loss in "abcdef"]
    records = [
        {"epoch": epoch} | {name: rng.random() for name in numbers} for epoch in range(1, 301)
    ]
    page = report_of(dataset, truth, found, records)
    assert len(images(page)) == 12
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
