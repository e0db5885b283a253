"""What models cost, against what was published and by hand."""

import jax
import jax.numpy as jnp
import pytest

from yolov7_jax import apply, create_abstract, deploy, split
from yolov7_jax.summary import summarize

GFLOPS = {
    "yolov7-tiny": 13.8,
    "yolov7": 104.7,
    "yolov7x": 189.9,
    "yolov7-w6": 360.0,
    "yolov7-e6": 515.2,
    "yolov7-e6e": 843.2,
}


@pytest.mark.parametrize("name", GFLOPS)
def test_operations_are_the_published_ones(name):
    assert summarize(create_abstract(name)).deploy_flops / 1e9 == pytest.approx(
        GFLOPS[name], rel=0.02
    )


def test_the_figure_published_for_d6_counts_its_auxiliary_heads():
    summary = summarize(create_abstract("yolov7-d6"))
    assert summary.flops / 1e9 == pytest.approx(806.8, rel=0.02)
    assert summary.parameters == pytest.approx(154.7e6, rel=0.001)
    assert summary.deploy_flops / 1e9 == pytest.approx(701.7, rel=0.001)


def test_operations_grow_with_the_image_and_parameters_do_not():
    small, large = (summarize(create_abstract("yolov7-tiny"), side) for side in (320, 640))
    assert large.deploy_flops == 4 * small.deploy_flops
    assert large.deploy_parameters == small.deploy_parameters
    assert (small.image_size, large.image_size) == (320, 640)


def test_a_deployed_model_has_no_numbers_for_training():
    model = create_abstract("yolov7-w6", 3, width=0.125)
    whole, deployed = summarize(model), summarize(deploy(model))
    assert deployed.parameters is None
    assert deployed.flops is None
    assert (deployed.deploy_parameters, deployed.deploy_flops, deployed.memory) == (
        whole.deploy_parameters,
        whole.deploy_flops,
        whole.memory,
    )


def test_the_memory_is_about_what_the_compiler_takes():
    model = deploy(create_abstract("yolov7-tiny"))
    graphdef, params, batch_stats = split(model)
    compiled = (
        jax.jit(lambda params, images: apply(graphdef, params, batch_stats, images, train=False))
        .lower(params, jax.ShapeDtypeStruct((1, 640, 640, 3), jnp.float32))
        .compile()
        .memory_analysis()
    )
    taken = compiled.temp_size_in_bytes + compiled.output_size_in_bytes
    taken += compiled.argument_size_in_bytes
    assert 0.67 < summarize(model).memory / taken < 1.5


def test_a_size_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"image_size \(=650\) must be a multiple of 32"):
        summarize(create_abstract("yolov7-tiny"), 650)
