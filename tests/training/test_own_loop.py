"""The loop that docs/your-own-loop.md shows, as it stands there, on a few small images."""

import functools
import pathlib
import re
import sys
import types

import jax
import numpy as np
import pytest

import yolov7_jax
from yolov7_jax import weights

DOC = pathlib.Path(__file__).parents[2] / "docs" / "your-own-loop.md"
LOOP, MAPPED = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
SETTINGS = re.search(r"^SIZE, .*$", LOOP, re.MULTILINE).group()
BATCH, EPOCHS = 4, 2
SMALLER = f"{SETTINGS.partition('=')[0]}= 64, {BATCH}, {2 * BATCH}, {EPOCHS}, 8"


def batches(split):
    """Two batches to train on, one to evaluate: bright rectangles, one in each image."""
    rng = np.random.default_rng(len(split))
    for _ in range(2 if split == "train" else 1):
        images = rng.integers(0, 80, (BATCH, 64, 64, 3), np.uint8)
        rows = []
        for image in range(BATCH):
            x, y = rng.integers(0, 30, 2)
            images[image, y : y + 32, x : x + 24, image % 2] = 255
            rows.append((image, image % 2, (x + 12) / 64, (y + 16) / 64, 24 / 64, 32 / 64))
        yield images, np.asarray(rows)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, quick_programs):
    """What the loop leaves: its names, its folder."""
    folder = tmp_path_factory.mktemp("own")
    names: dict = {}
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        data = types.ModuleType("my_data")
        data.batches = batches
        monkeypatch.setitem(sys.modules, "my_data", data)
        monkeypatch.setattr(yolov7_jax, "create", functools.partial(yolov7_jax.create, width=0.125))
        monkeypatch.chdir(folder)
        names["print"] = lines.append
        exec(LOOP.replace(SETTINGS, SMALLER), names)
    return names, folder, lines


def test_the_loop_learns_measures_and_saves(ran):
    names, folder, lines = ran
    state = names["state"]
    assert int(state.step) == names["done"] == EPOCHS * 2
    assert int(state.skipped) == 0
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2"]
    for line in lines:
        loss, ap = re.search(r"loss ([\d.]+), AP ([\d.]+), skipped 0$", line).groups()
        assert 0 < float(loss) < 10
        assert 0 <= float(ap) <= 1
    saved = weights.load_model(folder / "mine.safetensors")
    assert weights.read_checkpoint(folder / "mine.safetensors").names == ("red", "green")
    wanted = weights.to_official(names["detector"])
    for key, value in weights.to_official(saved).items():
        np.testing.assert_array_equal(value, wanted[key], err_msg=key)
    fresh = yolov7_jax.create("yolov7-tiny", 2, width=0.125, key=jax.random.key(0))
    kernel = "model.0.conv.weight"
    assert (weights.to_official(fresh)[kernel] != wanted[kernel]).any()


def test_nothing_is_compiled_twice(ran):
    names = ran[0]
    assert names["train_step"]._cache_size() == names["eval_step"]._cache_size() == 1


def test_the_loop_is_short():
    lines = [line for line in LOOP.splitlines() if line and "import" not in line]
    assert len(lines) <= 40


def test_the_step_maps_over_devices_as_shown(ran):
    names = dict(ran[0])
    exec(MAPPED, names)
    rates = names["schedule"].rates(0)
    _, metrics = jax.eval_shape(names["mapped"], names["state"], names["parts"], rates)
    assert metrics.total.shape == (2,)
