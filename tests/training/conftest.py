"""What whole runs in tests share: a few small images, settings, and programs compiled once."""

import functools
import os

import jax
import pytest
from pocket import POCKET, pocket_known
from training_processes import EPOCH, Workshop

from benchmarks.rectangles import write_rectangles
from yolov7_jax.training import prepare as setup
from yolov7_jax.training.augment_config import AugmentConfig
from yolov7_jax.training.mesh import make_mesh
from yolov7_jax.training.schedule import OptimConfig
from yolov7_jax.training.step import make_eval_step, make_train_step
from yolov7_jax.training.train_config import TrainConfig

# Functions that are the same object are traced and compiled once, whichever run calls them.
shared_train_step = functools.cache(make_train_step)
shared_eval_step = functools.cache(make_eval_step)


@pytest.fixture(scope="module")
def quick_programs():
    """Makes programs for one device, compiled with less care, and once for all runs alike.

    Such runs may have the pocket network.
    """
    with pocket_known(), pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(setup, "make_mesh", lambda size: make_mesh(size, jax.devices()[:1]))
        monkeypatch.setattr(setup, "make_train_step", shared_train_step)
        monkeypatch.setattr(setup, "make_eval_step", shared_eval_step)
        yield


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """The folder in which all processes of a test session keep what they have compiled."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "programs"


@pytest.fixture(scope="session")
def rectangles(tmp_path_factory):
    """The data.yaml of 24 + 3 images of two kinds of rectangles."""
    return write_rectangles(tmp_path_factory.mktemp("rectangles"), train=24, val=9)


@pytest.fixture(scope="session")
def small(rectangles):
    """Settings of three epochs of three steps; they want `quick_programs`."""
    return TrainConfig(
        data=str(rectangles),
        model=POCKET,
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


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, programs):
    """Starts runs in processes of their own."""
    folder = tmp_path_factory.mktemp("workshop")
    data = write_rectangles(folder / "data", train=8 * EPOCH, val=6)
    return Workshop(folder, data, programs)


@pytest.fixture(scope="module")
def alone(workshop, tmp_path_factory):
    """A whole run in one process on one device."""
    run = tmp_path_factory.mktemp("alone") / "run"
    ended = workshop.fit(run, (1,))
    assert ended.codes == [0], ended.errors
    return run, ended
