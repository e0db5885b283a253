"""Making models and running them as pure functions."""

import copy
import math
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_model import COMPILED, largest_error, varied
from jax.sharding import PartitionSpec as P
from pocket import POCKET, pocket_known

from yolov7_jax import weights
from yolov7_jax.model import (
    ARCHITECTURES,
    apply,
    create,
    create_abstract,
    normalize_images,
    split,
)
from yolov7_jax.nn.blocks import space_to_depth


def run(model, images, *, train):
    """Runs a model compiled: operation by operation it takes ten times as long."""
    return COMPILED(*split(model), images, train=train)


def small_model(name="yolov7-tiny", **options):
    return create(name, 3, width=0.125, **options)


def small_images():
    return np.random.default_rng(0).random((2, 64, 64, 3), np.float32)


def test_evaluation_keeps_the_statistics_and_training_changes_all_of_them():
    _, _, batch_stats = split(small_model())
    for train in (False, True):
        _, after = run(small_model(), small_images(), train=train)
        assert jax.tree.structure(after) == jax.tree.structure(batch_stats)
        pairs = zip(jax.tree.leaves(after), jax.tree.leaves(batch_stats), strict=True)
        assert {bool(np.array_equal(*pair)) for pair in pairs} == {not train}


def test_the_module_called_by_itself_gives_what_apply_gives():
    model = varied(small_model())
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
    half = varied(small_model(dtype=jnp.bfloat16))
    shapes = jax.eval_shape(lambda images: run(half, images, train=True), small_images())
    for leaf in jax.tree.leaves((split(half)[1:], shapes)):
        assert leaf.dtype == jnp.float32
    got = run(half, small_images(), train=False)[0].lead
    wanted = run(varied(small_model()), small_images(), train=False)[0].lead
    black = run(varied(small_model()), 0 * small_images(), train=False)[0].lead
    for level, exact, other in zip(got, wanted, black, strict=True):
        rounding = largest_error(level, np.asarray(exact))
        assert 0 < rounding < 0.3 * largest_error(other, np.asarray(exact))


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
    ("shape", "dtype", "message"),
    [
        ((1, 650, 640, 3), "float32", r"height \(=650\) must be a multiple of 32"),
        ((1, 64, 100, 3), "float32", r"width \(=100\) must be a multiple of 32"),
        ((64, 64, 3), "float32", r"\[batch, height, width, 3\]"),
        ((1, 3, 64, 64), "float32", r"\[batch, height, width, 3\]"),
        ((1, 64, 64, 3), "uint8", r"images \(dtype uint8\).*divide"),
    ],
)
def test_images_of_another_form_are_named(shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        create_abstract("yolov7-tiny", 3, width=0.125)(jnp.zeros(shape, dtype))


def test_bytes_become_numbers_between_0_and_1_and_floats_stay():
    numbers = normalize_images(jnp.array([0, 51, 255], jnp.uint8))
    np.testing.assert_allclose(numbers, [0, 0.2, 1], rtol=1e-6)
    assert normalize_images(jnp.array([255], jnp.uint8), jnp.bfloat16).dtype == jnp.bfloat16
    np.testing.assert_array_equal(normalize_images(jnp.array([0.25])), [0.25])


def test_the_head_describes_itself():
    head = create_abstract("yolov7-tiny", 3).head
    assert (head.num_classes, head.strides, head.anchors[2][2]) == (3, (8, 16, 32), (373, 326))


def test_apply_shares_statistics_over_the_axis_that_it_is_given():
    images = np.concatenate([small_images(), 0.2 * small_images()])
    outputs, wanted = run(varied(small_model()), images, train=True)
    graphdef, params, batch_stats = split(varied(small_model()))
    spread = jax.vmap(
        lambda shard: apply(graphdef, params, batch_stats, shard, train=True, axis_name="data"),
        axis_name="data",
    )
    got, stats = jax.jit(spread)(images.reshape(2, 2, 64, 64, 3))
    for got_leaf, leaf in zip(jax.tree.leaves(stats), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got_leaf[1], leaf, rtol=1e-3, atol=1e-4 * np.abs(leaf).max())
    for level, whole in zip(got.lead, outputs.lead, strict=True):
        assert largest_error(level.reshape(whole.shape), np.asarray(whole)) < 1e-2


@pytest.mark.parametrize("name", ["yolov7-w6", "yolov7-e6e"])
def test_auxiliary_heads_speak_in_training_only(name):
    model = create_abstract(name, 3, width=0.125)
    images = jax.ShapeDtypeStruct((1, 128, 192, 3), jnp.float32)
    for train in (True, False):
        outputs, _ = jax.eval_shape(
            lambda params, stats, images, train=train: apply(
                split(model)[0], params, stats, images, train=train
            ),
            *split(model)[1:],
            images,
        )
        shapes = [(1, 128 // stride, 192 // stride, 3, 8) for stride in (8, 16, 32, 64)]
        assert [level.shape for level in outputs.lead] == shapes
        assert [level.shape for level in outputs.auxiliary] == (shapes if train else [])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_abstract_model_has_the_shapes_of_a_real_one(name):
    abstract, real = create_abstract(name, 3, width=0.1), create(name, 3, width=0.1)
    assert split(abstract)[0] == split(real)[0]
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), split(abstract)[1:])
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), split(real)[1:])


def test_recomputing_stages_changes_no_gradient_and_no_statistic():
    def gradients(model):
        graphdef, params, batch_stats = split(model)

        def total(params, images):
            outputs, stats = apply(graphdef, params, batch_stats, images, train=True)
            return sum((level**2).sum() for level in outputs.lead), stats

        return jax.jit(jax.grad(total, has_aux=True))(params, small_images())

    with pocket_known():
        kept, recomputed = (gradients(small_model(POCKET, remat=remat)) for remat in (False, True))
    for got, wanted in zip(jax.tree.leaves(recomputed), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_recomputing_stages_keeps_less_for_the_gradient():
    def residuals(model):
        graphdef, params, batch_stats = split(model)

        def total(params, images):
            outputs, _ = apply(graphdef, params, batch_stats, images, train=True)
            return sum((level**2).sum() for level in outputs.lead)

        _, transpose = jax.eval_shape(
            lambda params, images: jax.vjp(total, params, images), params, small_images()
        )
        return sum(leaf.size for leaf in jax.tree.leaves(transpose))

    assert residuals(small_model(remat=True)) < 0.7 * residuals(small_model())


def test_space_to_depth_takes_the_four_cells_row_first_within_a_column():
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(space_to_depth(x)[0, 0, 0], [0, 4, 1, 5])
    np.testing.assert_array_equal(space_to_depth(x)[0, 1, 1], [10, 14, 11, 15])


def test_widths_round_up_to_multiples_of_eight():
    model = create_abstract("yolov7-tiny", 3, width=0.3)
    assert model.backbone.stem.kernel.shape == (3, 3, 3, 16)  # 9.6
    assert model.backbone.stage5.out.kernel.shape[-1] == 160  # 153.6


def test_models_that_differ_in_their_numbers_alone_are_compiled_once():
    models = [
        small_model("yolov7"),
        small_model("yolov7", key=jax.random.key(1), activation=jax.nn.silu),
        small_model("yolov7", dtype="float32"),
        copy.deepcopy(small_model("yolov7")),
        pickle.loads(pickle.dumps(small_model("yolov7"))),
    ]
    models[1].eval()
    weights.load_official(models[2], weights.to_official(models[0]) | counters(models[0]))
    traced = jax.jit(chex.assert_max_traces(apply, 1), static_argnames=("graphdef", "train"))
    for model in models:
        traced.eval_shape(*split(model), small_images(), train=False)
    assert len({split(model)[0] for model in models}) == 1


def counters(model):
    keys = weights.to_official(model)
    return {key: np.array(7) for key in keys if key.endswith("num_batches_tracked")}


def test_a_batch_on_an_explicit_mesh_is_computed_as_any_other():
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    graphdef, params, batch_stats = split(varied(small_model()))
    with jax.set_mesh(mesh):
        images = jax.device_put(small_images(), jax.sharding.NamedSharding(mesh, P("data")))
        params, batch_stats = jax.device_put(
            (params, batch_stats), jax.sharding.NamedSharding(mesh, P())
        )
        outputs, stats = COMPILED(graphdef, params, batch_stats, images, train=True)
    wanted, wanted_stats = run(varied(small_model()), small_images(), train=True)
    for got, level in zip(outputs.lead, wanted.lead, strict=True):
        assert largest_error(got, np.asarray(level)) < 1e-3
    for got, leaf in zip(jax.tree.leaves(stats), jax.tree.leaves(wanted_stats), strict=True):
        np.testing.assert_allclose(got, leaf, rtol=1e-3, atol=1e-4 * np.abs(leaf).max())


def test_every_argument_that_cannot_be_used_is_named():
    with pytest.raises(
        ValueError, match=r"'yolov8'; known: yolov7-tiny.*num_classes.*width.*activation.*dtype"
    ):
        create("yolov8", True, width=float("inf"), activation="silu", dtype=int)


@pytest.mark.parametrize("width", ["1", None, True, 0, -1, float("nan"), 1e300])
def test_a_width_that_is_no_sensible_number_is_named(width):
    with pytest.raises(ValueError, match=r"width \(="):
        create_abstract("yolov7-tiny", 3, width=width)


def test_a_key_has_to_be_one_key():
    for key in (0, jax.random.split(jax.random.key(0), 2)):
        with pytest.raises(ValueError, match="one key"):
            small_model(key=key)


def test_models_can_be_made_abstractly_and_not_under_jit_with_a_traced_key():
    shapes = nnx.eval_shape(lambda: small_model())
    assert split(shapes)[0] == split(small_model())[0]
    with pytest.raises(ValueError, match="create_abstract"):
        jax.jit(lambda key: split(small_model(key=key))[1])(jax.random.key(0))
