import csv
import os
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from weights.torch_writer import (
    STORAGE_NAMES,
    Call,
    Storage,
    Tensor,
    module,
    named,
    tensor,
    torch_older,
    torch_zip,
)

from yolov7_jax.weights import read_checkpoint
from yolov7_jax.weights.checkpoint_contents import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden"
FORMATS = pytest.mark.parametrize("written", [torch_zip, torch_older])


@pytest.fixture
def read(tmp_path):
    def read_bytes(data):
        path = tmp_path / "weights"
        path.write_bytes(data)
        return read_checkpoint(path)

    return read_bytes


SILU = "torch.nn.modules.activation.SiLU"


def small_model(fill=1.0, names=("cat", "dog"), act=SILU, more=(), slope=None, **attributes):
    weight = np.full((2, 3, 1, 1), fill, np.float16)
    norm = module(
        "torch.nn.modules.batchnorm.BatchNorm2d",
        parameters={"weight": tensor(np.ones(2, np.float16)), "bias": None},
        buffers={
            "running_mean": tensor(np.zeros(2, np.float16)),
            "num_batches_tracked": tensor(np.array(7)),
            "cache": tensor(np.zeros(9, np.float32)),
        },
        transient=["cache"],
    )
    conv = module("torch.nn.modules.conv.Conv2d", parameters={"weight": tensor(weight)})
    activation = module(act, **({} if slope is None else {"negative_slope": slope}))
    block = module("models.common.Conv", modules={"conv": conv, "bn": norm, "act": activation})
    others = {"nothing": None, **dict(more)}
    layers = module("torch.nn.modules.container.Sequential", modules={"0": block, **others})
    return module("models.yolo.Model", modules={"model": layers}, names=list(names), **attributes)


SMALL_KEYS = [
    "model.0.conv.weight",
    "model.0.bn.weight",
    "model.0.bn.running_mean",
    "model.0.bn.num_batches_tracked",
]


@pytest.fixture(scope="module", params=["yolov7-tiny-narrow", "yolov7-narrow-release"])
def golden(request):
    return request.param, read_checkpoint(GOLDEN / "checkpoint" / f"{request.param}.pt")


def test_official_files_hold_exactly_the_official_keys(golden):
    name, checkpoint = golden
    official = "yolov7-tiny" if "tiny" in name else "yolov7"
    with open(GOLDEN / "model" / f"{official}.state_dict.csv") as file:
        rows = {row["name"]: row["shape"] for row in csv.DictReader(file)}
    assert list(checkpoint.tensors) == list(rows)
    # The files hold narrow models, so the shapes agree in their lengths only.
    dimensions = {key: len(shape.split("x")) if shape else 0 for key, shape in rows.items()}
    assert {key: value.ndim for key, value in checkpoint.tensors.items()} == dimensions


def test_official_files_are_read_in_the_types_that_they_are_stored_in(golden):
    _, checkpoint = golden
    for key, value in checkpoint.tensors.items():
        counter = key.endswith("num_batches_tracked")
        anchors = key.endswith(("anchors", "anchor_grid"))
        kinds = {np.dtype(np.int64)} if counter else {np.dtype(np.float16)}
        assert anchors or value.dtype in kinds, key
        assert not value.flags.writeable
        assert np.isfinite(value).all()
    assert checkpoint.tensors["model.0.bn.num_batches_tracked"].shape == ()
    assert checkpoint.tensors["model.0.conv.weight"].shape == (8, 3, 3, 3)


def test_official_files_tell_what_the_model_is(golden):
    name, checkpoint = golden
    assert checkpoint.names == ("cat", "dog")
    assert checkpoint.anchors is not None
    assert checkpoint.anchors.dtype == np.float32
    if name == "yolov7-tiny-narrow":
        assert checkpoint.ema is not None
        assert checkpoint.ema.keys() == checkpoint.tensors.keys()
        assert checkpoint.weights is checkpoint.ema
        assert checkpoint.epoch == 3
        assert checkpoint.activation == "LeakyReLU"
        assert checkpoint.anchors[0].tolist() == [[10, 13], [16, 30], [33, 23]]
    else:
        assert checkpoint.ema is None
        assert checkpoint.weights is checkpoint.tensors
        assert checkpoint.epoch is None
        assert checkpoint.activation == "SiLU"
        assert checkpoint.anchors[2].tolist() == [[142, 110], [192, 243], [459, 401]]


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_module_gives_the_tensors_of_its_state_dict(read, written, protocol):
    checkpoint = read(written(small_model(3), protocol))
    assert list(checkpoint.tensors) == SMALL_KEYS
    assert checkpoint.tensors["model.0.conv.weight"].tolist() == [[[[3]]] * 3] * 2
    assert checkpoint.tensors["model.0.bn.num_batches_tracked"] == 7
    assert checkpoint.names == ("cat", "dog")
    assert checkpoint.activation == "SiLU"


@FORMATS
def test_training_checkpoints_keep_model_average_epoch_and_skip_the_rest(read, written):
    scalar = Call(
        named("numpy.core.multiarray", "scalar"),
        (Call(named("numpy", "dtype"), ("f8", False, True)), b"\0\0\0\0\0\0\xe0?"),
    )
    momentum = {0: {"momentum_buffer": tensor(np.ones(9, np.float32))}}
    training = {
        "epoch": 12,
        "best_fitness": scalar,
        "training_results": "0/2 ...",
        "model": small_model(1),
        "ema": small_model(2),
        "updates": 400,
        "optimizer": {"state": momentum, "param_groups": [{"lr": 0.01, "params": [0]}]},
        "wandb_id": None,
        "options": Call(named("pathlib", "PosixPath"), ("runs", "train")),
    }
    checkpoint = read(written(training))
    assert checkpoint.epoch == 12
    assert checkpoint.ema is not None
    assert list(checkpoint.tensors) == list(checkpoint.ema) == SMALL_KEYS
    assert (checkpoint.tensors["model.0.conv.weight"] == 1).all()
    assert (checkpoint.weights["model.0.conv.weight"] == 2).all()


def test_storages_of_the_optimizer_are_not_needed(read):
    training = {"model": small_model(), "optimizer": tensor(np.arange(5.0))}
    data = torch_zip(training)
    # The optimizer's storage is the only one with float64 numbers; its bytes are damaged here.
    place = data.index(np.arange(5.0).tobytes())
    damaged = data[:place] + b"\xff" * 40 + data[place + 40 :]
    assert list(read(damaged).tensors) == SMALL_KEYS
    with pytest.raises(CheckpointError, match="CRC"):
        read(torch_zip({"w": tensor(np.arange(5.0))}).replace(np.arange(5.0).tobytes(), b"x" * 40))


@FORMATS
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"state_dict": d}, lambda d: {"model": d}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_are_found_and_unwrapped(read, written, wrap, prefix):
    weights = {f"{prefix}model.0.weight": tensor(np.eye(2)), f"{prefix}b": tensor(np.ones(1))}
    state_dict = OrderedDict(weights)
    state_dict._metadata = OrderedDict({"": {"version": 1}})  # as PyTorch's have
    checkpoint = read(written(wrap(state_dict)))
    assert list(checkpoint.tensors) == ["model.0.weight", "b"]
    assert (checkpoint.tensors["model.0.weight"] == np.eye(2)).all()
    assert checkpoint.names is checkpoint.epoch is checkpoint.activation is None


def test_data_parallel_modules_are_looked_through(read):
    wrapped = module("torch.nn.parallel.DataParallel", modules={"module": small_model()})
    checkpoint = read(torch_zip({"model": wrapped, "epoch": -1}))
    assert list(checkpoint.tensors) == SMALL_KEYS
    assert checkpoint.names == ("cat", "dog")
    assert checkpoint.epoch is None


LEAKY = "torch.nn.modules.activation.LeakyReLU"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"act": SILU}, "SiLU"),
        ({"act": LEAKY, "slope": 0.1}, "LeakyReLU"),
        ({"act": LEAKY, "slope": 0.01}, "LeakyReLU of slope 0.01"),
        ({"act": LEAKY, "slope": [1]}, "damaged LeakyReLU"),
        ({"act": "torch.nn.modules.activation.Hardswish"}, "Hardswish"),
        ({"act": "torch.nn.modules.linear.Identity"}, "Identity"),
        ({"act": "models.common.Mish"}, "Mish"),
        # What is no layer's activation tells nothing.
        ({"more": {"1": module("torch.nn.modules.activation.Sigmoid")}}, "SiLU"),
        ({"more": {"1": module("torch.nn.modules.linear.Identity")}}, "SiLU"),
        ({"more": {"1": module("models.common.SiLU6")}}, "SiLU"),
    ],
)
def test_the_activation_is_the_class_of_the_layers_activations(read, options, told):
    assert read(torch_zip(small_model(**options))).activation == told


@pytest.mark.parametrize("other", ["models.common.Conv.act", "torch.nn.modules.activation.ReLU"])
def test_several_activations_are_refused(read, other):
    one = small_model(more={"1": module(other)})
    if other.endswith(".act"):
        one = {"model": small_model(), "ema": small_model(act=LEAKY)}
    with pytest.raises(CheckpointError, match=r"has 2 activations \('.*', 'SiLU'\)"):
        read(torch_zip(one))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({1: "dog", 0: "cat"}, ("cat", "dog")),
        ((3, "dog"), ("3", "dog")),
        # Anything that can be written.
        (("", "\x1b[2J\n", "猫", "a" * 1000), ("", "\x1b[2J\n", "猫", "a" * 1000)),
    ],
)
def test_class_names_are_texts_in_the_order_of_the_labels(read, names, told):
    model = small_model()
    model.names = names
    assert read(torch_zip(model)).names == told


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cat", "\ud800"), r"the name of class 1, '.ud800', is no valid Unicode"),
        (("cat", None), "the name of class 1 is of type NoneType; wanted a text"),
        ((2**70,), "the name of class 0 is of type int"),
        (("a" * 1001,), "the name of class 0 has 1,001 characters"),
    ],
)
def test_class_names_of_another_form_are_named(read, names, message):
    with pytest.raises(CheckpointError, match=message):
        read(torch_zip(small_model(names=names)))


def test_anchors_in_cells_are_scaled_by_the_strides_of_the_module(read):
    cells = np.arange(1.0, 13, dtype=np.float32).reshape(2, 3, 2)
    head = module("models.yolo.IDetect", buffers={"anchors": tensor(cells)})
    layers = module("torch.nn.modules.container.Sequential", modules={"0": head})
    strides = tensor(np.array([8, 16], np.float32))
    model = module("models.yolo.Model", modules={"model": layers}, stride=strides)
    anchors = read(torch_zip(model)).anchors
    assert (anchors == cells * np.array([8, 16])[:, None, None]).all()


@FORMATS
@pytest.mark.parametrize("dtype", STORAGE_NAMES, ids=str)
def test_every_type_survives(read, written, dtype):
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    found = read(written({"x": tensor(values), "scalar": tensor(values[0, 1])})).tensors
    assert found["x"].dtype == found["scalar"].dtype == dtype
    assert (found["x"] == values).all()
    assert found["scalar"].shape == ()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.int64, np.uint8])
def test_files_from_big_endian_machines_are_swapped(read, dtype):
    values = np.arange(7).astype(dtype)
    found = read(torch_zip({"x": tensor(values)}, byteorder="big")).tensors["x"]
    assert found.dtype == dtype
    assert (found == values).all()


@FORMATS
def test_strided_tensors_are_views_of_their_storage(read, written):
    numbers = np.arange(24, dtype=np.float32)
    storage = Storage(numbers)
    tensors = {
        "whole": Tensor(storage, (4, 6), (6, 1)),
        "transposed": Tensor(storage, (6, 4), (1, 6)),
        "slice": Tensor(storage, (2, 3), (6, 2), offset=7),
        "expanded": Tensor(storage, (1000, 3), (0, 1), offset=21),
        "diagonal": Tensor(storage, (4,), (7,)),
        "channels_last": Tensor(storage, (1, 2, 3, 4), (2**60, 1, 8, 2)),
        "scalar": Tensor(storage, (), (), offset=23),
        "empty": Tensor(storage, (0, 5), (5, 1), offset=24),
    }
    found = read(written(tensors)).tensors
    grid = numbers.reshape(4, 6)
    assert (found["whole"] == grid).all()
    assert (found["transposed"] == grid.T).all()
    assert (found["slice"] == [[7, 9, 11], [13, 15, 17]]).all()
    assert (found["expanded"] == [21, 22, 23]).all()
    assert (found["diagonal"] == [0, 7, 14, 21]).all()
    assert (found["channels_last"] == numbers.reshape(1, 3, 4, 2).transpose(0, 3, 1, 2)).all()
    assert found["scalar"] == 23
    assert found["empty"].shape == (0, 5)
    assert all(not array.flags.writeable for array in found.values())
    shared = [array for key, array in found.items() if key != "empty"]
    assert all(np.shares_memory(found["whole"], array) for array in shared)


def test_older_files_may_have_storages_that_are_parts_of_others(read):
    root = Storage(np.arange(10, dtype=np.float32))
    part = Storage(root.numbers[4:8], view_of=root, view_start=4)
    found = read(torch_older({"x": Tensor(part, (2, 2), (2, 1)), "y": Tensor(root, (2,), (9,))}))
    assert (found.tensors["x"] == [[4, 5], [6, 7]]).all()
    assert (found.tensors["y"] == [0, 9]).all()
    with pytest.raises(CheckpointError, match="element 4 of a storage of 4 elements"):
        read(torch_older({"x": Tensor(part, (5,), (1,))}))


def test_parameters_and_tensors_with_attributes_are_tensors(read):
    inner = tensor(np.arange(3.0))
    args = (inner.storage, 0, (3,), (1,), False, OrderedDict())
    attributes = Call(
        named("torch._tensor", "_rebuild_from_type_v2"),
        (named("torch._utils", "_rebuild_tensor_v2"), named("torch", "Tensor"), args, {"tag": 1}),
    )
    parameter = Call(named("torch._utils", "_rebuild_parameter"), (inner, True, OrderedDict()))
    size = Call(named("torch", "Size"), ((3,),))
    sized = Tensor(inner.storage, size, (1,))
    found = read(torch_zip({"a": attributes, "b": parameter, "c": sized})).tensors
    assert [found[key].tolist() for key in "abc"] == [[0, 1, 2]] * 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"hello", "no known format"),
        (b"\0" * 257 + b"ustar" + b"\0" * 300, "tar archive"),
        (b"\x10" + b"\0" * 7 + b'{"a":1}         ', "safetensors"),
        (b"\x80\x02]q\x00.", "a pickle that torch.save did not write"),
        (b"\x08\x0a\x12\x0ayolov7_jax", "an exported ONNX program; wanted a file of PyTorch"),
        (torch_zip([1, 2]), "holds a list"),
        (torch_zip({}), "holds no tensors"),
        (torch_zip({"a": tensor(np.ones(1)), "b": 3}), "'b' is an int, not a tensor"),
        (torch_zip({"model": small_model(), "ema": 3}), "ema is an int"),
        (torch_zip(module("models.yolo.Model", modules={"a": "text"})), "not a module"),
        (torch_zip({"a\n": tensor(np.ones(1))}), "impossible name"),
    ],
)
def test_other_files_are_refused_by_what_they_are(read, data, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read(data)
    assert "\n" not in str(caught.value)


@FORMATS
def test_tensors_may_not_repeat_their_numbers_endlessly(read, written):
    def repeated(megabytes, stored=1):
        storage = Storage(np.ones(stored, np.uint8))
        return {str(i): Tensor(storage, (2**20,), (0,)) for i in range(megabytes)}

    assert len(read(written(repeated(16))).tensors) == 16
    with pytest.raises(CheckpointError, match="repeat 1 bytes until they are 17,825,792"):
        read(written(repeated(17)))
    # The average counts too, and so does what is stored.
    with pytest.raises(CheckpointError, match="until they are 18,874,368"):
        read(written({"model": repeated(9), "ema": repeated(9)}))
    assert len(read(written(repeated(40, stored=10 * 2**20))).tensors) == 40


def test_garbage_of_many_gigabytes_is_refused_at_once(tmp_path):
    older = torch_older({"x": tensor(np.arange(3))})
    for start in (torch_zip({"x": tensor(np.arange(3))}), older[:-40], b"PK\3\4", b"\x80\2"):
        path = tmp_path / "weights"
        path.write_bytes(start)
        os.truncate(path, 6 * 2**30)
        started = time.perf_counter()
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
        assert time.perf_counter() - started < 1


def test_only_the_wanted_storages_of_an_older_file_are_read(tmp_path):
    size = 2**26  # twice what is read of the pickles
    training = {"model": {"x": tensor(np.arange(9))}, "optimizer": tensor(np.ones(size, np.uint8))}
    (tmp_path / "weights").write_bytes(torch_older(training))
    tracemalloc.start()
    try:
        checkpoint = read_checkpoint(tmp_path / "weights")
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()
    assert checkpoint.tensors["x"].tolist() == list(range(9))


@pytest.mark.parametrize("name", ["missing.pt", ".", "with\0zero"])
def test_paths_that_cannot_be_opened_are_checkpoint_errors(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"holds no checkpoint|missing|regular|null|with"):
        read_checkpoint(tmp_path / name)
