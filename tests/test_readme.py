"""What the README says is so."""

import contextlib
import functools
import io
import pathlib
import re
import shlex

import cv2
import jax
import numpy as np
import pytest

from yolov7_jax import create, weights
from yolov7_jax.cli import main
from yolov7_jax.deploy import fold_head

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/results.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "train" / "pods").iterdir()),
    *sorted((ROOT / "yolov7_jax/training/recipes").glob("*.yaml")),
]
VERBS = [
    "train",
    "resume",
    "check",
    "anchors",
    "preview",
    "predict",
    "val",
    "export",
    "convert",
    "info",
]
# A command may go on in lines that follow a backslash, but not beyond its quotes.
ANY_COMMAND = re.compile(r"yolov7-jax (\w+)((?:[^`\n\\]|\\\n)*)")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w")
OTHERS = {"--times", "--help"}  # of benchmarks, of all
OWNER = "github(?:usercontent)?.com/yolov7-jax/yolov7_jax/(?:blob/|tree/)?main/"

BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^yolov7-jax (.*?)(?:  +#.*)?$", README, re.MULTILINE)
DETECTOR, LOSS, MODEL, WEIGHTS = BLOCKS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the README speaks of: an image and weights, here random, and a data set."""
    monkeypatch.chdir(tmp_path)
    # Stands for the official file, in another format: the content decides, not the name.
    official = create("yolov7", key=jax.random.key(1), width=0.125)
    weights.save_safetensors(fold_head(official), "yolov7.pt", names=[f"c{i}" for i in range(80)])
    weights.save_safetensors(official, "yolov7_training.pt")
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    assert cv2.imwrite("street.jpg", image)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number in range(2):
        assert cv2.imwrite(f"images/{number}.jpg", image)
        (tmp_path / f"labels/{number}.txt").write_text(f"{number} 0.5 0.5 0.4 0.4\n")
    names = "".join(f"  {i}: c{i}\n" for i in range(80))
    (tmp_path / "DATA.yaml").write_text(f"train: images\nval: images\nnames:\n{names}")
    return tmp_path


def test_the_loops_of_the_readme_run_and_its_detector_finds_most_objects(capsys):
    names = {}
    for block in (LOSS, MODEL):
        exec(block, names)
    loss, found = re.search(
        r"loss ([\d.]+); found (\d+) objects in 8", capsys.readouterr().out
    ).groups()
    assert float(loss) < 1
    assert int(found) >= 5
    assert names["outputs"].lead[0].shape == (1, 8, 8, 3, 25)


def test_the_weights_of_the_readme_load_and_save(folder, monkeypatch):
    # The README's model has its full width, this one an eighth of it.
    narrow = functools.partial(create, width=0.125)
    monkeypatch.setattr("yolov7_jax.create", narrow)
    names = {}
    exec(WEIGHTS, names)
    assert weights.load_model("yolov7-deployed.safetensors").form == "deployed"
    given = weights.read_checkpoint("yolov7_training.pt").tensors
    mine = weights.to_official(names["mine"])
    np.testing.assert_array_equal(mine["model.0.conv.weight"], given["model.0.conv.weight"])
    assert mine["model.105.m.0.bias"].shape == (21,)


def test_the_detector_of_the_readme_detects(folder):
    names = {"np": np}
    exec(DETECTOR, names)
    assert names["found"].valid.shape == (2, 300)
    assert names["boxes_xyxy"].shape[1] == 4


def test_there_is_a_command_for_each_thing_that_people_do():
    assert {command.split()[0] for command in COMMANDS} == {
        *("predict", "val", "export", "info", "convert"),
    }


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "info"])
def test_the_commands_of_the_readme_run(command, folder, capsys):
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out


@functools.cache
def flags_of(verb):
    """The flags that a command's help names."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patched:
        patched.setenv("COLUMNS", "200")
        with contextlib.suppress(SystemExit):
            main([verb, "--help"])
    return set(FLAG.findall(out.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_readme_documents_and_scripts_exist_with_their_flags(page):
    for verb, rest in ANY_COMMAND.findall(page.read_text()):
        assert verb in VERBS, f"yolov7-jax {verb}"
        assert set(FLAG.findall(rest)) - OTHERS <= flags_of(verb), f"yolov7-jax {verb}{rest}"


def test_every_flag_of_the_readme_exists():
    known = set().union(*map(flags_of, VERBS))
    assert set(FLAG.findall(README)) - OTHERS <= known


def test_every_file_that_the_readme_names_is_there():
    addresses = re.findall(rf"\(https://(?:raw\.)?{OWNER}([\w./-]*)\)", README)
    for path in addresses + re.findall(r"\b(?:docs|train|benchmarks)/[\w.-]+\.\w+", README):
        assert (ROOT / path).exists(), path


def test_links_of_the_readme_are_absolute_because_package_indexes_show_it_too():
    links = re.findall(r"\]\(([^)]*)\)", README)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_documents_link_to_are_there(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        if page.suffix == ".md":
            assert (page.parent / link).exists(), link
