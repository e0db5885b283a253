import concurrent.futures
import json
import os
import signal
import struct
import time

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from yolov7_jax.weights.checkpoint_contents import CheckpointError
from yolov7_jax.weights.safetensors_file import TYPES, read_safetensors, write_safetensors

TENSORS = {"model.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
DTYPES = ["bool", "bfloat16", "float16", "float32", "float64"]
DTYPES += [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def test_every_type_survives_both_ways(path):
    assert len(DTYPES) == len(TYPES)
    written = {}
    for dtype in DTYPES:
        values = np.array([[0, 1, 1], [1, 0, 1]]).astype(np.dtype(dtype))
        written |= {dtype: values, f"{dtype} scalar": values[0, 1], f"{dtype} none": values[:0]}
    write_safetensors(written, path)
    found = read_safetensors(path).tensors
    assert found.keys() == written.keys()
    for name, values in written.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        assert (found[name] == values).all()
        assert not found[name].flags.writeable


def test_files_of_others_are_read_with_their_texts(path):
    texts = {"format": "pt", "model": "another one", "epoch": "last"}
    safetensors.numpy.save_file(TENSORS, path, texts)
    checkpoint = read_safetensors(path)
    assert checkpoint.metadata == texts
    assert checkpoint.model is checkpoint.epoch is checkpoint.names is None
    np.testing.assert_array_equal(checkpoint.tensors["model.0.weight"], TENSORS["model.0.weight"])


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
    # Not-a-number and infinity survive with all their bits.
    patterns = np.array([0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7F800000, 0x80000000], np.uint32)
    write_safetensors(layouts | {"odd": patterns.view(np.float32)}, path)
    found = read_safetensors(path).tensors
    assert (found["odd"].view(np.uint32) == patterns).all()
    assert all((found[name] == values).all() for name, values in layouts.items())
    assert all(found[name].shape == values.shape for name, values in layouts.items())


def test_a_file_that_does_not_hold_what_was_written_does_not_replace_the_old_one(path, monkeypatch):
    write_safetensors(TENSORS, path)
    before = path.read_bytes()
    save = safetensors.numpy.save
    monkeypatch.setattr(safetensors.numpy, "save", lambda *given: save(*given)[:-1] + b"\xff")
    with pytest.raises(OSError, match=r"does not hold what was written.*model\.safetensors'$"):
        write_safetensors({"model.0.weight": np.zeros((2, 3), np.float32)}, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_threads_can_write_one_path_whose_name_is_as_long_as_names_can_be(path):
    path = path.with_name("a" * 243 + ".safetensors")

    def write(value):
        for _ in range(10):
            write_safetensors({"x": np.full(1000, value)}, path, {"v": value})

    with concurrent.futures.ThreadPoolExecutor() as threads:
        assert list(threads.map(write, range(4))) == [None] * 4
    checkpoint = read_safetensors(path)
    assert (checkpoint.tensors["x"] == checkpoint.metadata["v"]).all()
    assert list(path.parent.iterdir()) == [path]


def test_metadata_tell_what_the_model_is(path):
    metadata = {
        "names": ["cat", "dog ✓"],
        "epoch": 12,
        "activation": "LeakyReLU",
        "anchors": [[[10, 13], [16.5, 30]]],
        "model": "yolov7-tiny",
        "width": 0.5,
        "whatever": None,
    }
    write_safetensors(TENSORS, path, metadata)
    checkpoint = read_safetensors(path)
    assert checkpoint.names == ("cat", "dog ✓")
    assert checkpoint.epoch == 12
    assert checkpoint.activation == "LeakyReLU"
    assert (checkpoint.model, checkpoint.width) == ("yolov7-tiny", 0.5)
    assert checkpoint.anchors is not None
    assert checkpoint.anchors.tolist() == [[[10, 13], [16.5, 30]]]
    assert checkpoint.metadata == metadata
    assert checkpoint.ema is None
    assert checkpoint.weights is checkpoint.tensors


def test_without_metadata_anchors_come_from_the_tensors(path):
    grid = np.arange(1, 13, dtype=np.float16).reshape(2, 1, 3, 1, 1, 2)
    write_safetensors({"module.model.77.anchor_grid": grid}, path)
    checkpoint = read_safetensors(path)
    assert list(checkpoint.tensors) == ["model.77.anchor_grid"]
    assert checkpoint.anchors is not None
    assert checkpoint.anchors.dtype == np.float32
    assert (checkpoint.anchors == grid.reshape(2, 3, 2)).all()
    assert checkpoint.names is checkpoint.epoch is checkpoint.activation is None


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


DAMAGED = "damaged (safetensors )?file"
TWICE = json.dumps(entry([1], 0, 4)).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", DAMAGED),
        (b"\1\0\0", DAMAGED),
        (raw(b"{}"), "holds no tensors"),
        (raw(b"{}", length=2**63), "header has 9,223,372,036,854,775,808 bytes"),
        (raw(b"{}", length=2**10), DAMAGED),
        (raw(b"{" * 100_000), DAMAGED),
        (raw(b'{"a":' + b"[" * 100_000), DAMAGED),
        (raw(b'{"\xff": 1}'), DAMAGED),
        (raw(b"[1]"), "no JSON object"),
        (raw(b" " * (2**23 + 1)), "more than 8,388,608"),
        (raw({str(i): entry([0], 0, 0) for i in range(100_001)}), "100,001 tensors"),
        (raw({"__metadata__": ["text"]}), DAMAGED),
        (raw({"__metadata__": {"epoch": 3}}), DAMAGED),
        (raw({"__metadata__": {"x": "\ud800"}}), DAMAGED),
        (raw({"x": 3}), DAMAGED),
        (raw({"x": entry([2**62], 0, 4)}, b"0000"), DAMAGED),
        (raw({"x": entry([2**40, 2**40], 0, 4)}, b"0000"), DAMAGED),
        (raw({"x": entry([0, 2**40, 2**40], 0, 0)}), DAMAGED),
        (raw({"x": entry([1] * 65, 0, 4)}, b"0000"), DAMAGED),
        (raw({"x": entry([-1, -1], 0, 4)}, b"0000"), DAMAGED),
        (raw({"x": entry([1.0], 0, 4)}, b"0000"), DAMAGED),
        (raw({"x": entry([True], 0, 4)}, b"0000"), DAMAGED),
        (raw({"x": entry([1], -4, 0)}, b"0000"), DAMAGED),
        (raw({"x": entry([1], 0, 8)}, b"0" * 8), "invalid shape, data type, or offset"),
        (raw({"x": entry([2], 0, 8)}, b"0000"), "file not fully covered"),
        (raw({"x": entry([1], 0, 4)}, b"0" * 8), "file not fully covered"),
        (raw({"x": entry([1], 4, 8)}, b"0" * 8), "invalid offset"),
        (raw({k: entry([1], 0, 4) for k in "xy"}, b"0000"), "invalid offset"),
        (raw(b'{"x":' + TWICE + b',"x":' + TWICE + b"}", b"0000"), "comes twice"),
        (raw({"x": entry([4], 0, 4, "F8_E4M3")}, b"0000"), "'x' has the type 'F8_E4M3'"),
        (raw({"\x1b[2J": entry([1], 0, 4)}, b"0000"), "unprintable"),
        (raw({"\ud800": entry([1], 0, 4)}, b"0000"), DAMAGED),
        (raw({"x" * 9999: entry([1], 0, 8)}, b"0" * 8), r"invalid shape"),
    ],
)
def test_damaged_files_end_in_one_clear_error(path, data, message):
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_safetensors(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([], "its metadata is no JSON object"),
        ({"names": "cat"}, "its class names are of type str; wanted a list of texts"),
        ({"names": {"0": "cat"}}, "its class names are of type dict; wanted a list of texts"),
        ({"names": ["cat", 2]}, "the name of class 1 is of type int; wanted a text"),
        ({"names": ["cat", "\ud800"]}, r"the name of class 1, '.ud800', is no valid Unicode"),
        ({"x": "\ud800"}, "its metadata holds no valid Unicode"),
        ({"names": ["a" * 1001]}, "the name of class 0 has 1,001 characters"),
        ({"names": [""] * 100_001}, "100,001 class names"),
        ({"epoch": "last"}, "its epoch is .*last.*; wanted an integer"),
        ({"epoch": -1}, "its epoch is '-1'"),
        ({"epoch": 2**31}, "its epoch is "),
        ({"epoch": True}, "its epoch is "),
        ({"image_size": 0}, "its image_size is '0'; wanted an integer from 1"),
        ({"image_size": 2**16 + 1}, "its image_size is "),
        ({"image_size": 640.0}, "its image_size is "),
        ({"model": ["yolov7"]}, "its model is .*; wanted one of yolov7-tiny, "),
        ({"width": "1"}, "its width is .*; wanted a number above 0"),
        ({"width": float("nan")}, "its width is "),
        ({"width": 1e9}, "its width is "),
        ({"activation": "Mish"}, "its activation is .*Mish.*; wanted one of SiLU, LeakyReLU"),
        ({"anchors": [[1, 2]]}, "its anchors have another form"),
        ({"anchors": [[[1, 2], [3]]]}, "its anchors"),
        ({"anchors": [[[1, 2]], [[1, 2], [1, 2]]]}, "its anchors"),
        ({"anchors": [[[1, -2]]]}, "its anchors"),
        ({"anchors": [[[1, float("nan")]]]}, "its anchors"),
        ({"anchors": [[["1", 2]]]}, "its anchors"),
        ({"anchors": [[[1, True]]]}, "its anchors"),
        ({"anchors": []}, "its anchors"),
        ({"anchors": [[[1, 2]] * 501]}, "1,002 sides of anchors"),
        ({"anchors": [[[1, 10**400]]]}, "its anchors"),
    ],
)
def test_metadata_of_another_form_are_named(path, metadata, message):
    write_safetensors(TENSORS, path, metadata)
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(path)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"epoch": ' + "9" * 5000 + "}", ""])
def test_metadata_that_are_no_json_are_damaged(path, text):
    safetensors.numpy.save_file(TENSORS, path, {"yolov7_jax": text})
    with pytest.raises(CheckpointError, match="its metadata is damaged"):
        read_safetensors(path)


@pytest.mark.parametrize("name", ["missing.safetensors", "."])
def test_paths_that_cannot_be_opened_are_checkpoint_errors(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"cannot be read|not a regular file"):
        read_safetensors(tmp_path / name)


def test_garbage_of_many_gigabytes_is_refused_at_once(path):
    for start in (raw(b"{}"), raw(b"{", length=2**31), raw({"x": entry([1], 0, 4)})):
        path.write_bytes(start)
        os.truncate(path, 6 * 2**30)
        started = time.perf_counter()
        with pytest.raises(CheckpointError, match=r"bytes|not fully covered"):
            read_safetensors(path)
        assert time.perf_counter() - started < 0.5


def test_a_pipe_is_refused_without_waiting_for_its_other_end(path, monkeypatch):
    def too_long(number, frame):
        raise AssertionError("waits for the other end")

    path.touch()
    regular = path.stat()
    path.unlink()
    os.mkfifo(path)
    # As if the pipe had taken the place of a file just now.
    monkeypatch.setattr(os, "stat", lambda *args, **options: regular)
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(5)
    try:
        with pytest.raises(CheckpointError, match="not a regular file"):
            read_safetensors(path)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        monkeypatch.undo()


def test_mutations_are_refused_or_read(path):
    write_safetensors(TENSORS | {"y": np.zeros((2, 2), np.int64)}, path, {"epoch": 3})
    valid = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        mutated = bytearray(valid)
        for place in rng.integers(len(valid), size=rng.integers(1, 4)):
            mutated[place] = rng.integers(256)
        path.write_bytes(mutated[: rng.choice([len(valid), rng.integers(len(valid))])])
        try:
            tensors = read_safetensors(path).tensors
        except CheckpointError:
            refused += 1
        else:
            assert sum(array.nbytes for array in tensors.values()) <= len(valid)
    assert 500 < refused < 1000
