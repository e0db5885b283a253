"""The stored measurements of the models, and what a model has to show against them."""

import csv
import functools
import gc
import json
import math
import pathlib
import zlib

import jax
import numpy as np
import pytest
from compiling import AS_USERS_DO
from flax import nnx

from yolov7_jax import (
    LossConfig,
    apply,
    create_abstract,
    decode,
    deploy,
    detection_loss,
    pad_targets,
    split,
)
from yolov7_jax.weights import load_official, to_official

FOLDER = pathlib.Path(__file__).parent / "golden" / "model"
OPTIONAL = (".anchors", ".anchor_grid", ".num_batches_tracked")
DEPLOY_PARAMETERS = {  # of 80 classes, in millions
    "yolov7-tiny": 6.2,
    "yolov7": 36.9,
    "yolov7x": 71.3,
    "yolov7-w6": 70.4,
    "yolov7-e6": 97.2,
    "yolov7-e6e": 151.7,
    # 154.7 is published, which is the training form, with the auxiliary heads.
    "yolov7-d6": 133.8,
}


def official_shapes(name):
    with open(FOLDER / f"{name}.state_dict.csv") as file:
        rows = [(row["name"], row["shape"]) for row in csv.DictReader(file)]
    return {key: tuple(int(n) for n in shape.split("x") if n) for key, shape in rows}


def golden_weights(name):
    """The weights that the measurements were made with."""
    result = {}
    for key, shape in official_shapes(name).items():
        if key.endswith(OPTIONAL):
            continue
        random = np.random.RandomState(zlib.crc32(key.encode()))
        normal = random.standard_normal(shape).astype(np.float32)
        if key.endswith("running_mean") or ".ia." in key or key.endswith(".bias"):
            value = 0.1 * normal
        elif key.endswith("running_var"):
            value = 1 + 0.1 * np.abs(normal)
        elif key.endswith(".weight") and normal.ndim == 4:
            value = normal * math.sqrt(1.5 / np.prod(shape[1:]))
        else:
            value = 1 + 0.1 * normal
        result[key] = value.astype(np.float32)
    return result


def golden_model(name, num_classes=3):
    return load_official(create_abstract(name, num_classes), golden_weights(name))


def varied(model, seed=0):
    """A model in which every parameter and statistic has another value than in a fresh one.

    The outputs of a fresh narrow model hardly depend on the image.
    """
    rng = np.random.default_rng(seed)
    graphdef, params, batch_stats = split(model)
    tensors = to_official(nnx.merge(graphdef, params, batch_stats))
    for key, value in tensors.items():
        if key.endswith(OPTIONAL) or key.endswith("running_var"):
            continue
        if value.ndim == 4 and ".implicit" not in key:
            tensors[key] = rng.normal(0, 1.4 / math.sqrt(np.prod(value.shape[1:])), value.shape)
        else:
            tensors[key] = value + rng.normal(0, 0.2, value.shape)
    for key in [key for key in tensors if key.endswith("running_var")]:
        variance = np.exp(rng.uniform(np.log(1e-3), np.log(10), tensors[key].shape))
        tensors[key] = variance
        # Or else the values would grow, or vanish, from layer to layer.
        tensors[key.replace("running_var", "weight")] *= np.sqrt(variance + 1e-3)
    return load_official(model, tensors)


def to_nhwc(stored):
    return stored.transpose(0, 2, 3, 1, 4)  # [b, a, h, w, f] is the official order


def largest_error(got, wanted):
    return np.abs(np.asarray(got) - wanted).max() / np.abs(wanted).max()


COMPILED = jax.jit(apply, static_argnames=("graphdef", "train"))
AS_A_USER = jax.jit(apply, static_argnames=("graphdef", "train"), compiler_options=AS_USERS_DO)


class GoldenModelTests:
    """Tests of one model; a subclass names it."""

    name = ""

    @pytest.fixture(scope="class")
    @staticmethod
    def model(request):
        return golden_model(request.cls.name)

    @pytest.fixture(scope="class", autouse=True)
    @staticmethod
    def leave_no_gigabytes_behind():
        yield
        jax.clear_caches()
        gc.collect()

    @functools.cached_property
    def stored(self):
        return np.load(FOLDER / f"{self.name}.npz")

    @functools.cached_property
    def meta(self):
        return json.loads(bytes(self.stored["meta"]))

    def images(self, height, width):
        shape = (self.meta["batch"], 3, height, width)
        pixels = np.random.RandomState(self.meta["image_seed"]).rand(*shape)
        return pixels.astype(np.float32).transpose(0, 2, 3, 1)

    def run(self, model, *, train):
        """Runs a model compiled: operation by operation it takes ten times as long."""
        images = self.images(self.meta["height"], self.meta["width"])
        return AS_A_USER(*split(model), images, train=train)

    def test_outputs_in_evaluation_are_the_measured_ones_deployed_too(self, model):
        for form in (model, deploy(model)):
            outputs, _ = self.run(form, train=False)
            assert outputs.auxiliary == ()
            for level, got in enumerate(outputs.lead):
                assert largest_error(got, to_nhwc(self.stored[f"eval_{level}"])) < 1e-4
            predictions = decode(outputs.lead, model.head)
            wanted = self.stored["decoded"]
            centre, size = wanted[..., 0:2], wanted[..., 2:4]
            boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=-1)
            np.testing.assert_allclose(predictions.boxes_xyxy, boxes, atol=1e-2)
            np.testing.assert_allclose(predictions.objectness, wanted[..., 4], atol=1e-5)
            scores = wanted[..., 4:5] * wanted[..., 5:]
            np.testing.assert_allclose(predictions.scores, scores, atol=1e-5)

    def test_a_training_pass_gives_the_measured_outputs_and_statistics(self, model):
        tolerance = max(10 * self.meta["float32_error"]["train"], 1e-3)
        outputs, new_stats = self.run(model, train=True)
        levels = [*outputs.lead, *outputs.auxiliary]
        assert len(levels) == sum(key.startswith("train_") for key in self.stored.files)
        for level, got in enumerate(levels):
            assert largest_error(got, to_nhwc(self.stored[f"train_{level}"])) < tolerance

        graphdef, params, _ = split(model)
        official = to_official(nnx.merge(graphdef, params, new_stats))
        sums = [official[key].sum() for key in self.stored["stat_names"]]
        # Of numbers of both signs, whose rounding does not shrink with their sum.
        length = np.sqrt(self.stored["stat_sqsum"])
        limit = 1e-3 * (1 + np.maximum(np.abs(self.stored["stat_sum"]), length))
        assert (np.abs(sums - self.stored["stat_sum"]) <= limit).all()
        squares = [np.square(official[key]).sum() for key in self.stored["stat_names"]]
        np.testing.assert_allclose(squares, self.stored["stat_sqsum"], rtol=1e-3, atol=1e-3)

    def test_loss_and_gradient_norms_are_the_measured_ones(self, model):
        graphdef, params, batch_stats = split(model)
        targets = pad_targets(self.stored["targets"], self.meta["batch"], 16)
        gains = {f"{part}_gain": self.meta["hyp"][part] for part in ("box", "obj", "cls")}

        def loss(params, images, targets):
            outputs, _ = apply(graphdef, params, batch_stats, images, train=True)
            return detection_loss(outputs, targets, model.head, LossConfig(**gains))

        images = self.images(*self.meta["loss_image"])
        gradients_of = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (total, terms), gradients = gradients_of(params, images, targets)
        error = self.meta["float32_error"]
        losses = np.array([total, terms.box, terms.obj, terms.cls])
        assert largest_error(losses, self.stored["loss"]) < max(10 * error["loss"], 1e-4)
        official = to_official(nnx.merge(graphdef, gradients, batch_stats))
        norms = np.array([np.linalg.norm(official[key]) for key in self.stored["grad_names"]])
        wanted = self.stored["grad_norm"]
        scale = np.maximum(wanted, 1e-3 * wanted.max())
        assert (np.abs(norms - wanted) / scale).max() < max(10 * error["grad_norm"], 1e-2)

    def test_official_weights_survive_the_round_trip_bit_by_bit(self):
        rng = np.random.default_rng(0)
        given = {
            key: rng.random(shape, np.float32)
            for key, shape in official_shapes(self.name).items()
            if not key.endswith(OPTIONAL)
        }
        model = create_abstract(self.name, 3)
        strides = np.array(model.head.strides, np.float32)
        anchors = rng.uniform(8, 400, (len(strides), 3, 2)).astype(np.float32)
        for key, shape in official_shapes(self.name).items():
            if key.endswith(".num_batches_tracked"):
                given[key] = np.array(1234)
            elif key.endswith(".anchors"):
                given[key] = anchors / strides[:, None, None]
            elif key.endswith(".anchor_grid"):
                given[key] = anchors.reshape(shape)
        returned = to_official(load_official(model, given))
        assert {key: value.shape for key, value in returned.items()} == official_shapes(self.name)
        for key, value in given.items():
            assert np.array_equal(returned[key], value), key
        np.testing.assert_array_equal(np.array(model.head.anchors, np.float32), anchors)

    def test_numbers_of_parameters_are_the_published_ones(self):
        with open(FOLDER / f"{self.name}.layers.csv") as file:
            wanted = sum(int(row["parameters"]) for row in csv.DictReader(file))
        assert count(create_abstract(self.name, 3)) == wanted
        published = DEPLOY_PARAMETERS[self.name]
        assert round(count(deploy(create_abstract(self.name))) / 1e6, 1) == published

    def test_anchors_are_those_of_the_released_model(self):
        head = create_abstract(self.name, 3).head
        assert np.array_equal(head.anchors, self.meta["anchors_px"])
        assert list(head.strides) == self.meta["strides"]


def count(model):
    _, params, _ = split(model)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
