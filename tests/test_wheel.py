"""The wheel, installed into empty environments outside the checkout, does what README says."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from compiling import QUICK_FLAGS

ROOT = pathlib.Path(__file__).parents[1]
QUICK = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_FLAGS}

pytestmark = pytest.mark.slow


def uv(*arguments):
    program = shutil.which("uv", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "this test needs uv"
    # That of the user, and not the empty one that tests have: packages are downloaded once.
    own_cache = {key: value for key, value in os.environ.items() if key != "XDG_CACHE_HOME"}
    subprocess.run([program, *map(str, arguments)], check=True, cwd=ROOT, env=own_cache)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--quiet", "--wheel", "--out-dir", folder)
    return next(folder.glob("*.whl"))


@pytest.fixture
def installed(wheel, tmp_path):
    """Installs the wheel with extras, and returns what runs a program of that environment."""

    def install(extras=""):
        uv("venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
        python = tmp_path / "venv/bin/python"
        options = ("--quiet", "--compile-bytecode", "--python", python)
        uv("pip", "install", *options, f"{wheel}{extras}")
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= QUICK
        environment |= {name: str(tmp_path / "home") for name in ("HOME", "XDG_CACHE_HOME")}

        def run(program, *arguments, codes=(0,)):
            done = subprocess.run(
                [tmp_path / "venv/bin" / program, *map(str, arguments)],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env=environment,
            )
            assert done.returncode in codes, (program, arguments, done.stdout, done.stderr)
            return done.stdout + done.stderr

        return run

    return install


def test_without_extras_the_library_and_info_work_and_the_others_say_what_to_install(
    installed, tmp_path
):
    run = installed()
    for path in ("a.jpg", "a.pt", "a.yaml"):
        (tmp_path / path).touch()
    imports = "from yolov7_jax import create, detection_loss; from yolov7_jax.training import Rates"
    run("python", "-c", imports)
    assert "6.2" in run("yolov7-jax", "info", "--model", "yolov7-tiny")
    for verb, rest, extra in (
        ("train", ["--recipe", "demo"], "train"),
        ("predict", ["a.jpg", "--weights", "a.pt"], "images"),
        ("val", ["--data", "a.yaml", "--weights", "a.pt"], "images"),
    ):
        said = run("yolov7-jax", verb, *rest, codes=(2,))
        assert f"pip install 'yolov7-jax[{extra}]'" in said


def test_with_the_extra_train_all_verbs_and_a_loop_of_your_own_run(installed, tmp_path):
    run = installed("[export,train]")
    small = ("--epochs", 1, "--width", 0.25, "--image-size", 64, "--batch-size", 16)
    stopped = run("yolov7-jax", "train", "--recipe", "demo", *small, "--max-hours", 1e-6)
    assert "continue: yolov7-jax resume runs/demo" in stopped
    resumed = run("yolov7-jax", "resume", "runs/demo", "--max-hours", 1)
    assert "runs/demo/report.html" in resumed
    assert (tmp_path / "runs/demo/report.html").stat().st_size > 10_000
    (data,) = tmp_path.glob("home/**/data.yaml")
    assert "AP50" in run("yolov7-jax", "val", "--weights", "runs/demo", "--data", data, "--report")
    images = sorted(data.parent.rglob("*.jpg"))[:2]
    assert "2 images" in run("yolov7-jax", "predict", *images, "--weights", "runs/demo")
    for form, name in (("onnx", "demo.onnx"), ("stablehlo", "demo.stablehlo")):
        assert "loaded back" in run(
            "yolov7-jax", "export", "--weights", "runs/demo", "--format", form
        )
        assert (tmp_path / "runs" / name).is_file()
    loop = (ROOT / "train/own_loop.py").read_text()  # a copy, of which two epochs will do here
    (tmp_path / "own_loop.py").write_text(
        loop.replace(
            "EPOCHS, MAX_OBJECTS, WIDTH = 64, 16, 20, 10",
            "EPOCHS, MAX_OBJECTS, WIDTH = 64, 16, 4, 2",
        )
    )
    assert "epoch 2: loss" in run("python", tmp_path / "own_loop.py")
    assert (tmp_path / "own.safetensors").is_file()
