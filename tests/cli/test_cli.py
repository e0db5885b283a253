"""The command line as its users meet it."""

import importlib
import pathlib
import shlex
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from jax.errors import JaxRuntimeError

from yolov7_jax import __version__, create
from yolov7_jax.cli import VERBS, main
from yolov7_jax.weights import load_model, read_checkpoint, save_safetensors, to_official

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "checkpoint"
TINY = str(GOLDEN / "yolov7-tiny-narrow.pt")


def test_info_has_a_line_for_every_model(capsys):
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("yolov7")}
    assert rows["yolov7"][:5] == ["37.62", "36.91", "105.8", "104.5", "640"]
    assert rows["yolov7-e6e"][:5] == ["166.41", "151.69", "915.9", "842.2", "1280"]
    assert len(rows) == 7


def test_info_of_one_model_at_another_size(capsys):
    assert main(["info", "--model", "yolov7-tiny", "--image-size", "320"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("yolov7")]
    assert [row.split()[:6] for row in rows] == [
        ["yolov7-tiny", "6.23", "6.22", "3.4", "3.4", "320"]
    ]


def test_info_tells_what_a_file_holds(capsys):
    assert main(["info", "--weights", TINY]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for expected in (
        "model: yolov7-tiny, training form",
        "width: 0.125",
        "activation: LeakyReLU",
        "classes: 2 (cat, dog)",
        "anchors: 10x13 16x30 33x23; 30x61",
        "epoch: 3",
        "tensors: 344 (289 float16, 55 int64)",
        "moving average: yes",
    ):
        assert expected in printed


def test_convert_writes_what_the_file_held(tmp_path, capsys):
    target = tmp_path / "out.safetensors"
    assert main(["convert", TINY, str(target)]) == 0
    assert "read back and equal" in capsys.readouterr().out
    given, written = read_checkpoint(TINY), read_checkpoint(target)
    assert written.tensors.keys() == given.weights.keys()
    for key, value in given.weights.items():
        np.testing.assert_array_equal(written.tensors[key], value, err_msg=key)
    assert (written.names, written.epoch) == (("cat", "dog"), 3)


def test_convert_can_deploy(tmp_path):
    target = tmp_path / "out.safetensors"
    assert main(["convert", "--deploy", TINY, str(target)]) == 0
    assert load_model(target).form == "deployed"
    assert not any(".bn." in key for key in read_checkpoint(target).tensors)


def test_convert_replaces_a_file_only_when_told_to(tmp_path, capsys):
    target = tmp_path / "out.safetensors"
    target.write_text("precious")
    assert main(["convert", TINY, str(target)]) == 2
    assert "--force" in capsys.readouterr().err
    assert target.read_text() == "precious"
    assert main(["convert", "--force", TINY, str(target)]) == 0
    assert to_official(load_model(target)).keys() == read_checkpoint(TINY).weights.keys()


def test_convert_does_not_replace_the_weights_themselves(tmp_path, capsys):
    source = tmp_path / "run.safetensors"
    save_safetensors(create("yolov7-tiny", 2, width=0.125), source)
    before = source.read_bytes()
    assert main(["convert", "--deploy", str(source), str(source), "--force"]) == 2
    assert "run.safetensors: is the file of weights itself; give another" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_info_of_a_file_is_about_images_as_in_its_training(tmp_path, capsys):
    path = str(tmp_path / "a.safetensors")
    save_safetensors(create("yolov7-tiny", 2, width=0.125), path, image_size=192)

    def pixels(*arguments):
        assert main(["info", "--weights", path, *arguments]) == 0
        return capsys.readouterr().out.splitlines()[-3].split()[5]

    assert pixels() == "192"
    assert pixels("--image-size", "320") == "320"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: VERB; see yolov7-jax --help"),
        (["trian"], "there is no 'trian' (did you mean train?); the verbs are train, resume, "),
        (["predict", "x"], "arguments are required: --weights; see yolov7-jax predict --help"),
        (["predict", "--weights", "x"], "arguments are required: SOURCE; see"),
        (["val", "--weigths", "x"], "there is no --weigths (did you mean --weights?); see"),
        (["info", "--image_size=3"], "there is no --image_size (did you mean --image-size?); see"),
        (["convert", "--onnx", "a", "b"], "there is no --onnx; see yolov7-jax convert --help"),
        (["info", "-x"], "unrecognized arguments: -x"),
        (["info", "--model", "yolov8"], "invalid choice: 'yolov8'"),
        (["check", "--data", "demo", "--show", "-1"], "--show (=-1) must be at least 0"),
    ],
)
def test_wrong_flags_are_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("verb", VERBS)
def test_a_help_page_explains_every_flag_and_ends_with_two_examples_that_would_run(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    page, examples = capsys.readouterr().out.split("examples:\n")
    flags = [row.strip() for row in page.splitlines() if row.startswith("  -")]
    assert flags
    for row, following in zip(page.splitlines(), [*page.splitlines()[1:], ""], strict=True):
        if row.startswith("  -"):
            assert "  " in row.strip() or following.startswith(" " * 10), row
    lines = [shlex.split(line) for line in examples.splitlines()]
    assert len(lines) == 2
    for program, name, *arguments in lines:
        assert (program, name) == ("yolov7-jax", verb)
        importlib.import_module(f"yolov7_jax.cli.{verb}").make_parser(arguments).parse(arguments)


def test_the_first_help_page_has_a_line_for_each_verb(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    rows = [row.split() for row in capsys.readouterr().out.splitlines() if row.startswith("  ")]
    assert {row[0] for row in rows} >= set(VERBS)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["trian"], ["train", "--help"], ["val", "--help"], ["export", "--help"]),
        *(["resume", "gone"], ["train", "--data", "gone.yaml"], ["check", "--data", "gone"]),
        *(["predict", "x.jpg", "--weights", "gone.pt"], ["info", "--weights", "gone.pt"]),
        ["export", "--weights", "gone.pt", "--format", "onnx"],
    ],
    ids=" ".join,
)
def test_help_a_typo_and_a_missing_path_answer_without_what_is_slow_to_load(arguments):
    code = (
        "import sys; from yolov7_jax.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "slow = {'jax', 'flax', 'cv2', 'numpy', 'optax', 'grain'} & sys.modules.keys()\n"
        "sys.exit(f'loaded {slow}' if slow else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("error", [ValueError("mine"), KeyError("x"), OSError("odd")])
def test_a_fault_of_the_program_is_a_traceback_and_exit_code_1(error, capsys, monkeypatch):
    monkeypatch.setattr("yolov7_jax.cli.info.run", mock.Mock(side_effect=error))
    assert main(["info"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "extra"), [("val", "images"), ("train", "train")])
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    verb, extra, capsys, monkeypatch
):
    missing = ModuleNotFoundError("No module named 'thing'", name="thing")
    monkeypatch.setattr(f"yolov7_jax.cli.{verb}.run", mock.Mock(side_effect=missing))
    assert main([verb, "--weights", TINY, "--data", "demo"]) == 2
    told = f"error: {verb} needs thing: pip install 'yolov7-jax[{extra}]'\n"
    assert capsys.readouterr().err == told


def test_the_beginning_of_a_flag_will_do(capsys):
    assert main(["info", "--mod", "yolov7-tiny", "--image", "320"]) == 0
    assert "yolov7-tiny" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "--weights", "nowhere.pt"], "--weights (=nowhere.pt): no such file or folder"),
        (["info", "--weights", "."], "holds no checkpoint"),
        (["info", "--model", "yolov7", "--image-size", "650"], "--image-size (=650)"),
        (["convert", TINY, "out.pt"], "must end in .safetensors"),
        (["convert", TINY, "no/such/folder/out.safetensors"], "there is no folder no/such/folder"),
        (["info", "--weights", ""], "--weights must not be empty"),
        (["convert", "text.pt", "out.safetensors"], "text.pt"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("text.pt").write_text("not weights at all")
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["text.pt"]


def test_weights_of_a_diverged_run_can_be_converted(tmp_path):
    model = create("yolov7-tiny", 2, width=0.125)
    model.detect.levels[0].bias[...] = np.nan
    save_safetensors(model, tmp_path / "a.safetensors")
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]) == 0
    written = read_checkpoint(tmp_path / "b.safetensors").tensors["model.77.m.0.bias"]
    assert np.isnan(written).all()


def test_names_from_a_file_cannot_steer_the_terminal(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    model = create("yolov7-tiny", 2, width=0.125)
    save_safetensors(model, path, names=["\x1bcX", "b\nmodel: yolov9"])
    assert main(["info", "--weights", str(path)]) == 0
    printed = capsys.readouterr().out
    assert r"2 (\x1bcX, b\nmodel: yolov9)" in printed


@pytest.mark.parametrize("error", [MemoryError(), JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB")])
def test_too_little_memory_is_one_line(error, capsys, monkeypatch):
    monkeypatch.setattr("yolov7_jax.cli.info.run", mock.Mock(side_effect=error))
    assert main(["info", "--weights", TINY]) == 1
    assert capsys.readouterr().err.startswith("error: this needs more memory than there is; ")


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m yolov7_jax info --model yolov7-tiny | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "parameters" in done.stdout


def test_the_installed_command_runs_as_a_process():
    command = shutil.which("yolov7-jax", path=str(pathlib.Path(sys.executable).parent))
    assert command, "the package is not installed"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"yolov7-jax {__version__}\n"
