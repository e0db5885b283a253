"""The launch scripts are shell that can be read; tests/test_readme.py looks at their commands."""

import pathlib
import shutil
import subprocess

import pytest

SCRIPTS = sorted((pathlib.Path(__file__).parents[2] / "train" / "pods").iterdir())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid_shell(path):
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)
