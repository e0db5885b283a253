"""StableHLO and ONNX files give what the model gives, for every kind of contents."""

import json

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from export.consumer import blocks, run_without
from export.small import NAMES, SIZE

from yolov7_jax import deploy
from yolov7_jax.data.letterbox import letterbox
from yolov7_jax.export import stablehlo
from yolov7_jax.export.export_config import ExportConfig
from yolov7_jax.export.export_metadata import describe_exported
from yolov7_jax.export.onnx import onnx_file
from yolov7_jax.export.program import program_of
from yolov7_jax.export.verify import compare_detections, compare_outputs, sample_images

THRESHOLD = 0.1  # many candidates pass
BATCHES = (1, 3, 4)
FORMATS = {"stablehlo": stablehlo, "onnx": onnx_file}


@pytest.fixture(scope="module")
def images():
    return sample_images(max(BATCHES), SIZE)


@pytest.fixture(scope="module")
def wanted(model, images):
    """What the model gives before it is deployed, by contents."""
    results = {}
    for contents in ("raw", "decoded"):
        program, arguments = program_of(model, ExportConfig(SIZE, contents=contents))
        results[contents] = jax.device_get(jax.jit(program)(arguments, images))
    return results


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """Paths of files with any number of images, by (format, contents)."""
    folder = tmp_path_factory.mktemp("exported")
    facts = describe_exported(model, NAMES, max(SIZE))
    paths = {}
    for name, form in FORMATS.items():
        for contents in ("raw", "decoded", "detections"):
            path = paths[name, contents] = folder / f"{contents}.{name}"
            form.write(deploy(model), settings(contents), facts, path)
    return paths


def settings(contents):
    return ExportConfig(SIZE, contents=contents, score_threshold=THRESHOLD)


def first(results, count):
    return {name: array[:count] for name, array in results.items()}


@pytest.mark.parametrize("contents", ["raw", "decoded"])
@pytest.mark.parametrize("form", FORMATS)
def test_any_number_of_images_gives_what_the_model_gives(form, contents, files, wanted, images):
    run = FORMATS[form].load(files[form, contents], settings(contents))
    for count in (1, 4):
        found = run(images[:count], None)
        assert compare_outputs(found, first(wanted[contents], count)).difference < 1e-5


@pytest.mark.parametrize("form", FORMATS)
def test_detections_are_those_of_the_model(form, files, wanted, images):
    run = FORMATS[form].load(files[form, "detections"], settings("detections"))
    decoded = wanted["decoded"]
    strength = np.minimum(decoded["objectness"], decoded["scores"].max(axis=2))
    candidates = (strength > THRESHOLD).sum(axis=1)
    for count in BATCHES:
        found = run(images[:count], None)
        compared = compare_detections(
            found, first(decoded, count), settings("detections"), THRESHOLD
        )
        assert compared.difference < 1e-5
        kept = found["valid"].sum(axis=1)
        assert (kept > 10).all()  # or else nothing was put to the test
        assert (kept < candidates[:count]).all()


def test_both_formats_have_the_same_detections_in_the_same_order(files, images):
    first, second = (
        form.load(files[name, "detections"], settings("detections"))(images, None)
        for name, form in FORMATS.items()
    )
    assert first.keys() == second.keys()
    np.testing.assert_array_equal(first["labels"], second["labels"])
    np.testing.assert_array_equal(first["valid"], second["valid"])
    np.testing.assert_allclose(first["scores"], second["scores"], atol=1e-5)
    np.testing.assert_allclose(first["boxes_xyxy"], second["boxes_xyxy"], atol=1e-2)


@pytest.mark.parametrize("form", FORMATS)
def test_a_fixed_number_of_images_is_all_that_is_taken(form, model, tmp_path):
    fixed = ExportConfig(SIZE, batch=3, contents="decoded")
    path = tmp_path / "fixed"
    FORMATS[form].write(deploy(model), fixed, describe_exported(model, NAMES, 96), path)
    run = FORMATS[form].load(path, fixed)
    assert len(run(sample_images(3, SIZE), None)["scores"]) == 3
    with pytest.raises(Exception, match=r"[Dd]imension|shape"):
        run(sample_images(2, SIZE), None)


def test_a_program_of_stablehlo_runs_on_every_platform(files):
    with stablehlo.zipfile.ZipFile(files["stablehlo", "detections"]) as archive:
        program = jax.export.deserialize(bytearray(archive.read("program.bin")))
    assert program.platforms == ("cpu", "cuda", "tpu")


def test_metadata_travel_with_programs(files):
    with stablehlo.zipfile.ZipFile(files["stablehlo", "detections"]) as archive:
        of_stablehlo = json.loads(archive.read("metadata.json"))
    session = onnxruntime.InferenceSession(files["onnx", "detections"])
    texts = session.get_modelmeta().custom_metadata_map
    of_onnx = {
        key: text
        if key in ("model", "activation", "contents", "yolov7_jax", "batch")
        else json.loads(text)
        for key, text in texts.items()
    }
    for facts in (of_stablehlo, of_onnx):
        assert facts["names"] == NAMES
        assert facts["model"] == "yolov7-tiny"
        assert facts["strides"] == [8, 16, 32]
        assert facts["anchors"][0][0] == [10, 13]
        assert facts["image_size"] == 96
        assert (facts["contents"], facts["batch"]) == ("detections", "dynamic")
        assert (facts["score_threshold"], facts["iou_threshold"]) == (THRESHOLD, 0.45)
        assert (facts["max_detections"], facts["class_agnostic"]) == (300, False)
        assert facts["yolov7_jax"]
        assert (facts["input"]["height"], facts["input"]["width"]) == SIZE
        assert facts["input"]["channels"] == "RGB"
    assert (of_stablehlo["input"]["dtype"], of_onnx["input"]["dtype"]) == ("uint8", "float32")
    assert (of_stablehlo["input"]["range"], of_onnx["input"]["range"]) == ([0, 255], [0, 1])


def test_the_graph_is_convolutions_without_transposes_between(files):
    proto = onnx.load(files["onnx", "decoded"])
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("Conv") == 58
    assert kinds.count("LeakyRelu") == 55
    assert kinds.count("Transpose") == 3  # one for each level, behind the last convolution
    names = {constant.name for constant in proto.graph.initializer}
    assert {"model.0.conv.weight", "model.77.m.2.bias"} <= names
    assert proto.opset_import[0].version == 17


def test_the_loader_of_the_documentation_needs_jax_alone(files, wanted, images, tmp_path):
    (tmp_path / "best.stablehlo").symlink_to(files["stablehlo", "detections"])
    np.save(tmp_path / "images.npy", images[:3])
    loader, use = blocks("StableHLO")
    assert len([line for line in loader.splitlines() if line]) <= 12
    code = "import numpy\nimages = numpy.load('images.npy')\n"
    code += loader + use
    code += "numpy.savez('found.npz', **found)\nprint(ascii(metadata['names']), len(boxes))"
    printed = run_without(("yolov7_jax", "flax", "jaxtyping"), code, tmp_path)
    check_consumer(printed, tmp_path, wanted)


def test_the_script_of_the_documentation_needs_onnxruntime_alone(files, wanted, images, tmp_path):
    (tmp_path / "best.onnx").symlink_to(files["onnx", "detections"])
    np.save(tmp_path / "images.npy", (images[:3] / np.float32(255)).transpose(0, 3, 1, 2))
    (script,) = blocks("ONNX")
    code = "import numpy\n"
    code += "images = numpy.load('images.npy').astype('float32')\n" + script
    code += "outputs = dict(boxes_xyxy=boxes, scores=scores, labels=labels, valid=valid)\n"
    code += "numpy.savez('found.npz', **outputs)\nprint(ascii(names), valid[0].sum())"
    printed = run_without(("yolov7_jax", "jax", "flax", "onnx"), code, tmp_path)
    check_consumer(printed.splitlines()[-1], tmp_path, wanted)
    assert printed.splitlines()[0].startswith(tuple(NAMES))


def check_consumer(printed, folder, wanted):
    with np.load(folder / "found.npz") as found:
        found = dict(found)
    compare_detections(found, first(wanted["decoded"], 3), settings("detections"), THRESHOLD)
    assert printed.strip() == f"{NAMES!a} {found['valid'][0].sum()}"


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (30, 20), (100, 500), (96, 64)])
def test_the_letterbox_of_the_page_is_that_of_the_library(size):
    code = {}
    exec(blocks("What programs take and give")[0], code)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    fitted, back = code["letterbox"](image, 96, 64)
    wanted, info = letterbox(image, (96, 64))
    np.testing.assert_array_equal(fitted, wanted)
    box = np.asarray([[1, 2, 15, 18]], np.float32)
    placed = box * np.tile(info.scale_xy, 2) + np.tile(info.pad_xy, 2)
    np.testing.assert_allclose(back(placed), box, atol=1e-3)
