"""Weights that see something, and the command that predicts with them."""

import jax
import pytest

from yolov7_jax import create, weights
from yolov7_jax.cli import main

NAMES = ("猫 <b>", "dog/..", "bird")
SIZE = 64


@pytest.fixture(scope="package")
def model_file(tmp_path_factory):
    """Random weights that see something in most images."""
    model = create("yolov7-tiny", len(NAMES), key=jax.random.key(3), width=0.125)
    for level in model.detect.levels:
        level.bias[...] = jax.random.normal(jax.random.key(1), level.bias.shape)
        level.kernel[...] = 8 * level.kernel[...]
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    weights.save_safetensors(model, path, names=NAMES, image_size=SIZE)
    return str(path)


@pytest.fixture
def predict(model_file, tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(["predict", "--weights", model_file, "--score-threshold", "0.1", *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run
