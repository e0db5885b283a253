"""Runs the code of a documentation page in a process that cannot import the library."""

import os
import pathlib
import re
import subprocess
import sys

PAGE = pathlib.Path(__file__).parent.parent.parent / "docs" / "export.md"
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(f"a consumer must not need {{name}}")

sys.meta_path.insert(0, Blocked())
"""


def blocks(heading):
    """The blocks of Python under a heading of the page."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def run_without(packages, code, folder):
    """Runs code in a folder, where some packages cannot be imported; returns what it prints."""
    program = BLOCKED.format(blocked=set(packages)) + code
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
