"""Files for PyTorch, as it would read them, and as this library does."""

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from export.small import NAMES

from yolov7_jax.export.torch_state_dict import write_state_dict
from yolov7_jax.weights import CheckpointError, read_checkpoint

TENSORS = {"a.weight": np.arange(24, dtype="f4").reshape(2, 3, 4), "b": np.ones(5, "f4")}

# The operations of pickle that PyTorch knows where it is told to execute nothing.
READ_WITH_WEIGHTS_ONLY = {
    *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BINPERSID", "NEWFALSE", "SETITEMS"),
    *("BINUNICODE", "BININT", "EMPTY_TUPLE", "TUPLE"),
}


def read_as_pytorch(path):
    """Reads a state_dict with Python's own unpickler and arrays in place of tensors."""

    def rebuild(storage, offset, size, stride, requires_grad, hooks):
        assert (requires_grad, hooks) == (False, OrderedDict())
        steps = [step * storage.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], size, steps)

    known = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild,
        ("torch", "FloatStorage"): np.dtype("<f4"),
    }

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            return known[module, name]

        def persistent_load(self, identity):
            kind, dtype, key, device, count = identity
            assert (kind, device) == ("storage", "cpu")
            return np.frombuffer(archive.read(f"archive/data/{key}"), dtype, count)

    with zipfile.ZipFile(path) as archive:
        return Unpickler(io.BytesIO(archive.read("archive/data.pkl"))).load()


def test_a_state_dict_is_what_pytorch_reads_without_running_anything(tmp_path):
    metadata = {"model": "yolov7", "width": 0.5, "strides": [8, 16], "names": NAMES}
    write_state_dict(TENSORS, metadata, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        names = archive.namelist()
        pickled = archive.read("archive/data.pkl")
        for name in names:
            info = archive.getinfo(name)
            assert info.compress_type == zipfile.ZIP_STORED
        first = archive.read("archive/data/0")
    assert names[0] == "archive/data.pkl"
    assert {"archive/version", "archive/byteorder", "archive/data/1"} <= set(names)
    np.testing.assert_array_equal(np.frombuffer(first, "<f4"), np.arange(24))
    assert (tmp_path / "a.pt").read_bytes().index(first) % 64 == 0  # can be mapped into memory
    assert {code.name for code, *_ in pickletools.genops(pickled)} <= READ_WITH_WEIGHTS_ONLY
    assert list(read_as_pytorch(tmp_path / "a.pt")) == list(TENSORS)
    for key, array in read_as_pytorch(tmp_path / "a.pt").items():
        np.testing.assert_array_equal(array, TENSORS[key])
    again = read_checkpoint(tmp_path / "a.pt")
    assert again.metadata == metadata
    assert (again.model, again.width, again.names) == ("yolov7", 0.5, tuple(NAMES))
    for key, array in TENSORS.items():
        np.testing.assert_array_equal(again.tensors[key], array)
    with pytest.raises(ValueError, match="the tensors c must be float32"):
        write_state_dict({"c": np.zeros(1)}, {}, tmp_path / "b.pt")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("[]", "no JSON object"),
        ('{"names": 7}', "class names"),
        ('{"names": ["\\ud800"]}', "Unicode"),
        ('{"image_size": -1}', "its image_size is '-1'"),
        ('{"image_size": "640"}', "its image_size is"),
        (" " * 2**23 + "{}", "more than 8,388,608 bytes"),
    ],
)
def test_metadata_that_cannot_be_are_one_error_that_names_the_file(metadata, message, tmp_path):
    write_state_dict(TENSORS, {}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as given,
        zipfile.ZipFile(tmp_path / "b.pt", "w") as spoilt,
    ):
        for name in given.namelist():
            spoilt.writestr(name, metadata if name.endswith(".json") else given.read(name))
    with pytest.raises(CheckpointError, match=f"b.pt: .*{message}"):
        read_checkpoint(tmp_path / "b.pt")
