"""The page about an evaluation, as a browser shows it."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from chromium import run_in_page
from detected import detected, grey_split, objects

from yolov7_jax.evaluate.report import image_browser
from yolov7_jax.evaluate.report.matched_split import match_split
from yolov7_jax.evaluate.report.metrics_text import Validation
from yolov7_jax.evaluate.report.val_files import write_report

HOSTILE = "</script><script>faults.push('run')</script><!-- \u2028 \"'&lt; {{x}}"
NAMES = (HOSTILE, "dog")
BOX, FAR, NEAR, HALF = (10, 10, 50, 50), (60, 60, 90, 90), (40, 10, 80, 50), (10, 10, 50, 32)
ROWS = (0, 0, *BOX), (1, 0, *BOX), (2, 1, *BOX), (4, 1, 0, 0, 100, 100)
TRUTH = objects(*ROWS, crowd=[3])
FOUND = detected(
    (0, 0, 0.9, *BOX),  # right
    (1, 1, 0.9, *BOX),  # the wrong class
    (2, 1, 0.9, *BOX),  # right, then a duplicate, badly placed, and false
    (2, 1, 0.6, *HALF),
    (2, 1, 0.5, 20, 10, 80, 50),
    (2, 1, 0.4, *FAR),
    (3, 0, 0.3, *FAR),  # false
    (4, 1, 0.8, *BOX),  # in a crowd region
)


def grey_images(folder, size=(100, 100)):
    return grey_split(folder, NAMES, 5, size)


def write(folder, dataset, truth=TRUTH, found=FOUND):
    settings = {"weights": "w.pt", "data": HOSTILE, "split": "val", "image_size": 64}
    settings |= {"square": False, "augment": False}
    split = match_split(dataset, truth, found)
    path = folder / "report.html"
    write_report(path, Validation(split, len(dataset), (), 0, settings))
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return write(folder, grey_images(folder))


SCENARIO = """
  const byId = (id) => document.getElementById(id);
  const settle = () => new Promise((done) => setTimeout(done, 50));
  const told = {};
  const thumbs = () => [...document.querySelectorAll(".thumb span")].map((e) => e.textContent);
  const change = async (id, value) => {
    byId(id).value = value;
    byId(id).dispatchEvent(new Event("input", { bubbles: true }));
    byId(id).dispatchEvent(new Event("change", { bubbles: true }));
    await settle();
  };
  const box = (kind) => document.querySelector(`[name=kind][value=${kind}]`);
  const only = async (...kinds) => {
    for (const one of document.querySelectorAll("[name=kind]")) {
      if (one.checked !== kinds.includes(one.value)) one.click();
    }
    await settle();
  };
  const all = ["missed", "false", "wrong_class", "badly_placed", "duplicate"];
  const key = (name) =>
    document.activeElement.dispatchEvent(
      new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true })
    );
  const rects = (root) =>
    [...root.querySelectorAll("rect")].map((rect) => [
      rect.getAttribute("class").split(" ")[1],
      rect.textContent,
      ...["x", "y", "width", "height"].map((side) => Number(rect.getAttribute(side))),
    ]);

  told.start = Number(byId("browser-score").value);
  await change("browser-score", 0.2);
  told.thumbs = thumbs();
  told.counts = Object.fromEntries(all.map((kind) => [kind, byId(`count-${kind}`).textContent]));
  told.status = byId("browser-count").textContent;
  told.drawn = rects(document.querySelector(".thumb"));
  told.options = [...byId("browser-class").options].map((option) => option.textContent);
  await change("browser-class", "0");
  told.hostile = thumbs();
  await change("browser-class", "1");
  told.dog = thumbs();
  await change("browser-class", "");
  await change("browser-score", 0.55);
  told.higher = thumbs();
  await change("browser-score", 0.95);
  told.highest = thumbs();
  await change("browser-score", 0.2);
  await only("false");
  told.false = thumbs();
  await only();
  told.none = [thumbs(), byId("browser-count").textContent];
  await only(...all);
  byId("browser-faultless").click();
  told.faultless = thumbs();
  byId("browser-faultless").click();

  const stage = byId("viewer-stage");
  const name = () => byId("viewer-name").textContent;
  document.querySelector(".thumb").click();
  told.open = [byId("viewer").open, name(), byId("viewer-place").textContent];
  told.boxes = rects(stage);
  told.image = stage.querySelector("image").getAttribute("href").slice(0, 23);
  told.entries = [...document.querySelectorAll(".entry")].map((entry) => entry.textContent);
  told.captions = [...stage.querySelectorAll("text")].map((text) => text.textContent);
  const duplicate = stage.querySelector(".duplicate");
  duplicate.dispatchEvent(new PointerEvent("pointerenter"));
  told.hint = byId("viewer-hint").textContent;
  told.active = [...document.querySelectorAll(".entry.active")].map((entry) => entry.textContent);
  duplicate.dispatchEvent(new PointerEvent("pointerleave"));
  told.left = byId("viewer-hint").textContent;
  document.querySelectorAll(".entry")[0].focus();
  told.focused = [byId("viewer-hint").textContent, stage.querySelectorAll(".active").length];
  told.ends = [byId("viewer-previous").disabled, byId("viewer-next").disabled];
  key("ArrowLeft");
  told.keys = [name()];
  for (const press of ["ArrowRight", "ArrowRight", "ArrowRight", "Home", "End", "ArrowLeft"]) {
    key(press);
    told.keys.push(name());
  }
  byId("viewer-next").click();
  told.last = [name(), byId("viewer-previous").disabled, byId("viewer-next").disabled];
  byId("viewer-close").click();
  await settle();
  told.closed = [byId("viewer").open, document.activeElement.querySelector("span").textContent];
  document.querySelector("#browser-filters [type=reset]").click();
  await settle();
  told.reset = Number(byId("browser-score").value);
  told.scripts = document.querySelectorAll("script").length;
  told.title = document.querySelector("h1").textContent;
  return told;
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node here")
def test_the_script_is_valid():
    script = pathlib.Path(image_browser.__file__).parent / "templates/browser.js"
    subprocess.run(["node", "--check", script], check=True)


@pytest.fixture(scope="module")
def told(page, tmp_path_factory):
    return run_in_page(page, SCENARIO, tmp_path_factory.mktemp("browser"))


def test_images_stand_by_their_number_of_faults(told):
    assert told["thumbs"] == ["2.png: 3 faults", "1.png: 2 faults", "3.png: 1 fault"]
    kinds = ("missed", "false", "wrong_class", "badly_placed", "duplicate")
    assert told["counts"] == dict(zip(kinds, "12111", strict=True))
    assert told["status"] == "3 images with 6 such faults, from a score of 0.200"
    assert {rect[0] for rect in told["drawn"]} == {"badly_placed", "duplicate", "false"}


def test_filters_by_class_leave_what_concerns_it(told):
    assert told["hostile"] == ["1.png: 2 faults", "3.png: 1 fault"]
    assert told["dog"] == ["2.png: 3 faults", "1.png: 1 fault"]  # a dog where none is


def test_a_higher_score_hides_detections_and_misses_objects(told):
    assert told["higher"] == ["1.png: 2 faults", "2.png: 1 fault"]
    assert sorted(told["highest"]) == ["0.png: 1 fault", "1.png: 1 fault", "2.png: 1 fault"]


def test_filters_by_kind_and_shows_images_without_faults_on_demand(told):
    assert told["false"] == ["2.png: 1 fault", "3.png: 1 fault"]
    assert told["none"] == [[], "0 images with 0 such faults, from a score of 0.200"]
    assert told["faultless"][3:] == ["0.png: no fault", "4.png: no fault"]


def test_a_click_opens_the_image_with_all_boxes_in_place(told):
    assert told["open"] == [True, "2.png", "1 of 3"]
    assert told["image"] == "data:image/jpeg;base64,"
    assert sorted(told["boxes"]) == [
        ["badly_placed", "dog 0.50: badly placed, IoU 0.43", 20, 10, 60, 40],
        ["correct", "dog 0.90: correct, IoU 1.00", 10, 10, 40, 40],
        ["duplicate", "dog 0.60: duplicate, IoU 0.55", 10, 10, 40, 22],
        ["false", "dog 0.40: false", 60, 60, 30, 30],
        ["truth", "dog: object", 10, 10, 40, 40],
    ]
    assert len(told["entries"]) == 5
    assert sorted(told["captions"]) == ["dog 0.40", "dog 0.50", "dog 0.60"]


def test_pointer_and_focus_tell_class_and_score(told):
    text = "dog 0.60: duplicate, IoU 0.55"
    assert told["hint"] == text
    assert told["active"] == [text]
    assert told["left"] != text
    assert told["focused"] == [told["entries"][0], 1]


def test_keys_and_buttons_go_from_image_to_image_and_focus_returns(told):
    names = [f"{number}.png" for number in (2, 1, 3, 3, 2, 3, 1)]
    assert told["keys"] == names
    assert told["ends"] == [True, False]
    assert told["last"] == ["3.png", False, True]
    assert told["closed"] == [False, "3.png: 1 fault"]
    assert told["reset"] == told["start"]


def test_hostile_names_are_text(told):
    assert told["options"] == ["all", HOSTILE, "dog"]
    assert told["scripts"] == 4  # data and browser, and the two of this test


def test_a_page_refers_to_nothing_outside_of_it(page):
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text
    for word in ("@import", "url(", " src="):
        assert word not in text


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)[1])


def test_crowd_regions_and_what_lies_in_them_are_no_faults(page):
    assert data_of(page)["names"] == list(NAMES)
    (image,) = [one for one in data_of(page)["images"] if one["name"] == "4.png"]
    assert image["objects"] == [[1, -1.0, 1, 0.0, 0.0, 100.0, 100.0]]
    assert image["detections"] == []


def test_only_the_images_with_most_faults_are_in_a_page_which_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(image_browser, "MOST_IMAGES", 2)
    path = write(tmp_path, grey_images(tmp_path))
    names = [image["name"] for image in data_of(path)["images"]]
    assert names == ["1.png", "0.png"]  # from the best score on, 1 alone has faults
    assert "The 2 images with the most faults, of 5" in path.read_text()


def test_noise_stays_within_the_bound_of_an_image(tmp_path):
    dataset = grey_images(tmp_path, size=(900, 700))
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    for path in dataset.paths:
        cv2.imwrite(path, noise)
    sides = {(one["width"], one["height"]) for one in data_of(write(tmp_path, dataset))["images"]}
    assert sides == {(900, 700)}
    assert (tmp_path / "report.html").stat().st_size < 5 * 130_000 * 4 / 3


def test_images_that_cannot_be_read_are_left_out_and_named(tmp_path):
    dataset = grey_images(tmp_path)
    (tmp_path / "2.png").unlink()
    path = write(tmp_path, dataset)
    assert len(data_of(path)["images"]) == 4
    assert "Left out: " in path.read_text()
    assert "2.png: cannot be read" in path.read_text()


@pytest.mark.parametrize("truth", [objects(), TRUTH])
@pytest.mark.parametrize("found", [detected(), FOUND])
def test_nothing_to_find_and_nothing_found_is_no_fault(tmp_path, truth, found):
    assert len(data_of(write(tmp_path, grey_images(tmp_path), truth, found))["images"]) == 5


def test_file_names_that_are_no_unicode_can_be_written(tmp_path):
    dataset = grey_images(tmp_path)
    dataset = dataclasses.replace(dataset, paths=("/none/\udcff.png", *dataset.paths[1:]))
    assert "udcff.png" in write(tmp_path, dataset).read_text(encoding="utf-8")
