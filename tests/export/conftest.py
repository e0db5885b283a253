"""A small model whose outputs depend on the image, and programs that are compiled quickly."""

import pytest
from export.small import NAMES
from golden_model import varied

from yolov7_jax import create
from yolov7_jax.weights import save_safetensors


@pytest.fixture(scope="package")
def model():
    model = varied(create("yolov7-tiny", 3, width=0.125))
    for level in model.detect.levels:
        # A fresh head expects next to nothing, and NMS would have nothing to do.
        by_anchor = level.bias[...].reshape(model.head.num_anchors, -1)
        level.bias[...] = by_anchor.at[:, 4].set(0).reshape(-1)
    model.eval()
    return model


@pytest.fixture(scope="package")
def weights_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_safetensors(model, path, names=NAMES)
    return path
