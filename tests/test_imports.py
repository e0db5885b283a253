"""Imports run one way, and the core needs nothing but its five dependencies."""

import ast
import pathlib
import sys
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LIBRARY, APPLICATION = "yolov7_jax", "train"

# A module may import from its own layer and from those before it.
LAYERS = (
    ("types", "config", "errors", "files"),
    ("boxes", "image", "metrics", "matching", "curves", "confusion", "sharding", "targets"),
    ("drawing", "data"),
    ("nn", "candidates", "gather", "assign", "decode", "nms"),
    ("losses", "model"),
    ("deploy", "inference"),
    ("summary", "weights", "evaluation"),
    ("page", "predict", "frames", "coco_file", "export"),
    ("save",),
    ("cli",),
    ("__main__",),
)
CORE_PACKAGES = {"jax", "flax", "numpy", "chex", "jaxtyping"}
GUARDED_PACKAGES = {  # behind an extra: imported inside a function, or inside try
    "image": {"cv2"},
    "metrics": {"hotcoco"},
    "predict": {"cv2"},
    "weights": {"orbax"},
    "export": {"onnx", "onnxruntime"},
    "data": {"cv2", "hotcoco", "tqdm", "yaml"},
    "evaluation": {"tqdm"},
    "frames": {"cv2"},
    "save": {"cv2"},
    "cli": {"tqdm"},
    "drawing": {"cv2"},
    "page": {"cv2"},
}
WITHOUT_NETWORKS = {"candidates", "gather", "assign", "decode", "nms", "losses", "boxes", "targets"}


class Import(NamedTuple):
    name: str  # the full name of a module, or of something in one
    guarded: bool  # inside of a function or of try


def sources(package):
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path):
    """`yolov7_jax.nn.head` for yolov7_jax/nn/head.py; a package for its __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Try)
        for node in ast.walk(outer)
    }
    found = []
    for node in ast.walk(tree):
        guarded = id(node) in inside
        if isinstance(node, ast.Import):
            found += [Import(alias.name, guarded) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            found += [Import(f"{node.module}.{alias.name}", guarded) for alias in node.names]
    return found


def part_of(name):
    """The part of the library that a full name lies in: `nn` for yolov7_jax.nn.head."""
    return [*name.split("."), ""][1]


def layer_of(part):
    (layer,) = [number for number, parts in enumerate(LAYERS) if part in parts]
    return layer


library = pytest.mark.parametrize(
    "path",
    [path for path in sources(LIBRARY) if name_of(path) != LIBRARY],
    ids=name_of,
)


@library
def test_every_part_of_the_library_has_a_layer(path):
    part = part_of(name_of(path))
    assert any(part in parts for parts in LAYERS), f"give {part} a place in LAYERS"


@library
def test_library_imports_only_its_own_layer_and_those_before(path):
    own = part_of(name_of(path))
    inner = [one.name for one in imports_of(path) if one.name.split(".")[0] == LIBRARY]
    parts = {part_of(name) for name in inner} - {own}
    # Not through the package itself, which imports everything.
    assert {part for part in parts if not any(part in layer for layer in LAYERS)} <= {"__version__"}
    parts -= {"__version__"}
    assert {part for part in parts if layer_of(part) > layer_of(own)} == set()
    if own in WITHOUT_NETWORKS:
        assert "nn" not in parts
        assert "model" not in parts


def test_parts_of_one_layer_do_not_import_each_other_in_circles():
    imports = {}
    for path in sources(LIBRARY):
        own = part_of(name_of(path))
        parts = {
            part_of(one.name)
            for one in imports_of(path)
            if own and one.name.startswith(f"{LIBRARY}.")
        }
        imports[own] = imports.get(own, set()) | (parts - {own})
    while leaves := [part for part, needed in imports.items() if not needed & imports.keys()]:
        for part in leaves:
            del imports[part]
    assert not imports


@pytest.mark.parametrize("path", sources(LIBRARY), ids=name_of)
def test_library_never_imports_the_application(path):
    assert not [one for one in imports_of(path) if one.name.split(".")[0] == APPLICATION]


@pytest.mark.parametrize("path", sources(LIBRARY), ids=name_of)
def test_core_needs_only_its_dependencies_and_guards_those_of_extras(path):
    allowed = CORE_PACKAGES | {LIBRARY} | sys.stdlib_module_names
    foreign = [one for one in imports_of(path) if one.name.split(".")[0] not in allowed]
    extras = GUARDED_PACKAGES.get(part_of(name_of(path)), set())
    assert {one.name.split(".")[0] for one in foreign} <= extras
    # The __init__ of a package may guard for all its modules.
    guarding = {one.name.split(".")[0] for one in imports_of(path.parent / "__init__.py")}
    assert all(one.guarded or one.name.split(".")[0] in guarding for one in foreign)


def test_application_imports_the_library_by_existing_names():
    names = {name_of(path) for path in sources(LIBRARY)}
    for path in sources(APPLICATION):
        for one in imports_of(path):
            if one.name.split(".")[0] == LIBRARY:
                assert one.name in names or one.name.rpartition(".")[0] in names
