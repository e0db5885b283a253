import errno
import json
import os
import signal
import struct
import threading
import time

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from yolov7_jax.weights.contents import CheckpointError
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


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_the_formats_own_library_reads_what_is_written(path, dtype):
    tensors = {
        "b": np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype),
        "a": np.arange(3, dtype=np.uint8),
        "é": np.full((), 7.0),
        "empty": np.zeros((0, 3), np.float32),
    }
    write_safetensors(tensors, path, {"format": "pt", "é": '"\n'})
    found = safetensors.numpy.load_file(path)
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert (found[name] == array).all()
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt", "é": '"\n'}


def test_what_the_formats_own_library_writes_is_read(path):
    tensors = TENSORS | {"half": np.ones(3, np.float16), "empty": np.zeros((2, 0))}
    safetensors.numpy.save_file(tensors, path, {"epoch": "3"})
    checkpoint = read_safetensors(path)
    assert checkpoint.epoch == 3
    assert checkpoint.tensors.keys() == tensors.keys()
    assert all((checkpoint.tensors[name] == array).all() for name, array in tensors.items())


def test_every_tensor_lies_aligned_in_the_file(path):
    tensors = {"a": np.ones(3, np.uint8), "b": np.ones(3), "c": np.ones(5, np.float16)}
    for text in ("", "x", "xy"):
        write_safetensors(tensors, path, {"text": text})
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        for name, array in tensors.items():
            start = 8 + size + header[name]["data_offsets"][0]
            assert start % array.itemsize == 0


def test_not_a_number_survives_with_all_its_bits(path):
    patterns = np.array([0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7F800000, 0x80000000], np.uint32)
    write_safetensors({"x": patterns.view(np.float32)}, path, {})
    assert (read_safetensors(path).tensors["x"].view(np.uint32) == patterns).all()


def test_a_file_that_does_not_keep_its_bytes_does_not_replace_the_old_one(path, monkeypatch):
    write_safetensors(TENSORS, path, {})
    before = path.read_bytes()

    def damaging(descriptor):
        os.pwrite(descriptor, b"\xff", os.fstat(descriptor).st_size - 1)

    monkeypatch.setattr(os, "fsync", damaging)
    with pytest.raises(OSError, match=r"model\.safetensors: was not written.*model\.0\.weight"):
        write_safetensors({"model.0.weight": np.zeros((2, 3), np.float32)}, path, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_threads_can_write_one_path_at_once(path):
    faults = []

    def write(value):
        try:
            for _ in range(10):
                write_safetensors({"x": np.full(1000, value)}, path, {"v": str(value)})
        except OSError as fault:
            faults.append(fault)

    threads = [threading.Thread(target=write, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    checkpoint = read_safetensors(path)
    assert (checkpoint.tensors["x"] == int(checkpoint.metadata["v"])).all()
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_an_error_that_names_the_target(path, monkeypatch):
    def fails(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match=r"No space left on device.*/model\.safetensors'$"):
        write_safetensors(TENSORS, path, {})
    assert list(path.parent.iterdir()) == []


def test_a_name_as_long_as_names_can_be_is_written(path):
    path = path.with_name("a" * 243 + ".safetensors")
    write_safetensors(TENSORS, path, {})
    assert list(read_safetensors(path).tensors) == list(TENSORS)


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
    with pytest.raises(
        ValueError, match=r"cannot hold this: the tensor 'x' has the type complex128"
    ):
        write_safetensors({"x": np.zeros(2, complex)}, path, {})
    with pytest.raises(ValueError, match="the text 'epoch' is 3"):
        write_safetensors(TENSORS, path, {"epoch": 3})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"the text 'x' is '.ud800'"):
        write_safetensors(TENSORS, path, {"x": "\ud800"})
    with pytest.raises(ValueError, match="the tensor '__metadata__' has an impossible name"):
        write_safetensors({"__metadata__": np.zeros(2)}, path, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_existing_file_is_replaced(path):
    path.write_bytes(b"old")
    write_safetensors(TENSORS, path, {})
    assert list(read_safetensors(path).tensors) == list(TENSORS)
    assert list(path.parent.iterdir()) == [path]


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged safetensors"),
        (b"\1\0\0", "damaged safetensors"),
        (raw(b"{}"), "holds no tensors"),
        (raw(b"{}", length=2**63), "ends within its header"),
        (raw(b"{" * 100_000), "damaged safetensors"),
        (raw(b'{"a":' + b"[" * 100_000), "damaged safetensors"),
        (raw(b'{"\xff": 1}'), "damaged safetensors"),
        (raw(b"[1]"), "no JSON object"),
        (raw(b" " * (2**23 + 1)), "more than 8,388,608"),
        (raw({str(i): entry([0], 0, 0) for i in range(100_001)}), "100,001 tensors"),
        (raw({"__metadata__": {str(i): "" for i in range(100_001)}}), "__metadata__"),
        (raw({"__metadata__": ["text"]}), "__metadata__"),
        (raw({"__metadata__": {"epoch": 3}}), "'epoch' is no text"),
        (raw({"__metadata__": {"x": "\ud800"}}), "'x' is no text"),
        (raw({"x": 3}), "at 'x'"),
        (raw({"x": entry([2**62], 0, 4)}, b"0000"), "'x' has an impossible shape"),
        (raw({"x": entry([2**40, 2**40], 0, 4)}, b"0000"), "'x' has an impossible shape"),
        (raw({"x": entry([0, 2**40, 2**40], 0, 0)}), "'x' has an impossible shape"),
        (raw({"x": entry([1] * 33, 0, 4)}, b"0000"), "'x' has an impossible shape"),
        (raw({"x": entry([-1, -1], 0, 4)}, b"0000"), "'x' has an impossible shape"),
        (raw({"x": entry([1.0], 0, 4)}, b"0000"), "'x' has an impossible shape"),
        (raw({"x": entry([True], 0, 4)}, b"0000"), "'x' has an impossible shape"),
        (raw({"x": entry([1], -4, 0)}, b"0000"), "'x' has an impossible shape or place"),
        (raw({"x": entry([1], 0, 8)}, b"0" * 8), "'x' has 8 bytes, not those of its shape"),
        (raw({"x": entry([2], 0, 8)}, b"0000"), "8 bytes, and 4 are there"),
        (raw({"x": entry([1], 0, 4)}, b"0" * 8), "4 bytes, and 8 are there"),
        (raw({"x": entry([1], 4, 8)}, b"0" * 8), "'x' is not after the last"),
        (raw({k: entry([1], 0, 4) for k in "xy"}, b"0000"), "is not after the last"),
        (raw(b'{"x":1,"x":2}'), "comes twice"),
        (raw({"x": entry([4], 0, 4, "F8_E4M3")}, b"0000"), "'x' has the type 'F8_E4M3'"),
        (raw({"\x1b[2J": entry([1], 0, 4)}, b"0000"), "unprintable"),
        (raw({"\ud800": entry([1], 0, 4)}, b"0000"), "unprintable"),
        (raw({"x" * 9999: entry([1], 0, 8)}, b"0" * 8), r"'xxx+\.\.\.' has 8 bytes"),
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
        ({"names": '{"0": "cat"}'}, "its class names are of type dict; wanted a list of texts"),
        ({"names": '["cat", 2]'}, "the name of class 1 is of type int; wanted a text"),
        ({"names": '["cat", "\\ud800"]'}, r"the name of class 1, '.ud800', is no valid Unicode"),
        ({"names": f'["{"a" * 1001}"]'}, "the name of class 0 has 1,001 characters"),
        ({"names": json.dumps([""] * 100_001)}, "100,001 class names"),
        ({"names": "[" * 100_000}, "its names"),
        ({"epoch": "last"}, "its epoch is 'last'; wanted an integer"),
        ({"epoch": "9" * 5000}, "its epoch"),
        ({"anchors": "[[1, 2]]"}, "its anchors"),
        ({"anchors": "[[[1, 2], [3]]]"}, "its anchors"),
        ({"anchors": "[[[1, -2]]]"}, "its anchors"),
        ({"anchors": "[[[1, NaN]]]"}, "its anchors"),
        ({"anchors": '[[["1", 2]]]'}, "its anchors"),
        ({"anchors": "[[[1, true]]]"}, "its anchors"),
        ({"anchors": json.dumps([[[1, 2]] * 501])}, "1,002 sides of anchors"),
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


def test_garbage_of_many_gigabytes_is_refused_at_once(path):
    for start in (raw(b"{}"), raw(b"{", length=2**31), raw({"x": entry([1], 0, 4)})):
        path.write_bytes(start)
        os.truncate(path, 6 * 2**30)
        started = time.perf_counter()
        with pytest.raises(CheckpointError, match=r"bytes"):
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


def test_mutations_are_refused_or_read_as_the_formats_own_library_reads_them(path):
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
            tensors = read_safetensors(path).tensors
        except CheckpointError:
            refused += 1
            continue
        again = safetensors.numpy.load_file(path)
        assert again.keys() == tensors.keys()
        for name, array in tensors.items():
            assert array.shape == again[name].shape
            assert array.tobytes() == again[name].tobytes()
    assert 500 < refused < 1000
