"""All models, as StableHLO and as ONNX."""

import gc

import jax
import pytest
from golden_model import varied

from yolov7_jax import create, deploy
from yolov7_jax.export import stablehlo
from yolov7_jax.export.export_config import ExportConfig
from yolov7_jax.export.export_metadata import describe_exported
from yolov7_jax.export.onnx import onnx_file
from yolov7_jax.export.program import program_of
from yolov7_jax.export.verify import (
    compare_detections,
    compare_outputs,
    lower_threshold,
    sample_images,
)
from yolov7_jax.model import ARCHITECTURES

SIZE = (64, 128)
DECODED = ExportConfig(SIZE, contents="decoded")
DETECTIONS = ExportConfig(SIZE, contents="detections")


@pytest.fixture(autouse=True)
def leave_no_gigabytes_behind():
    yield
    jax.clear_caches()
    gc.collect()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_computes_the_same_everywhere(name, tmp_path):
    model = varied(create(name, 3, width=1 if name == "yolov7-tiny" else 0.125))
    model.eval()
    images = sample_images(2, SIZE)
    program, arguments = program_of(model, DECODED)
    wanted = jax.device_get(jax.jit(program)(arguments, images))
    threshold = lower_threshold(wanted)
    deployed, facts = deploy(model), describe_exported(model, None, max(SIZE))

    def run(form, settings, score_threshold=None):
        path = tmp_path / "exported"
        form.write(deployed, settings, facts, path)
        found = form.load(path, settings)(images, score_threshold)
        path.unlink()
        return found

    for form in (onnx_file, stablehlo):
        assert compare_outputs(run(form, DECODED), wanted).difference < 1e-3
        # What follows in StableHLO is one function of the decoded boxes, of three levels or four.
        if form is onnx_file or name in ("yolov7-tiny", "yolov7-w6"):
            found = run(form, DETECTIONS, threshold)
            compared = compare_detections(found, wanted, DETECTIONS, threshold)
            assert compared.difference < 1e-3
            assert compared.detections > 20
