"""Imports run one way, as the table in docs/architecture.md says; errors tell of the extras."""

import ast
import collections
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CORE = {"flax", "jax", "jaxtyping", "numpy", "safetensors"}
WITH_FLAX = {"absl", "optax", "orbax", "yaml"}  # which cannot be imported without them
TABLE = re.findall(
    r"^\| \d+ \| ([^|]*)\| [^|]*\| ([^|]*)\| ([^|]*)\|$",
    (ROOT / "docs/architecture.md").read_text(),
    re.MULTILINE,
)
QUOTED = re.compile(r"`([\w.]+)`")
LAYER = {  # of each part
    part: layer for layer, (parts, _, _) in enumerate(TABLE) for part in QUOTED.findall(parts)
}
PACKAGES = {
    part: set(QUOTED.findall(packages)) | CORE
    for parts, packages, _ in TABLE
    for part in QUOTED.findall(parts)
}
EXTRAS = {
    part: QUOTED.findall(extras) for parts, _, extras in TABLE for part in QUOTED.findall(parts)
}
PUBLIC = {"batch", "mesh", "schedule", "state", "step"}  # of `training`
MOST_LINES = 400

# Imports every module where no package of an extra can be imported.
WITHOUT_EXTRAS = """
import importlib, json, sys
modules, blocked = json.loads(sys.stdin.read())
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
errors = {}
for module in modules:
    try:
        importlib.import_module(module)
    except ImportError as error:
        errors[module] = str(error)
print(json.dumps(errors))
"""


def name_of(path):
    """`yolov7_jax.nn.head` for yolov7_jax/nn/head.py; a package for its __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """The full names of modules, or of something in one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(name):
    """`nn` for yolov7_jax.nn.head, and none for the package itself."""
    return name.split(".")[1] if "." in name else ""


FILES = sorted((ROOT / "yolov7_jax").rglob("*.py"))
INSIDE = [path for path in FILES if part_of(name_of(path)) not in ("", "__main__")]
of_the_package = pytest.mark.parametrize("path", INSIDE, ids=name_of)


def test_the_table_has_every_part_once():
    listed = [part for parts, _, _ in TABLE for part in QUOTED.findall(parts)]
    assert sorted(listed) == sorted({part_of(name_of(path)) for path in INSIDE})


@of_the_package
def test_a_part_imports_its_own_layer_and_those_before(path):
    own = part_of(name_of(path))
    for name in imports_of(path):
        if name.split(".")[0] == "train":
            pytest.fail("nothing in the package knows what people copy")
        if name.split(".")[0] == "yolov7_jax":
            part = part_of(name)
            if part not in LAYER:  # a public name of the package, which needs all up to `weights`
                assert part == "__version__" or LAYER[own] > LAYER["weights"], name
            else:
                assert LAYER[part] <= LAYER[own], name


def test_parts_of_one_layer_do_not_import_each_other_in_circles():
    imports = collections.defaultdict(set)
    for path in INSIDE:
        own = part_of(name_of(path))
        imports[own] |= {part_of(n) for n in imports_of(path) if n.startswith("yolov7_jax.")}
        imports[own] &= {part for part in LAYER if LAYER[part] <= LAYER[own]} - {own}
    while leaves := [part for part, needed in imports.items() if not needed & imports.keys()]:
        for part in leaves:
            del imports[part]
    assert not imports


@of_the_package
def test_a_part_imports_the_packages_of_its_layer_alone(path):
    foreign = {name.split(".")[0] for name in imports_of(path)} - sys.stdlib_module_names
    assert foreign - {"yolov7_jax"} <= PACKAGES[part_of(name_of(path))]


def public(name):
    """All modules but those of the training loop, which are behind its commands."""
    if name == "yolov7_jax.cli.training_program":
        return False
    return part_of(name) != "training" or name.count(".") == 1 or name.split(".")[2] in PUBLIC


def test_without_extras_all_imports_or_names_the_command_that_installs_what_is_missing():
    blocked = set().union(*PACKAGES.values()) - CORE - WITH_FLAX
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS],
        input=json.dumps((list(filter(public, map(name_of, INSIDE))), sorted(blocked))),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    faults = {
        module: error
        for module, error in json.loads(done.stdout).items()
        if not any(
            f"pip install 'yolov7-jax[{extra}]'" in error
            for extra in EXTRAS.get(part_of(module), ())
        )
    }
    assert not faults


def test_what_people_copy_uses_the_public_package_alone():
    for path in sorted((ROOT / "train").glob("*.py")):
        for name in imports_of(path):
            assert not any(word.startswith("_") for word in name.split(".")), name
            assert path.name == "__main__.py" or part_of(name) != "cli", name


def test_no_two_files_share_a_name():
    """But for those of `cli`, which are named as the commands."""
    names = collections.Counter(path.name for path in FILES if path.parent.name != "cli")
    del names["__init__.py"]
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("folder", ["yolov7_jax", "train", "benchmarks"])
def test_files_are_about_one_thing(folder):
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}
