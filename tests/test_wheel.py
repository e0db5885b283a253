"""The wheel, installed into empty environments outside the checkout, does what README says."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# Compiling is most of the time here.
QUICK = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

pytestmark = pytest.mark.slow


def uv(*arguments):
    program = shutil.which("uv", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "this test needs uv"
    subprocess.run([program, *map(str, arguments)], check=True, cwd=ROOT)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--quiet", "--wheel", "--out-dir", folder)
    return next(folder.glob("*.whl"))


@pytest.fixture
def installed(wheel, tmp_path):
    """Installs the wheel with extras, and returns what runs a program of that environment."""

    def install(extras=""):
        uv("venv", "--quiet", "--python", PYTHON, tmp_path / "venv")
        python = tmp_path / "venv/bin/python"
        uv("pip", "install", "--quiet", "--python", python, f"{wheel}{extras}")
        cleared = {
            key: value
            for key, value in os.environ.items()
            if key not in ("PYTHONPATH", "XLA_FLAGS")
        }

        def run(program, *arguments, codes=(0,)):
            done = subprocess.run(
                [tmp_path / "venv/bin" / program, *map(str, arguments)],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env=cleared
                | QUICK
                | {name: str(tmp_path / "home") for name in ("HOME", "XDG_CACHE_HOME")},
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
