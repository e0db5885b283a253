"""What `yolov7_jax.training` offers to other loops."""

import subprocess
import sys

import pytest

from yolov7_jax import training
from yolov7_jax.training import make_train_step, step


def test_every_public_name_is_there_and_what_its_module_has():
    assert make_train_step is step.make_train_step
    for name in training.__all__:
        assert getattr(training, name).__name__ == name
        assert name in dir(training)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'yolov7_jax\.training' has no attribute 'stepp'"):
        _ = training.stepp


def test_settings_are_imported_without_the_step():
    program = "from yolov7_jax.training import Rates; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "yolov7_jax.training.schedule" in done.stdout, done.stderr
    assert "yolov7_jax.training.step" not in done.stdout
