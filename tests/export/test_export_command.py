"""`yolov7-jax export` as its users meet it."""

import json
import pathlib
import sys
import zipfile

import numpy as np
import onnx
import pytest
from export.small import NAMES, SIZE

from yolov7_jax import create, deploy
from yolov7_jax.cli import main
from yolov7_jax.export import stablehlo
from yolov7_jax.export import weights_file as weights_file_format
from yolov7_jax.export.export_config import ExportConfig
from yolov7_jax.export.export_metadata import describe_exported
from yolov7_jax.export.export_model import export_model
from yolov7_jax.export.verify import ExportError
from yolov7_jax.nn.blocks import silu
from yolov7_jax.weights import load_model, read_checkpoint, save_safetensors, to_official

CHECKPOINT = pathlib.Path(__file__).parent.parent / "golden" / "checkpoint"


@pytest.fixture(autouse=True)
def nothing_kept_for_the_next_start(monkeypatch):
    monkeypatch.setattr("yolov7_jax.compiled_programs.keep_compiled", lambda: None)


def export(weights, form, *options):
    size = ",".join(map(str, SIZE))
    arguments = ["--weights", str(weights), "--format", form, "--image-size", size, *options]
    return main(["export", *arguments])


def test_a_trained_checkpoint_becomes_detections_in_onnx(weights_file, tmp_path, capsys):
    out = tmp_path / "out.onnx"
    assert export(weights_file, "onnx", "--output", str(out)) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{out}: yolov7-tiny, training form, 3 classes")
    words = second.split()
    assert float(words[words.index("difference") + 1]) < 1e-4
    assert int(words[words.index("detections") - 1]) > 100
    proto = onnx.load(out)
    assert {x.key: x.value for x in proto.metadata_props}["names"] == json.dumps(
        NAMES, ensure_ascii=False
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


def test_a_trained_checkpoint_becomes_stablehlo_beside_it(weights_file, tmp_path, capsys):
    weights = tmp_path / "last.safetensors"
    weights.symlink_to(weights_file)
    assert export(weights, "stablehlo", "--score-threshold", "0.1", "--class-agnostic") == 0
    assert "detections compared" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "last.stablehlo") as archive:
        facts = json.loads(archive.read("metadata.json"))
    assert (facts["score_threshold"], facts["class_agnostic"]) == (0.1, True)
    assert facts["names"] == NAMES


@pytest.mark.parametrize("form", ["safetensors", "saved-pt"])
def test_weights_alone_are_the_deployed_ones_of_the_average_with_all_facts(form, tmp_path):
    source, out = CHECKPOINT / "yolov7-tiny-narrow.pt", tmp_path / "out"
    out = out.with_suffix({"safetensors": ".safetensors", "saved-pt": ".pt"}[form])
    checkpoint = read_checkpoint(source)
    assert checkpoint.ema is not None
    assert export(source, form, "--output", str(out)) == 0
    written, wanted = read_checkpoint(out), to_official(deploy(load_model(source)))
    assert written.tensors.keys() == wanted.keys()
    for key, array in wanted.items():
        np.testing.assert_array_equal(written.tensors[key], array, err_msg=key)
    assert written.names == checkpoint.names
    assert (written.activation, written.image_size) == ("LeakyReLU", max(SIZE))
    assert written.metadata["model"] == "yolov7-tiny"
    assert written.metadata["strides"] == [8, 16, 32]
    assert written.metadata["input"]["layout"] == "NCHW"


@pytest.mark.parametrize(
    "write", [weights_file_format.write_as_safetensors, weights_file_format.write_as_saved_pt]
)
def test_an_unusual_activation_and_width_come_back(write, tmp_path):
    model = deploy(create("yolov7-tiny", 1, width=0.1, activation=silu))
    write(model, ExportConfig(SIZE), describe_exported(model, None, 64), tmp_path / "out")
    again = load_model(tmp_path / "out")
    assert (again.activation, again.width, again.form) == (silu, 0.1, "deployed")


def test_a_file_is_replaced_only_when_told_to(weights_file, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    assert export(weights_file, "safetensors", "--output", str(out)) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert export(weights_file, "safetensors", "--output", str(out), "--force") == 0
    assert read_checkpoint(out).names == tuple(NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "no/such/out.onnx"], "there is no folder no/such"),
        (["--output", "out.pt"], "must end in .onnx"),
        (["--output", "folder.onnx"], "is a folder"),
        (["--image-size", "64,97"], "--image-size (=64,97): width must be a multiple of 32"),
        (["--image-size", "0"], "must be from 1 to 16384"),
        (["--batch", "0"], "--batch (=0) must be at least 1, or dynamic"),
        (["--score-threshold", "1.5"], "--score-threshold (=1.5) must be from 0 to below 1"),
        (["--iou-threshold", "-1", "--max-detections", "0"], "--max-detections (=0) must be"),
        (["--contents", "raw", "--score-threshold", "0.1"], "no use for --score-threshold"),
        (["--format", "saved-pt", "--batch", "2"], "saved-pt holds weights alone"),
        (["--weights", "nowhere.pt"], "--weights (=nowhere.pt): no such file"),
        (["--weights", "text.pt"], "text.pt"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    options, message, weights_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "text.pt").write_text("not weights at all")
    output = [] if "--output" in options or "saved-pt" in options else ["--output", "out.onnx"]
    assert export(weights_file, "onnx", *output, *options) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"folder.onnx", "text.pt"}


def test_the_weights_themselves_are_never_replaced(weights_file, capsys):
    before = weights_file.read_bytes()
    options = ["--output", str(weights_file), "--force"]
    assert export(weights_file, "safetensors", *options) == 2
    assert "is the file of weights itself" in capsys.readouterr().err
    assert weights_file.read_bytes() == before


@pytest.mark.parametrize("option", [["--image-size", "big"], ["--batch", "some"]])
def test_options_that_are_no_numbers_are_refused(option, weights_file, capsys):
    assert export(weights_file, "onnx", *option) == 2
    assert f"{option[1]!r} must be a number" in capsys.readouterr().err


def test_without_the_extra_the_error_names_it(weights_file, monkeypatch, capsys):
    for name in list(sys.modules):
        if name.startswith("yolov7_jax.export.onnx"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export(weights_file, "onnx") == 2
    assert "pip install 'yolov7-jax[export]'" in capsys.readouterr().err


def test_a_file_that_computes_something_else_is_not_kept(model, tmp_path):
    path = tmp_path / "out.stablehlo"
    path.write_text("precious")

    def write(deployed, settings, facts, path):
        for level in deployed.detect.levels:
            level.bias[...] = level.bias[...] + 0.01
        stablehlo.write(deployed, settings, facts, path)

    with pytest.raises(ExportError, match=r"out.stablehlo was not written: .* off by"):
        export_model(
            model, path, ExportConfig(SIZE, contents="decoded"), write=write, load=stablehlo.load
        )
    assert path.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out.stablehlo"]


def test_weights_of_a_diverged_run_are_refused(tmp_path, capsys):
    model = create("yolov7-tiny", 2, width=0.125)
    model.detect.levels[0].bias[...] = np.nan
    save_safetensors(model, tmp_path / "a.safetensors")
    assert export(tmp_path / "a.safetensors", "onnx") == 2
    assert "not finite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
