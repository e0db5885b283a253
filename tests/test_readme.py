"""What the README says is so."""

import pathlib
import re

import cv2
import jax
import numpy as np

from yolov7_jax import apply, create, decode, nms, split, weights
from yolov7_jax.deploy import fold_head

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_loops_of_the_readme_run_and_its_detector_finds_most_objects(capsys):
    names = {}
    for block in BLOCKS[:2]:
        exec(block, names)
    loss, found = re.search(
        r"loss ([\d.]+); found (\d+) objects in 8", capsys.readouterr().out
    ).groups()
    assert float(loss) < 1
    assert int(found) >= 5
    assert names["outputs"].lead[0].shape == (1, 8, 8, 3, 25)


def test_the_weights_of_the_readme_load_and_save(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Stands for the official file, in another format: the content decides, not the name.
    official = create("yolov7", key=jax.random.key(1))
    weights.save_safetensors(fold_head(official), "yolov7.pt")
    weights.save_safetensors(official, "yolov7_training.pt")
    assert cv2.imwrite("street.jpg", np.full((480, 640, 3), 114, np.uint8))
    earlier = {"apply": apply, "split": split, "decode": decode, "nms": nms}
    names = {"jax": jax, "np": np, **earlier}
    exec(BLOCKS[2], names)
    assert len(BLOCKS) == 3
    assert names["boxes_xyxy"].shape[1] == 4
    assert weights.load_model("yolov7-deployed.safetensors").form == "deployed"
    mine, given = weights.to_official(names["mine"]), weights.to_official(official)
    np.testing.assert_array_equal(mine["model.0.conv.weight"], given["model.0.conv.weight"])
    assert mine["model.105.m.0.bias"].shape == (21,)


def test_every_file_that_the_readme_names_is_there():
    for path in re.findall(r"\((docs/[\w./-]+)\)", README) + re.findall(
        r"\bdocs/[\w.-]+\.md", README
    ):
        assert (ROOT / path).is_file(), path
