"""Two processes that write and read one checkpoint together, over the loopback interface."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from compiling import QUICK_FLAGS
from jax.sharding import SingleDeviceSharding

from yolov7_jax.training.checkpoint import Checkpoints

PROCESSES, DEVICES = 2, 2
LONGEST = 120  # seconds

SCRIPT = """
import json, pathlib, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from yolov7_jax.training import checkpoint
from yolov7_jax.training.checkpoint import Checkpoints
from yolov7_jax.errors import UserError

run, address, index = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(address, 2, index)
mesh = Mesh(np.asarray(jax.devices()), ("data",))
parts, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
numbers = np.arange(64, dtype=np.float32)
make = lambda array, sharding: jax.make_array_from_callback(
    array.shape, sharding, lambda index: array[index])
report = {}

with Checkpoints(run, {}) as checkpoints:
    for step in (1, 2, 3):
        tree = {"parts": make(numbers + step, parts), "whole": make(numbers - step, whole)}
        checkpoints.save(step, tree)

if index == 0:
    (run / "checkpoints" / "3" / "state" / "_METADATA").unlink()
jax.experimental.multihost_utils.sync_global_devices("damaged")

with Checkpoints(run, {}) as checkpoints:
    report["last"], report["rejected"] = checkpoints.last_step, checkpoints.rejected
    loaded = checkpoints.load(tree, {"parts": parts, "whole": whole})
    report["parts"] = [np.asarray(shard.data).tolist() for shard in
                       loaded["parts"].addressable_shards]
    write = checkpoint.write_manifest
    def fail(folder):
        raise OSError(28, "No space left on device")
    checkpoint.write_manifest = fail
    try:
        checkpoints.save(3, tree)
        checkpoints.wait()
    except UserError as error:
        report["error"] = str(error)
    checkpoint.write_manifest = write
    checkpoints.save(3, tree)

print(json.dumps(report))
jax.distributed.shutdown()
"""

FULL = """
import pathlib, resource, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from yolov7_jax.training import distributed
from yolov7_jax.training.checkpoint import Checkpoints
from yolov7_jax.training.train_config import ProcessConfig
from yolov7_jax.training.distributed import disconnect, join_processes
from yolov7_jax.errors import UserError

run, address, index, unlucky = pathlib.Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
distributed.DISCONNECT_SECONDS = 4
join_processes(ProcessConfig(address, 2, index))
parts = NamedSharding(Mesh(np.asarray(jax.devices()), ("data",)), PartitionSpec("data"))
numbers = np.random.default_rng(0).random(2**16)
tree = {"parts": jax.make_array_from_callback(numbers.shape, parts, lambda at: numbers[at])}
code = 0
try:
    with Checkpoints(run, {}) as checkpoints:
        checkpoints.save(1, tree)
        checkpoints.wait()
        if index == unlucky:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, resource.RLIM_INFINITY))
        checkpoints.save(2, tree)
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    code = 2
disconnect(code)
sys.exit(code)
"""


def run_both(script, run, *more):
    """Runs a program in two processes to their ends.

    Returns:
      For each, its exit code, and what it has printed and told of errors.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={DEVICES} {QUICK_FLAGS}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(run), address, str(index), *map(str, more)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for index in range(PROCESSES)
    ]
    try:
        ended = [process.communicate(timeout=LONGEST) for process in started]
    finally:
        for process in started:
            process.kill()
    codes = [process.returncode for process in started]
    return [(code, *printed) for code, printed in zip(codes, ended, strict=True)]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The run's folder, and what each process has to report."""
    run = tmp_path_factory.mktemp("run")
    ended = run_both(SCRIPT, run)
    assert [code for code, _, _ in ended] == [0, 0], ended
    return run, [json.loads(output.splitlines()[-1]) for _, output, _ in ended]


def test_processes_agree_on_the_checkpoint_that_stands_in_for_a_damaged_one(together):
    _, reports = together
    for report in reports:
        assert report["last"] == 2
        assert "checkpoint 3 is damaged: state/_METADATA is missing" in report["rejected"][0]
    pieces = [piece for report in reports for piece in report["parts"]]
    assert np.concatenate(pieces).tolist() == (np.arange(64) + 2).tolist()


def test_what_fails_in_one_process_stops_all(together):
    _, reports = together
    assert "the disk is full" in reports[0]["error"]
    assert "another process failed" in reports[1]["error"]


def test_what_several_processes_wrote_one_can_read(together):
    run, _ = together
    numbers = np.arange(64, dtype=np.float32)
    with Checkpoints(run, {}) as checkpoints:
        tree = checkpoints.load(
            {"parts": numbers, "whole": numbers}, SingleDeviceSharding(jax.devices()[0])
        )
        assert checkpoints.last_step == 3
    np.testing.assert_array_equal(tree["parts"], numbers + 3)
    np.testing.assert_array_equal(tree["whole"], numbers - 3)


@pytest.mark.parametrize("unlucky", [0, 1])
def test_a_process_that_cannot_write_its_part_says_why_and_ends_all(tmp_path, unlucky):
    ended = run_both(FULL, tmp_path, unlucky)
    code, _, error = ended[unlucky]
    assert code == 2, ended
    assert "checkpoint 2 could not be written: " in error
    assert "files may not grow so large" in error
    assert "checkpoint 1 is still whole" in error
    assert "Traceback" not in error
    assert ended[1 - unlucky][0] != 0, ended
    with Checkpoints(tmp_path, {}) as checkpoints:
        assert checkpoints.last_step == 1
