"""The model against stored measurements, and its fast gradients against plain ones."""

import csv
import functools
import json
import math
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from yolov7_jax.config import HeadConfig
from yolov7_jax.model import apply, create, split
from yolov7_jax.nn.blocks import Build, ConvBnAct, leaky_relu
from yolov7_jax.nn.convolution import convolution
from yolov7_jax.nn.norm import BatchNorm
from yolov7_jax.nn.pooling import max_pool
from yolov7_jax.weights import load_official, to_official

GOLDEN = pathlib.Path(__file__).parent / "golden" / "model"
MODELS = sorted(path.stem for path in GOLDEN.glob("*.npz"))
OPTIONAL = (".anchors", ".anchor_grid", ".num_batches_tracked")


def official_shapes(name):
    with open(GOLDEN / f"{name}.state_dict.csv") as file:
        rows = [(row["name"], row["shape"]) for row in csv.DictReader(file)]
    return {key: tuple(int(n) for n in shape.split("x") if n) for key, shape in rows}


def golden_weights(name):
    """Returns the weights that the stored measurements were made with."""
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


def golden_model(name):
    """Returns the model of a stored measurement, the measurement, its description and images."""
    stored = np.load(GOLDEN / f"{name}.npz")
    meta = json.loads(bytes(stored["meta"]))
    shape = (meta["batch"], 3, meta["height"], meta["width"])
    images = np.random.RandomState(meta["image_seed"]).rand(*shape).astype(np.float32)
    model = load_official(create(name, meta["num_classes"]), golden_weights(name))
    return model, stored, meta, images.transpose(0, 2, 3, 1)


COMPILED = jax.jit(apply, static_argnames=("graphdef", "train"))


def run(model, images, *, train):
    """Runs a model compiled: operation by operation it takes ten times as long."""
    return COMPILED(*split(model), images, train=train)


def small_model(**options):
    return create("yolov7-tiny", 3, width=0.125, **options)


def small_images():
    return np.random.default_rng(0).random((2, 64, 64, 3), np.float32)


def largest_error(got, wanted):
    return np.abs(np.asarray(got) - wanted).max() / np.abs(wanted).max()


def to_ours(stored):
    return stored.transpose(0, 2, 3, 1, 4)  # [b, a, h, w, f] is the official order


@pytest.mark.parametrize("name", MODELS)
def test_outputs_in_evaluation_are_the_measured_ones(name):
    model, stored, _, images = golden_model(name)
    outputs, _ = run(model, images, train=False)
    assert outputs.auxiliary == ()
    for level, got in enumerate(outputs.lead):
        assert largest_error(got, to_ours(stored[f"eval_{level}"])) < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_a_training_pass_gives_the_measured_outputs_and_statistics(name):
    model, stored, meta, images = golden_model(name)
    tolerance = max(10 * meta["float32_error"]["train"], 1e-3)
    outputs, new_stats = run(model, images, train=True)
    for level, got in enumerate(outputs.lead):
        assert largest_error(got, to_ours(stored[f"train_{level}"])) < tolerance

    nnx.update(model, new_stats)
    official = to_official(model)
    for i, key in enumerate(stored["stat_names"]):
        np.testing.assert_allclose(official[key].sum(), stored["stat_sum"][i], rtol=1e-3, atol=1e-3)
        squares = np.square(official[key]).sum()
        np.testing.assert_allclose(squares, stored["stat_sqsum"][i], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_the_number_of_parameters_is_the_published_one(name):
    with open(GOLDEN / f"{name}.layers.csv") as file:
        wanted = sum(int(row["parameters"]) for row in csv.DictReader(file))
    _, params, _ = split(create(name, 3))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == wanted


@pytest.mark.parametrize("name", MODELS)
def test_official_weights_survive_the_round_trip_bit_by_bit(name):
    rng = np.random.default_rng(0)
    given = golden_weights(name)
    model = create(name, 3)
    strides = np.array(model.head.strides, np.float32)
    anchors = rng.uniform(8, 400, (len(strides), 3, 2)).astype(np.float32)
    for key, shape in official_shapes(name).items():
        if key.endswith(".num_batches_tracked"):
            given[key] = np.array(1234)
        elif key.endswith(".anchors"):
            given[key] = anchors / strides[:, None, None]
        elif key.endswith(".anchor_grid"):
            given[key] = anchors.reshape(shape)
    returned = to_official(load_official(model, given))
    assert {key: value.shape for key, value in returned.items()} == official_shapes(name)
    for key, value in given.items():
        np.testing.assert_array_equal(returned[key], value, err_msg=key)
    np.testing.assert_array_equal(np.array(model.head.anchors, np.float32), anchors)


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


def test_evaluation_keeps_the_statistics_and_training_changes_all_of_them():
    _, _, batch_stats = split(small_model())
    for train in (False, True):
        _, after = run(small_model(), small_images(), train=train)
        assert jax.tree.structure(after) == jax.tree.structure(batch_stats)
        pairs = zip(jax.tree.leaves(after), jax.tree.leaves(batch_stats), strict=True)
        assert {bool(np.array_equal(*pair)) for pair in pairs} == {not train}


def test_the_module_called_by_itself_gives_what_apply_gives():
    model = small_model()
    outputs, _ = run(model, small_images(), train=False)
    model.eval()
    called = jax.jit(lambda images: model(images))(small_images())
    for got, wanted in zip(outputs.lead, called.lead, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_the_silu_form_differs_and_the_same_key_gives_the_same_model():
    key = jax.random.key(1)
    models = [
        small_model(key=key),
        small_model(key=key),
        small_model(key=jax.random.key(2)),
        small_model(key=key, activation=jax.nn.silu),
    ]
    outputs = [run(model, small_images(), train=True)[0].lead[0] for model in models]
    leaky, again, other, silu = (np.asarray(level) for level in outputs)
    np.testing.assert_array_equal(leaky, again)
    assert np.abs(leaky - other).max() > 0.1
    assert np.abs(leaky - silu).max() > 0.1


def test_parameters_and_logits_stay_float32_when_computing_in_bfloat16():
    half = small_model(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(lambda images: run(half, images, train=True), small_images())
    for leaf in jax.tree.leaves((split(half)[1:], shapes)):
        assert leaf.dtype == jnp.float32
    got = run(half, small_images(), train=False)[0].lead
    wanted = run(small_model(), small_images(), train=False)[0].lead
    for level, exact in zip(got, wanted, strict=True):
        assert 0 < largest_error(level, np.asarray(exact)) < 0.02


def test_a_fresh_head_expects_few_objects():
    model = create("yolov7-tiny", 4)
    for level, stride in zip(model.detect.levels, model.head.strides, strict=True):
        bias = np.asarray(level.bias[...]).reshape(3, 9)
        bound = level.kernel.shape[2] ** -0.5
        objectness = math.log(8 / (640 / stride) ** 2)
        classes = math.log(0.6 / (4 - 0.99))
        wanted = np.array([0] * 4 + [objectness] + [classes] * 4)
        assert np.abs(bias - wanted).max() <= bound + 1e-6
        kernel = np.asarray(level.kernel[...])
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(np.asarray(level.implicit_multiply[...]).std(), 0.02, rtol=0.5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 650, 640, 3), r"height \(=650\) must be a multiple of 32"),
        ((1, 64, 100, 3), r"width \(=100\) must be a multiple of 32"),
        ((64, 64, 3), r"\[batch, height, width, 3\]"),
        ((1, 3, 64, 64), r"\[batch, height, width, 3\]"),
    ],
)
def test_pictures_of_a_wrong_shape_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        create("yolov7-tiny", 3, width=0.25)(jnp.zeros(shape))


def test_an_unknown_model_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'yolov8'.*yolov7-tiny"):
        create("yolov8")


def test_the_head_describes_itself():
    head = create("yolov7-tiny", 3, width=0.25).head
    assert isinstance(head, HeadConfig)
    assert head.num_classes == 3
    assert head.strides == (8, 16, 32)
    assert head.anchors[2][2] == (373, 326)


def test_leaky_relu_has_slope_a_tenth_at_and_below_zero():
    x = jnp.array([-2.0, 0.0, 3.0])
    np.testing.assert_allclose(leaky_relu(x), [-0.2, 0, 3])
    np.testing.assert_allclose(jax.vmap(jax.grad(leaky_relu))(x), [0.1, 0.1, 1])


def plain_convolution(x, kernel, stride):
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride"),
    [((6, 8), 3, 1), ((40, 32), 3, 1), ((6, 8), 3, 2), ((72, 64), 3, 2), ((6, 8), 1, 1)],
)
def test_convolution_and_its_gradients_equal_the_plain_ones(size, kernel_size, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 5)).astype(np.float32)
    kernel = rng.normal(size=(kernel_size, kernel_size, 5, 7)).astype(np.float32)
    weights = rng.normal(size=(2, size[0] // stride, size[1] // stride, 7)).astype(np.float32)

    def results(function):
        def weighted(x, kernel):
            y = function(x, kernel, stride)
            return (y * weights).sum(), y

        gradients, y = jax.jit(jax.grad(weighted, (0, 1), has_aux=True))(x, kernel)
        return y, *gradients

    for got, wanted in zip(results(convolution), results(plain_convolution), strict=True):
        assert largest_error(got, np.asarray(wanted)) < 1e-5


def plain_max_pool(x, size, stride):
    pad = size // 2 if stride == 1 else 0
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        (1, size, size, 1),
        (1, stride, stride, 1),
        ((0, 0), (pad, pad), (pad, pad), (0, 0)),
    )


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (5, 1), (9, 1), (13, 1)])
def test_max_pool_equals_the_plain_one_and_the_first_of_equals_gets_the_gradient(size, stride):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, (2, 10, 14, 3)).astype(np.float32)  # few values: many ties
    gradient = rng.integers(-8, 8, (2, 10 // stride, 14 // stride, 3)).astype(np.float32)

    def results(function):
        def both(x, gradient):
            y, transpose = jax.vjp(lambda x: function(x, size, stride), x)
            return y, transpose(gradient)[0]

        return jax.jit(both)(x, gradient)

    for got, wanted in zip(results(max_pool), results(plain_max_pool), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_batch_norm_reads_as_in_numpy():
    rng = np.random.default_rng(0)
    x = rng.normal(300, 0.1, (2, 3, 4, 5)).astype(np.float32)  # one pass would lose all digits
    norm = BatchNorm(5)
    norm.scale[...] = jnp.arange(1.0, 6)
    norm.bias[...] = jnp.arange(5.0)
    exact = x.astype(np.float64)
    mean, variance = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    wanted = (exact - mean) / np.sqrt(variance + 1e-3) * np.arange(1, 6) + np.arange(5)
    np.testing.assert_allclose(norm(x), wanted, atol=5e-3)
    np.testing.assert_allclose(norm.mean[...], 0.03 * mean, rtol=1e-5)
    unbiased = exact.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(norm.variance[...], 0.97 + 0.03 * unbiased, rtol=1e-5)
    norm.eval()
    running = (norm.mean[...], norm.variance[...])
    wanted = (exact - running[0]) / np.sqrt(running[1] + 1e-3) * np.arange(1, 6) + np.arange(5)
    np.testing.assert_allclose(norm(x), wanted, rtol=1e-4)
    np.testing.assert_array_equal(norm.mean[...], running[0])


class Pooled(nnx.Module):
    """Two blocks and a pool: everything whose gradient could depend on the number of devices."""

    def __init__(self):
        rng = np.random.default_rng(0)
        conv = functools.partial(ConvBnAct, Build(1.0, leaky_relu, jnp.float32, rng))
        self.first = conv(3, 4, 3)
        self.second = conv(4, 5, 1)

    def __call__(self, x):
        return max_pool(self.second(self.first(x)), 2, 2)


def loss_of_blocks(axis_name):
    graphdef, params, batch_stats = nnx.split(Pooled(), nnx.Param, nnx.BatchStat)

    def loss(params, images):
        model = nnx.merge(graphdef, params, batch_stats, copy=True)
        model.set_attributes(BatchNorm, axis_name=axis_name)
        y = model(images)
        total = (y**3).sum()
        total = total if axis_name is None else jax.lax.psum(total, axis_name)
        return total, nnx.state(model, nnx.BatchStat)

    return loss, params


def uneven_images():
    """Returns four pictures of different statistics, large enough for every formulation."""
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    return images * np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1, 1)


def assert_close(got, wanted):
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        scale = np.abs(right).max()
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4 * scale)


def test_gradients_and_statistics_of_a_spread_batch_are_those_of_the_whole():
    whole, params = loss_of_blocks(None)
    wanted = jax.jit(jax.value_and_grad(whole, has_aux=True))(params, uneven_images())
    part, _ = loss_of_blocks("data")
    shards = uneven_images().reshape(4, 1, 32, 32, 3)

    def spread(params, shards):
        mapped = jax.vmap(part, in_axes=(None, 0), axis_name="data")(params, shards)
        return jax.tree.map(lambda leaf: leaf[2], mapped)  # every shard has the same

    assert_close(jax.jit(jax.value_and_grad(spread, has_aux=True))(params, shards), wanted)


def test_gradients_under_shard_map_are_those_of_the_whole():
    whole, params = loss_of_blocks(None)
    wanted = jax.jit(jax.value_and_grad(whole, has_aux=True))(params, uneven_images())
    part, _ = loss_of_blocks("data")
    # Types are checked on one device too; more are used where there are some.
    devices = np.array(jax.devices()[: math.gcd(4, jax.device_count())])
    spread = jax.shard_map(
        part,
        mesh=jax.sharding.Mesh(devices, ("data",)),
        in_specs=(P(), P("data")),
        out_specs=P(),
    )
    got = jax.jit(jax.value_and_grad(spread, has_aux=True))(params, uneven_images())
    assert_close(got, wanted)


def test_apply_shares_statistics_over_the_axis_that_it_is_given():
    images = np.concatenate([small_images(), 0.2 * small_images()])
    outputs, wanted = run(small_model(), images, train=True)
    graphdef, params, batch_stats = split(small_model())
    spread = jax.vmap(
        lambda shard: apply(graphdef, params, batch_stats, shard, train=True, axis_name="data"),
        axis_name="data",
    )
    got, stats = jax.jit(spread)(images.reshape(2, 2, 64, 64, 3))
    assert_close(jax.tree.map(lambda leaf: leaf[1], stats), wanted)
    for level, whole in zip(got.lead, outputs.lead, strict=True):
        assert largest_error(level.reshape(whole.shape), np.asarray(whole)) < 1e-2
