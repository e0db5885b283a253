"""What a run starts from: weights of every form, or one message about why not."""

import dataclasses
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yolov7_jax import create, deploy, split
from yolov7_jax.cli import main
from yolov7_jax.data.dataset import as_one_class
from yolov7_jax.demo_data.demo import data_file
from yolov7_jax.deploy import fold_head
from yolov7_jax.training.checkpoint import Checkpoints
from yolov7_jax.training.model_and_data import (
    compute_dtype,
    load_split,
    load_splits,
    load_weights,
)
from yolov7_jax.training.train_config import write_yaml
from yolov7_jax.weights import class_keys, load_model, save_safetensors, to_official
from yolov7_jax.weights.model_metadata import describe_model

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "checkpoint"
NAMES = ("red", "green")


def small_model(name="yolov7-tiny", num_classes=2, seed=0, **options):
    return create(name, num_classes, key=jax.random.key(seed), width=0.125, **options)


def saved(model, path, names=None):
    save_safetensors(model, path, names=names)
    return str(path)


def assert_loaded(model, before, source, fresh):
    """Every tensor is that of the source, but the fresh ones, which are as before."""
    tensors = to_official(model)
    assert set(fresh) <= set(tensors)
    for key, value in tensors.items():
        if not key.endswith(("anchors", "anchor_grid")):
            np.testing.assert_array_equal(value, (before if key in fresh else source)[key], key)


@pytest.mark.parametrize(("name", "names"), [("yolov7-tiny", None), ("yolov7-w6", NAMES)])
def test_the_same_classes_give_the_weights_of_the_file(name, names, tmp_path):
    source, model = small_model(name, seed=1), small_model(name)
    loaded = load_weights(model, saved(source, tmp_path / "a.safetensors", names), NAMES)
    assert (loaded.fresh, loaded.line()) == ((), "all of it")
    assert_loaded(model, {}, to_official(source), ())


def test_weights_of_another_run_are_its_best_averages(tmp_path):
    first, best, last = (split(small_model(seed=seed))[1:] for seed in (1, 2, 3))
    source = small_model(seed=2)
    with Checkpoints(tmp_path, describe_model(source, NAMES)) as checkpoints:
        for step, (params, batch_stats), ap in ((1, first, 0.1), (2, best, 0.3), (3, last, 0.2)):
            other = jax.tree.map(jnp.zeros_like, params)
            state = {"params": other, "batch_stats": batch_stats}
            state |= {"ema_params": params, "ema_batch_stats": batch_stats}
            checkpoints.save(step, {"state": state})
            checkpoints.rate(step, ap)
    model = small_model()
    assert load_weights(model, str(tmp_path), NAMES).fresh == ()
    assert_loaded(model, {}, to_official(source), ())


@pytest.mark.parametrize(
    ("name", "classes", "names"),
    [
        ("yolov7-tiny", 5, None),
        ("yolov7-w6", 5, tuple("abcde")),
        ("yolov7-tiny", 2, ("green", "red")),
    ],
    ids=["more", "more, named", "as many, of other names"],
)
def test_of_other_classes_all_but_their_part_of_the_head_is_loaded(name, classes, names, tmp_path):
    source, model = small_model(name, classes, seed=1), small_model(name)
    before = to_official(model)
    loaded = load_weights(model, saved(source, tmp_path / "a.safetensors", names), NAMES)
    assert set(loaded.fresh) == set(class_keys(model))
    assert_loaded(model, before, to_official(source), loaded.fresh)
    said = f"all but {len(loaded.fresh)} tensors of the head, because its {classes} classes"
    assert loaded.line().startswith(said)


def test_an_official_file_of_other_classes_is_loaded_with_its_anchors():
    path = GOLDEN / "yolov7-tiny-narrow.pt"
    source = load_model(path)
    model = create("yolov7-tiny", 2, width=source.width)
    before = to_official(model)
    loaded = load_weights(model, str(path), NAMES)
    assert_loaded(model, before, to_official(source), loaded.fresh)
    assert set(loaded.fresh) == set(class_keys(model))
    assert model.head.anchors == source.head.anchors


def released(name, classes, path):
    """A file for inference as the official ones are: norms are there, implicit vectors are not."""
    source = small_model(name, classes, seed=1)
    return to_official(source), saved(fold_head(source), path)


@pytest.mark.parametrize(("name", "classes"), [("yolov7", 2), ("yolov7-w6", 5)])
def test_an_official_file_for_inference_gives_all_but_the_training_heads(name, classes, tmp_path):
    source, path = released(name, classes, tmp_path / "a.safetensors")
    model = small_model(name)
    before = to_official(model)
    loaded = load_weights(model, path, NAMES)
    assert "the file has no training heads" in loaded.line()
    assert ("classes are not those of the data" in loaded.line()) == (classes == 5)
    kinds = {key.split(".")[2] for key in loaded.fresh}
    assert {"ia", "im"} <= kinds  # they cannot be taken out of the convolutions again
    if classes == 5:
        assert set(class_keys(model)) <= set(loaded.fresh)
    tensors = to_official(model)
    first_of_head = min(int(key.split(".")[1]) for key in loaded.fresh)
    for key, value in tensors.items():
        if key in loaded.fresh:
            np.testing.assert_array_equal(value, before[key], key)
        elif int(key.split(".")[1]) < first_of_head:
            np.testing.assert_array_equal(value, source[key], key)
    if name == "yolov7-w6":
        assert any(".m2." in key for key in loaded.fresh)
    assert len(loaded.fresh) < len(tensors) / 4


def refused(capsys, small, tmp_path, path):
    """What the command says to such weights; it leaves nothing behind."""
    recipe = tmp_path / "recipe.yaml"
    write_yaml(dataclasses.replace(small, model="yolov7-tiny", batch_size=8), recipe)
    run = tmp_path / "run"
    fit = ["train", "--recipe", str(recipe), "--weights", str(path), "--output", str(run)]
    assert main(fit) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert str(path) in line
    assert not run.exists()
    return line


def test_weights_that_do_not_suit_are_refused_in_one_line(capsys, small, tmp_path):
    made = {
        "deployed": deploy(small_model()),
        "w6": small_model("yolov7-w6"),
        "wide": create("yolov7-tiny", 2, width=0.25),
        "silu": small_model(activation=jax.nn.silu),
    }
    messages = {
        "deployed": "is for inference only",
        "w6": "is of a yolov7-w6, and --model is yolov7-tiny",
        "wide": "do not fit a yolov7-tiny of width 0.125",
        "silu": "has the activation SiLU, and the model to train has LeakyReLU; see --activation",
    }
    for case, model in made.items():
        path = saved(model, tmp_path / f"{case}.safetensors")
        assert messages[case] in refused(capsys, small, tmp_path, path)


def test_damaged_and_missing_weights_are_refused_in_one_line(capsys, small, tmp_path):
    whole = pathlib.Path(saved(small_model(), tmp_path / "a.safetensors")).read_bytes()
    damaged = tmp_path / "b.safetensors"
    damaged.write_bytes(whole[: len(whole) // 2])
    official = tmp_path / "c.pt"
    official.write_bytes((GOLDEN / "yolov7-tiny-narrow.pt").read_bytes()[:5000])
    for path in (damaged, official, tmp_path / "no.pt", tmp_path / "empty"):
        refused(capsys, small, tmp_path, path)


def test_one_class_stands_for_all(small):
    dataset, _ = load_splits(small)
    one = as_one_class(dataset)
    assert (one.names, dataset.names) == (("object",), NAMES)
    assert one.category_ids.tolist() == dataset.category_ids[:1].tolist()
    assert set(one.labels.tolist()) == {0}
    np.testing.assert_array_equal(one.boxes, dataset.boxes)


def test_every_split_of_a_run_with_one_class_has_that_class(small):
    one = dataclasses.replace(small, single_class=True)
    for name, dataset in zip(("train", "val"), load_splits(one), strict=True):
        assert dataset.names == ("object",)
        assert load_split(one, name).fingerprint() == dataset.fingerprint()
        assert load_split(small, name).names == NAMES


def test_a_tilde_in_the_place_of_the_data_is_the_users_folder(small, monkeypatch):
    place = pathlib.Path(small.data)
    monkeypatch.setenv("HOME", str(place.parent))
    assert data_file(f"~/{place.name}") == place


@pytest.mark.parametrize(
    ("backend", "wanted"), [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")]
)
def test_auto_computes_in_what_the_devices_do_fast(backend, wanted, monkeypatch):
    fake = types.SimpleNamespace(default_backend=lambda: backend)
    monkeypatch.setattr("yolov7_jax.training.model_and_data.jax", fake)
    assert compute_dtype("auto") == jnp.dtype(wanted)
    assert compute_dtype("float32") == jnp.float32
    assert compute_dtype("bfloat16") == jnp.bfloat16
