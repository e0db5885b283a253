"""Official tensors into models and out again: all of them, or one error that names the rest."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from golden_model import golden_weights

from yolov7_jax import create, create_abstract, deploy, split
from yolov7_jax.deploy import fold_head
from yolov7_jax.weights import class_keys, head_keys, load_official, to_official


@functools.cache
def made(name, num_classes, key):
    return create(name, num_classes, width=0.125, key=jax.random.key(key))


def small(name="yolov7-tiny", num_classes=3, key=0):
    return nnx.clone(made(name, num_classes, key))


KEPT = ["model.77.m.0.weight"]


def test_everything_that_does_not_fit_is_in_one_error():
    given = golden_weights("yolov7-tiny")
    del given["model.0.conv.weight"], given["model.77.ia.1.implicit"]
    given["model.99.conv.weight"] = np.zeros((1, 1, 1, 1))
    given["model.1.bn.bias"] = np.zeros(63)
    model = create("yolov7-tiny", 3)
    before = to_official(model)
    with pytest.raises(ValueError, match="4 faults") as error:
        load_official(model, given)
    for expected in (
        "model.0.conv.weight is missing",
        "model.77.ia.1.implicit is missing",
        "model.99.conv.weight is unknown",
        "model.1.bn.bias has shape (63,), wanted (64,)",
    ):
        assert expected in str(error.value)
    after = to_official(model)
    assert all(np.array_equal(after[key], value) for key, value in before.items())


def test_contradicting_anchors_are_refused():
    given = golden_weights("yolov7-tiny")
    given["model.77.anchors"] = np.ones((3, 3, 2))
    given["model.77.anchor_grid"] = np.ones((3, 1, 3, 1, 1, 2))
    with pytest.raises(ValueError, match="anchor_grid"):
        load_official(create("yolov7-tiny", 3), given)


def test_other_classes_are_refused_with_the_way_out():
    given = to_official(small("yolov7-tiny", 5))
    with pytest.raises(ValueError, match=r"model\.77\.m\.0\.weight has shape.*class_keys"):
        load_official(small(), given)


@pytest.mark.parametrize("name", ["yolov7-tiny", "yolov7-w6"])
def test_only_what_is_asked_for_starts_afresh(name):
    given = to_official(small(name, 5))
    model = small(name, 3)
    fresh, keys = to_official(model), class_keys(model)
    loaded = to_official(load_official(model, given, reinit=keys))
    for key, value in loaded.items():
        np.testing.assert_array_equal(value, (fresh if key in keys else given)[key], err_msg=key)
    detect = {"yolov7-tiny": "model.77", "yolov7-w6": "model.122"}[name]
    assert all(key.startswith(f"{detect}.") for key in keys)
    kinds = {key.split(".")[2] for key in keys}
    assert kinds == ({"m", "im"} if name == "yolov7-tiny" else {"m", "m2", "im"})


@pytest.mark.parametrize(
    ("model", "reinit", "message"),
    [
        (small, ["model.99.weight"], r"yolov7-tiny has no model\.99\.weight"),
        (small, "model.77.m.0.weight", "collection of keys"),
        (lambda: create_abstract("yolov7-tiny", 3, width=0.125), KEPT, "abstract"),
    ],
)
def test_keys_that_cannot_keep_their_values_are_refused(model, reinit, message):
    with pytest.raises(ValueError, match=message):
        load_official(model(), to_official(small()), reinit=reinit)


@pytest.mark.parametrize("name", ["yolov7", "yolov7-e6e"])
def test_a_deployed_model_has_official_names_too(name):
    model = deploy(small(name, 3))
    tensors = to_official(model)
    assert not any(".bn." in key or ".ia." in key or ".m2." in key for key in tensors)
    if name == "yolov7":
        assert tensors["model.104.rbr_reparam.weight"].shape == (128, 64, 3, 3)
    else:  # the four layers before the auxiliary heads are gone
        assert tensors["model.261.m.3.bias"].shape == (24,)
    again = load_official(deploy(small(name, 3)), tensors)
    for key, value in to_official(again).items():
        np.testing.assert_array_equal(value, tensors[key], err_msg=key)


def test_every_float_type_is_taken_and_parameters_stay_float32():
    model = small()
    halves = {key: value.astype(np.float16) for key, value in to_official(model).items()}
    loaded = load_official(model, halves)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(split(loaded)[1]))
    assert all(tensor.flags.writeable for tensor in to_official(loaded).values())
    np.testing.assert_array_equal(
        to_official(loaded)["model.0.conv.weight"], halves["model.0.conv.weight"]
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.77.ia.2.implicit", np.full((1, 64, 1, 1), "x"), "floating-point"),
        ("model.77.ia.2.implicit", np.zeros((1, 64, 1, 1), complex), "floating-point"),
        ("model.77.ia.2.implicit", np.zeros((1, 64, 1, 1), np.uint8), "floating-point"),
        ("model.77.m.0.bias", np.full(24, 1e300), "float32 cannot hold"),
        ("model.76.bn.num_batches_tracked", np.array(np.nan), "wanted a count"),
        ("model.76.bn.num_batches_tracked", np.array(-5), "wanted a count"),
        ("model.76.bn.num_batches_tracked", np.array(2**63, np.uint64), "wanted a count"),
    ],
)
def test_a_model_is_changed_only_if_every_value_can_be_taken(key, value, message):
    model = small()
    before = to_official(model)
    other = to_official(small("yolov7-tiny", 3, key=1))
    with pytest.raises(ValueError, match=f"{key}.*{message}"):
        load_official(model, other | {key: value})
    for name, tensor in to_official(model).items():
        np.testing.assert_array_equal(tensor, before[name])


def test_the_whole_head_can_start_afresh():
    released = to_official(fold_head(small("yolov7", 5)))
    model = small("yolov7", 3, key=1)
    before = to_official(model)
    after = to_official(load_official(model, released, reinit=head_keys(model)))
    assert {key.split(".")[2] for key in head_keys(model)} == {"m", "ia", "im"}
    for key, value in after.items():
        if not key.endswith((".anchors", ".anchor_grid")):
            wanted = before if key in head_keys(model) else released
            np.testing.assert_array_equal(value, wanted[key], err_msg=key)
