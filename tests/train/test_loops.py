"""The loops that people copy run as they stand, on eight simulated devices, and learn."""

import pathlib
import re

import jax
import numpy as np
import pytest
from pocket import POCKET, pocket_known

from yolov7_jax import create, weights

FOLDER = pathlib.Path(__file__).parents[2] / "train"


@pytest.fixture(scope="module", autouse=True)
def with_the_pocket_network():
    with pocket_known():
        yield


def losses(capsys):
    return [float(loss) for loss in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]


def run(name, **smaller):
    """Runs a loop with other settings, and with the pocket network, which compiles faster."""
    source = (FOLDER / name).read_text().replace('"yolov7-tiny"', repr(POCKET))
    names, values = re.search(r"^([A-Z_]+, [A-Z_, ]+) = (.*)$", source, re.MULTILINE).groups()
    settings = dict(zip(names.split(", "), values.split(", "), strict=True))
    assert smaller.keys() <= settings.keys()
    settings |= {name: str(value) for name, value in smaller.items()}
    source = source.replace(f"{names} = {values}", f"{names} = {', '.join(settings.values())}")
    ran = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), ran)
    return ran


def test_own_loop_learns_measures_and_saves(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ran = run("own_loop.py", STEPS=8, EPOCHS=3)
    assert ran["mesh"].size == jax.device_count() == 8
    found = losses(capsys)
    assert len(found) == 3
    assert found[-1] < found[0]
    assert 0 <= ran["ap50"] <= 1
    assert int(ran["state"].step) == 3 * 8
    assert int(ran["state"].skipped) == 0
    assert ran["train_step"]._cache_size() == ran["eval_step"]._cache_size() == 1
    assert weights.read_checkpoint("own.safetensors").names == ("red", "green")
    saved = weights.to_official(weights.load_model("own.safetensors"))
    fresh = weights.to_official(create(POCKET, 2, key=jax.random.key(0), width=ran["WIDTH"]))
    for key, value in weights.to_official(ran["model"]).items():
        np.testing.assert_array_equal(saved[key], value, err_msg=key)
    kernel = "model.0.conv.weight"
    assert (saved[kernel] != fresh[kernel]).any()


def test_linen_loop_learns_and_finds_objects(capsys):
    ran = run("linen_loop.py", STEPS=100)
    first, *_, last = losses(capsys)
    assert last < first / 10
    assert ran["found"].valid.shape[0] == ran["BATCH"]


def test_pmap_loop_learns_the_same_on_every_device(capsys):
    ran = run("pmap_loop.py", STEPS=20)
    assert ran["NUM_DEVICES"] == 8
    first, last = losses(capsys)
    assert last < first
    for leaf in jax.tree.leaves(ran["states"].params):
        assert (np.asarray(leaf) == np.asarray(leaf)[:1]).all()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*_loop.py")), ids=lambda path: path.name)
def test_loops_are_short(path):
    assert len(path.read_text().splitlines()) <= 60
