"""The deployed model computes what the model computes in evaluation."""

import jax
import numpy as np
import pytest
from flax import nnx
from golden_model import COMPILED, largest_error, varied

from yolov7_jax import create, create_abstract, deploy, split
from yolov7_jax.nn.norm import BatchNorm


def outputs(model, *, train=False):
    side = max(model.head.strides) * 2
    images = np.random.default_rng(1).random((1, side, side, 3), np.float32)
    return COMPILED(*split(model), images, train=train)[0]


@pytest.mark.parametrize("name", ["yolov7-tiny", "yolov7", "yolov7-w6"])
def test_outputs_are_unchanged_and_nothing_of_training_is_left(name):
    model = varied(create(name, 3, width=0.1))
    deployed = deploy(model)
    for got, wanted in zip(outputs(deployed).lead, outputs(model).lead, strict=True):
        assert largest_error(got, np.asarray(wanted)) < 1e-4
    paths = [path for path, _ in nnx.iter_graph(deployed) if isinstance(_, BatchNorm)]
    assert paths == []
    assert jax.tree.leaves(split(deployed)[2]) == []
    names = {str(path[-1]) for path, _ in nnx.to_flat_state(split(deployed)[1])}
    assert names == {"kernel", "bias"}


def test_a_rep_conv_of_equal_widths_folds_its_third_branch():
    model = varied(create("yolov7", 3, width=0.01))  # all widths are 8
    assert model.neck.out3.norm0 is not None
    for got, wanted in zip(outputs(deploy(model)).lead, outputs(model).lead, strict=True):
        assert largest_error(got, np.asarray(wanted)) < 1e-4


def test_telling_a_deployed_model_to_train_changes_nothing():
    deployed = deploy(varied(create("yolov7-w6", 3, width=0.1)))
    training = outputs(deployed, train=True)
    assert training.auxiliary == ()
    for got, wanted in zip(training.lead, outputs(deployed).lead, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_model_itself_is_not_changed_and_a_second_time_changes_nothing():
    model = create("yolov7-tiny", 3, width=0.125)
    before = jax.tree.map(np.asarray, split(model)[1:])
    deployed = deploy(model)
    after = split(model)[1:]
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert all(map(np.array_equal, jax.tree.leaves(after), jax.tree.leaves(before)))
    again = deploy(deployed)
    assert split(again)[0] == split(deployed)[0]
    pairs = zip(*(jax.tree.leaves(split(one)[1]) for one in (again, deployed)), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)


def test_an_abstract_model_deploys_to_the_same_shapes():
    real = split(deploy(create("yolov7-e6", 3, width=0.1)))
    abstract = split(deploy(create_abstract("yolov7-e6", 3, width=0.1)))
    assert abstract[0] == real[0]
    shapes = [[leaf.shape for leaf in jax.tree.leaves(one[1])] for one in (abstract, real)]
    assert shapes[0] == shapes[1]
