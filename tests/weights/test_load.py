"""Weights of any format into models, and models into files."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_model import COMPILED, largest_error, varied

from yolov7_jax import create, create_abstract, decode, deploy, split
from yolov7_jax.deploy import fold_head
from yolov7_jax.model import ARCHITECTURES
from yolov7_jax.nn.blocks import leaky_relu
from yolov7_jax.weights import (
    CheckpointError,
    class_keys,
    load,
    load_model,
    read_checkpoint,
    save_safetensors,
    to_official,
)
from yolov7_jax.weights.checkpoint_contents import Checkpoint
from yolov7_jax.weights.identify import identify
from yolov7_jax.weights.official_keys import entries
from yolov7_jax.weights.safetensors_file import write_safetensors

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "checkpoint"


@functools.cache
def made(name, num_classes, width, activation):
    return create(name, num_classes, width=width, activation=activation)


def small(name="yolov7-tiny", num_classes=3, *, width=0.125, activation=None):
    return nnx.clone(made(name, num_classes, width, activation))


def assert_same_weights(model, other):
    tensors = to_official(other)
    for key, value in to_official(model).items():
        np.testing.assert_array_equal(value, tensors[key], err_msg=key)


@pytest.mark.parametrize("name", ["yolov7-tiny-narrow", "yolov7-narrow-release"])
def test_an_official_checkpoint_gives_the_measured_boxes(name):
    model = load_model(GOLDEN / f"{name}.pt")
    images = np.random.RandomState(8).rand(1, 3, 64, 64).astype(np.float32).transpose(0, 2, 3, 1)
    wanted = np.load(GOLDEN / f"{name}.expected.npz")["decoded"]
    for form in (model, deploy(model)):
        predictions = decode(COMPILED(*split(form), images, train=False)[0].lead, model.head)
        centre, size = wanted[..., 0:2], wanted[..., 2:4]
        boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=-1)
        np.testing.assert_allclose(predictions.boxes_xyxy, boxes, atol=1e-2)
        np.testing.assert_allclose(predictions.objectness, wanted[..., 4], atol=1e-5)
        scores = wanted[..., 4:5] * wanted[..., 5:]
        np.testing.assert_allclose(predictions.scores, scores, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "name", "options"),
    [
        (None, "yolov7-tiny", {"activation": jax.nn.silu}),
        (None, "yolov7x", {"width": 0.3}),
        (deploy, "yolov7", {"num_classes": 1}),
        (fold_head, "yolov7-w6", {"num_classes": 81, "width": 0.05}),
    ],
)
def test_a_file_tells_which_model_it_is_of(form, name, options, tmp_path):
    model = small(name, **options)
    if form is not None:
        model = form(model)
    save_safetensors(model, tmp_path / "a.safetensors")
    again = load_model(tmp_path / "a.safetensors")
    model.eval()  # as `load_model` gives it
    assert_same_weights(again, model)
    assert again.head == model.head
    assert again.activation is model.activation
    assert again.form == model.form
    assert split(again)[0] == split(model)[0]  # nothing compiled for one is compiled again


@pytest.mark.parametrize("form", [None, fold_head, deploy])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shapes_tell_every_model_in_every_form(name, form):
    model = create_abstract(name, 3, width=0.3)
    model = model if form is None else form(model)
    shapes = {entry.key: entry.official_shape for entry in entries(model)}
    identity = identify(Checkpoint({key: np.zeros(shape) for key, shape in shapes.items()}))
    assert (identity.name, identity.num_classes, identity.form) == (name, 3, model.form)
    again = {entry.key: entry.official_shape for entry in entries(identity.abstract())}
    assert again == shapes


def test_what_a_file_says_of_itself_survives(tmp_path):
    path = tmp_path / "a.safetensors"
    save_safetensors(small(num_classes=2), path, names=["cat", "dög"], epoch=7)
    checkpoint = read_checkpoint(path)
    assert checkpoint.names == ("cat", "dög")
    assert checkpoint.epoch == 7
    assert checkpoint.activation == "LeakyReLU"
    assert checkpoint.metadata["anchors"][0][0] == [10, 13]


@pytest.mark.parametrize(
    ("options", "texts", "message"),
    [
        ({}, {"names": ["cat"]}, r"names \(1 of them\).*\(=3\)"),
        ({}, {"names": "cat"}, "list of texts"),
        ({}, {"names": [1, 2, 3]}, "list of texts"),
        ({}, {"epoch": 3.0}, "integer"),
        ({}, {"epoch": -1}, "integer"),
        ({"activation": jax.nn.relu}, {}, "activation"),
    ],
)
def test_nothing_is_written_that_could_not_be_read(options, texts, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_safetensors(small(**options), tmp_path / "a.safetensors", **texts)
    assert list(tmp_path.iterdir()) == []


def test_the_same_model_gives_the_same_bytes_readable_by_all_that_the_umask_allows(tmp_path):
    written = set()
    for number in range(4):
        path = tmp_path / f"{number}.safetensors"
        save_safetensors(small(), path, names=["a", "b", "ö"], epoch=number // 4)
        written.add(path.read_bytes())
    assert len(written) == 1
    usual = tmp_path / "usual"
    usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode


def test_writing_through_a_link_keeps_the_link(tmp_path):
    target, link = tmp_path / "target.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(target)
    save_safetensors(small(), link)
    assert link.is_symlink()
    assert load_model(target).name == "yolov7-tiny"


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(OSError, match=r"a\.safetensors'$"):
        save_safetensors(small(), tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_does_not_fit_is_an_error_that_names_the_file_and_changes_nothing():
    path = GOLDEN / "yolov7-tiny-narrow.pt"
    model = small(num_classes=3)
    before = to_official(model)
    with pytest.raises(
        CheckpointError,
        match=r"narrow\.pt: holds a yolov7-tiny of width 0\.125 with 2 .*9 faults.*class_keys",
    ):
        load(model, path)
    with pytest.raises(CheckpointError, match=r"model\.105\.m\.0\.weight is missing"):
        load(small("yolov7", num_classes=2), path)
    for key, value in to_official(model).items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("name", ["yolov7", "yolov7-w6"])
def test_official_weights_for_inference_give_the_outputs_of_the_training_form(name, tmp_path):
    """Their head is plain and their auxiliary heads are gone, but the norms are there."""
    model = varied(small(name))
    released = to_official(fold_head(model))
    assert any(key.endswith(".bn.running_mean") for key in released)
    assert not any(".ia." in key or ".m2." in key for key in released)
    write_safetensors(released, tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors")
    assert loaded.form == "released"
    images = np.random.default_rng(0).random((1, 128, 128, 3), np.float32)
    wanted = COMPILED(*split(model), images, train=False)[0].lead
    for form in (loaded, deploy(loaded)):
        for got, level in zip(
            COMPILED(*split(form), images, train=False)[0].lead, wanted, strict=True
        ):
            assert largest_error(got, np.asarray(level)) < 1e-4


def test_another_activation_is_refused():
    path = GOLDEN / "yolov7-tiny-narrow.pt"
    with pytest.raises(CheckpointError, match=r"LeakyReLU.*SiLU"):
        load(small(num_classes=2, activation=jax.nn.silu), path)


def test_anchors_that_a_file_tells_only_in_its_texts_are_used(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {k: v for k, v in to_official(small()).items() if ".anchor" not in k}
    anchors = np.arange(18.0).reshape(3, 3, 2) + 1
    write_safetensors(tensors, path, {"anchors": anchors.tolist()})
    assert np.array_equal(load_model(path).head.anchors, anchors)
    assert np.array_equal(load(small(), path).head.anchors, anchors)


@pytest.mark.parametrize("path", [3, None])
def test_what_is_no_path_is_a_type_error(path):
    with pytest.raises(TypeError, match="PathLike"):
        load_model(path)


def test_fine_tuning_on_other_classes_keeps_all_but_the_last_layer():
    path = GOLDEN / "yolov7-tiny-narrow.pt"
    model = small(num_classes=3)
    fresh = to_official(model)
    loaded = to_official(load(model, path, reinit=class_keys(model)))
    stored = read_checkpoint(path).weights
    for key, value in loaded.items():
        wanted = fresh if key in class_keys(model) else stored
        np.testing.assert_array_equal(value, wanted[key], err_msg=key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if not k.startswith("model.77.")}, "last layer"),
        (lambda t: {"weight": np.zeros(3)}, "no layer has an official name"),
        (lambda t: t | {"model.77.m.0.bias": np.zeros(7)}, r"m\.0\.bias"),
        (lambda t: t | {"model.0.conv.weight": np.zeros((8, 3, 3))}, "model.0.conv.weight"),
        (lambda t: t | {"model.0.conv.weight": np.zeros((0, 3, 3, 3))}, r"\(0, 3, 3, 3\), wanted"),
        (lambda t: t | {"model.0.bn.bias": np.zeros(9)}, r"model\.0\.bn\.bias has shape \(9,\)"),
    ],
    ids=["headless", "foreign", "bias", "flat kernel", "empty kernel", "misshapen"],
)
def test_tensors_of_no_model_are_refused(change, message, tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(change(to_official(small())), path)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"names": ["cat"]}, "1 class names for 3 classes"),
        ({"activation": "Mish"}, "Mish"),
        ({"model": "yolov7-e6e"}, "yolov7-e6e"),
        ({"width": 3}, "says width 3"),
        ({"anchors": np.ones((3, 3, 2)).tolist()}, "contradicts"),
    ],
)
def test_texts_that_contradict_the_tensors_are_refused(metadata, message, tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(to_official(small()), path, metadata)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


def test_a_loaded_model_computes_in_the_type_that_is_asked_for(tmp_path):
    model = load_model(GOLDEN / "yolov7-tiny-narrow.pt", dtype=jnp.bfloat16)
    assert model.backbone.stem.dtype == jnp.bfloat16
    assert model.activation is leaky_relu
