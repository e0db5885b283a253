"""What whole runs in tests share: a few small pictures, settings, and programs compiled once."""

import functools

import cv2
import jax
import numpy as np
import pytest

from train import setup
from train.config import TrainConfig
from train.data.augment_config import AugmentConfig
from train.mesh import make_mesh
from train.optim import OptimConfig
from train.step import make_eval_step, make_train_step

# Functions that are the same object are traced and compiled once, whichever run calls them.
shared_train_step = functools.cache(make_train_step)
shared_eval_step = functools.cache(make_eval_step)


@pytest.fixture(scope="module")
def quick_programs():
    """Makes programs for one device, compiled with less care, and once for all runs alike."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(setup, "make_mesh", lambda size: make_mesh(size, jax.devices()[:1]))
        monkeypatch.setattr(setup, "make_train_step", shared_train_step)
        monkeypatch.setattr(setup, "make_eval_step", shared_eval_step)
        yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def rectangles(tmp_path_factory):
    """The data.yaml of 24 + 3 pictures of two kinds of rectangles."""
    folder = tmp_path_factory.mktemp("rectangles")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 3)):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 80, (48, 64, 3), np.uint8)
            label = number % 2
            x, y = int(rng.integers(0, 30)), int(rng.integers(0, 20))
            image[y : y + 24, x : x + 30, label] = 255
            cv2.imwrite(str(folder / "images" / split / f"{number}.png"), image)
            row = f"{label} {(x + 15) / 64} {(y + 12) / 48} {30 / 64} {24 / 48}\n"
            (folder / "labels" / split / f"{number}.txt").write_text(row)
    path = folder / "data.yaml"
    path.write_text("train: images/train\nval: images/val\nnames: [red, green]\n")
    return path


@pytest.fixture(scope="session")
def small(rectangles):
    """Settings of three epochs of three steps."""
    return TrainConfig(
        data=str(rectangles),
        width=0.125,
        image_size=64,
        epochs=3,
        batch_size=8,
        eval_batch_size=8,
        num_workers=1,
        autoanchor=False,
        assigner="anchor",  # compiles faster
        # Two batches an update once the warm-up is over.
        optim=OptimConfig(nominal_batch=16, warmup_epochs=0.3, warmup_min_steps=0),
        augment=AugmentConfig(mosaic=0.5),
    )
