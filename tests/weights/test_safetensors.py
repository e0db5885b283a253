import json
import struct
import sys

import ml_dtypes
import numpy as np
import pytest

from yolov7_jax.weights.checkpoint import CheckpointError
from yolov7_jax.weights.safetensors_file import DTYPES, read_safetensors, write_safetensors

TENSORS = {"model.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_type_survives_both_ways(path, dtype):
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    write_safetensors({"x": values, "scalar": values[0, 1]}, path, {})
    found = read_safetensors(path).tensors
    assert found["x"].dtype == found["scalar"].dtype == dtype
    assert (found["x"] == values).all()
    assert found["scalar"].shape == ()
    assert not found["x"].flags.writeable


def test_other_tools_read_what_is_written(path):
    import safetensors.numpy

    write_safetensors(TENSORS, path, {"format": "pt"})
    found = safetensors.numpy.load_file(path)
    assert (found["model.0.weight"] == TENSORS["model.0.weight"]).all()
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_any_layout_in_memory_is_written_as_its_values(path):
    grid = np.arange(24, dtype=np.float32).reshape(4, 6)
    layouts = {
        "transposed": grid.T,
        "slice": grid[1:, ::2],
        "expanded": np.broadcast_to(grid[0], (3, 6)),
        "fortran": np.asfortranarray(grid),
        "big_endian": grid.astype(">f4"),
        "bfloat16": grid.astype(ml_dtypes.bfloat16).T,
        "empty": grid[:0],
    }
    write_safetensors(layouts, path, {})
    found = read_safetensors(path).tensors
    assert all((found[name] == values).all() for name, values in layouts.items())
    assert all(found[name].shape == values.shape for name, values in layouts.items())


def test_texts_tell_what_the_model_is(path):
    metadata = {
        "names": '["cat", "dog \\u2713"]',
        "epoch": "12",
        "activation": "LeakyReLU",
        "anchors": "[[[10, 13], [16.5, 30]]]",
        "model": "yolov7-tiny",
    }
    write_safetensors(TENSORS, path, metadata)
    checkpoint = read_safetensors(path)
    assert checkpoint.names == ("cat", "dog ✓")
    assert checkpoint.epoch == 12
    assert checkpoint.activation == "LeakyReLU"
    assert checkpoint.anchors is not None
    assert checkpoint.anchors.tolist() == [[[10, 13], [16.5, 30]]]
    assert checkpoint.metadata == metadata
    assert checkpoint.ema is None
    assert checkpoint.weights is checkpoint.tensors


def test_without_texts_anchors_come_from_the_tensors(path):
    grid = np.arange(1, 13, dtype=np.float16).reshape(2, 1, 3, 1, 1, 2)
    write_safetensors({"module.model.77.anchor_grid": grid}, path, {})
    checkpoint = read_safetensors(path)
    assert list(checkpoint.tensors) == ["model.77.anchor_grid"]
    assert checkpoint.anchors is not None
    assert checkpoint.anchors.dtype == np.float32
    assert (checkpoint.anchors == grid.reshape(2, 3, 2)).all()
    assert checkpoint.names is checkpoint.epoch is checkpoint.activation is None


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path):
    write_safetensors(TENSORS, path, {})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"cannot hold these types.*complex128"):
        write_safetensors({"x": np.zeros(2, complex)}, path, {})
    with pytest.raises(TypeError):
        write_safetensors(TENSORS, path, {"epoch": 3})  # pyright: ignore[reportArgumentType]
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_existing_file_is_replaced(path):
    path.write_bytes(b"old")
    write_safetensors(TENSORS, path, {})
    assert list(read_safetensors(path).tensors) == list(TENSORS)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged safetensors"),
        (raw(b"{}"), "holds no tensors"),
        (raw(b"{}", length=2**63), "damaged safetensors"),
        (raw(b"{" * 100_000), "damaged safetensors"),
        (raw(b'{"\xff": 1}'), "damaged safetensors"),
        (
            raw({"x": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]}}, b"0000"),
            "damaged",
        ),
        (raw({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"0000"), "damaged"),
        (
            raw({k: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for k in "xy"}, b"0000"),
            "damaged",
        ),
        (
            raw({"x": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, b"0000"),
            "'x' has the type 'F8_E4M3'",
        ),
        (
            raw({"\x1b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"0000"),
            "unprintable",
        ),
    ],
)
def test_damaged_files_end_in_one_clear_error(path, data, message):
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_safetensors(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"names": "cat"}, "its names are 'cat'; wanted a JSON list"),
        ({"names": '{"0": "cat"}'}, "its names"),
        ({"names": "[1, 2]"}, "its names"),
        ({"names": "[" * 100_000}, "its names"),
        ({"epoch": "last"}, "its epoch is 'last'; wanted a whole number"),
        ({"epoch": "9" * 5000}, "its epoch"),
        ({"anchors": "[[1, 2]]"}, "its anchors"),
        ({"anchors": "[[[1, 2], [3]]]"}, "its anchors"),
        ({"anchors": "[[[1, -2]]]"}, "its anchors"),
        ({"anchors": "[[[1, NaN]]]"}, "its anchors"),
        ({"anchors": '[[["a", 2]]]'}, "its anchors"),
        ({"anchors": f"[[[1, {'9' * 400}]]]"}, "its anchors"),
    ],
)
def test_texts_of_another_form_are_named(path, metadata, message):
    write_safetensors(TENSORS, path, metadata)
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(path)


@pytest.mark.parametrize("name", ["missing.safetensors", "."])
def test_paths_that_cannot_be_opened_are_checkpoint_errors(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"cannot be read|not a regular file"):
        read_safetensors(tmp_path / name)


def test_mutations_are_refused_or_read(path):
    write_safetensors(TENSORS | {"y": np.zeros((2, 2), np.int64)}, path, {"epoch": "3"})
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        changed = bytearray(sound)
        for place in rng.integers(len(sound), size=rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        path.write_bytes(changed[: rng.choice([len(sound), rng.integers(len(sound))])])
        try:
            assert read_safetensors(path).tensors
        except CheckpointError:
            refused += 1
    assert 500 < refused < 1000


def test_a_missing_library_names_the_extra(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"yolov7-jax\[weights\]"):
        read_safetensors(path)
    with pytest.raises(ImportError, match=r"yolov7-jax\[weights\]"):
        write_safetensors(TENSORS, path, {})
