"""Several processes that train one model together: how they meet, agree and disconnect."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import pathlib
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from yolov7_jax.errors import FAILED, UserError
from yolov7_jax.training.mesh import batch_sharding, make_mesh, place, replicated
from yolov7_jax.training.train_config import ProcessConfig

T = TypeVar("T")

ARRIVAL_SECONDS = 300  # for all processes to start; schedulers need minutes for many machines
NOT_MET = 2  # the exit code of those that came, if not all did
# A process that ends tells the others, and they have half as long to end as well. Those that have
# not by the full time are ended: they wait for something that never comes.
DISCONNECT_SECONDS = 20
SHARING_SECONDS = 60  # until a file that one machine writes is seen on all; NFS keeps old listings

# JAX also detects Kubernetes, but only where a package is installed and the job has certain rights.
_SLURM = {  # a batch script or an interactive shell, without srun, lacks the list of nodes
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
}
_OPEN_MPI_ADDRESS = "OMPI_MCA_orte_hnp_uri"


class OtherProcessError(UserError):
    """What the processes compute together has failed, as it does where one of them has ended."""

    exit_code = FAILED


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """What a scheduler says of this process.

    Attributes:
      name: of the kind of scheduler, as JAX calls it.
      count: processes that it has started together; None where JAX alone can find out.
      index: number of this one, from 0; None likewise.
    """

    name: str
    count: int | None
    index: int | None


def join_processes(config: ProcessConfig) -> None:
    """Connects this process with those that train with it, if there are any.

    To be called before anything touches a device.

    Args:
      config: where they meet; without an address, it is found out where a scheduler says so.

    Raises:
      UserError: the settings contradict themselves, or the others do not come.
    """
    given = [getattr(config, field.name) for field in dataclasses.fields(config)]
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise UserError(
                "--processes.coordinator, --processes.count and --processes.index belong together; "
                f"got {config.coordinator}, {config.count} and {config.index}"
            )
        coordinator, count, index = given
        if count < 1 or not 0 <= index < count:
            raise UserError(
                f"--processes.index (={index}) must be at least 0 and less than "
                f"--processes.count (={count})"
            )
        host, colon, port = coordinator.rpartition(":")
        if not (host and colon and port.isdigit()):
            raise UserError(f"--processes.coordinator (={coordinator}) must be HOST:PORT")
        # Whoever says all this also says which devices a process sees.
        where = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
        found = Scheduled("deactivate", count, index)
    else:
        where, found = {}, scheduled()
    if found is not None and found.count != 1:
        _connect(found, where)


def scheduled() -> Scheduled | None:
    """Returns what a scheduler says of this process; None where there is none.

    JAX detects them itself, but tells nobody before it connects: so this reads the same variables,
    as Slurm, Open MPI and GKE document them.

    Raises:
      UserError: there is one, but it tells too little.
    """
    env = os.environ
    try:
        # A process that is alone needs no address, which may be what is missing.
        if env.keys() >= _SLURM:
            return Scheduled("slurm", int(env["SLURM_NTASKS"]), int(env["SLURM_PROCID"]))
        if _OPEN_MPI_ADDRESS in env:
            rank = int(env["OMPI_COMM_WORLD_RANK"])
            return Scheduled("ompi", int(env["OMPI_COMM_WORLD_SIZE"]), rank)
        hosts = env.get("TPU_PROCESS_ADDRESSES", env.get("TPU_WORKER_HOSTNAMES"))
        if hosts is not None:
            hosts_of_slice, slices = hosts.count(",") + 1, int(env.get("MEGASCALE_NUM_SLICES") or 1)
            before = int(env.get("MEGASCALE_SLICE_ID") or 0) * hosts_of_slice
            index = before + int(env.get("TPU_WORKER_ID") or 0)
            return Scheduled("gketpu", hosts_of_slice * slices, index)
        open_mpi_count = int(env.get("OMPI_COMM_WORLD_SIZE", "1"))
    except (ValueError, KeyError) as error:
        raise UserError(
            f"the scheduler does not tell which process this is: {_first_line(error)}; "
            "--processes.coordinator, --processes.count and --processes.index would"
        ) from error
    if open_mpi_count > 1:
        # Open MPI 5 does not say where the first process is, and each would train for itself.
        raise UserError(
            "this Open MPI does not tell where the first process is; use "
            "--processes.coordinator HOST:PORT --processes.count $OMPI_COMM_WORLD_SIZE "
            "--processes.index $OMPI_COMM_WORLD_RANK"
        )
    return Scheduled("gcetpu", None, None) if _on_tpu_machine() else None


def _on_tpu_machine() -> bool:
    """Says whether this is a virtual machine with TPUs, which asks its cloud for the others."""
    has_library = "TPU_LIBRARY_PATH" in os.environ or importlib.util.find_spec("libtpu") is not None
    # JAX has set this where there are no chips; elsewhere it says that there is nobody to ask.
    return has_library and "TPU_SKIP_MDS_QUERY" not in os.environ


def _connect(found: Scheduled, where: Mapping[str, Any]) -> None:
    if found.count is not None and found.index == 0:
        at = f" at {where['coordinator_address']}" if where else f" ({found.name})"
        print(f"waiting for {found.count - 1} more process(es){at}", file=sys.stderr, flush=True)
    # Its handler would take SIGTERM from before the first step on, and nobody would ask it.
    jax.config.update("jax_enable_preemption_service", False)
    patience = threading.Timer(ARRIVAL_SECONDS, _give_up, (found.count,))
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            **where,
            cluster_detection_method=found.name,
            # When this is over, JAX aborts the process with a page of C++.
            initialization_timeout=2 * ARRIVAL_SECONDS,
            shutdown_timeout_seconds=DISCONNECT_SECONDS,
        )
        # On CPUs all have to come to the first collective within 30 s, and compiling before it may
        # take one longer than another.
        multihost_utils.sync_global_devices("met")
        mesh = make_mesh(jax.device_count())
        ones = place(np.ones(jax.device_count(), np.float32), batch_sharding(mesh))
        jax.block_until_ready(jax.jit(jax.numpy.sum, out_shardings=replicated(mesh))(ones))
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(f"the processes cannot be connected: {_first_line(error)}") from error
    finally:
        patience.cancel()


def _give_up(count: int | None) -> None:
    processes = "processes" if count is None else f"{count} processes"
    print(
        f"error: the {processes} did not come together within {ARRIVAL_SECONDS} s; are all "
        "running, with the same address and count, and may they connect to it?",
        file=sys.stderr,
        flush=True,
    )
    os._exit(NOT_MET)  # connecting cannot be called off


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_first() -> bool:
    """Says whether this is the process that writes files and talks to people."""
    return jax.process_index() == 0


def max_over_processes(*numbers: int) -> tuple[int, ...]:
    """Returns the largest that any process has of each number; all are to ask at the same point."""
    if jax.process_count() == 1:
        return numbers
    gathered = multihost_utils.process_allgather(np.asarray(numbers, np.int32))
    return tuple(np.max(gathered, 0).tolist())


def any_process(flag: bool) -> bool:
    """Says whether a flag is set in any process; all are to ask at the same point."""
    return bool(max_over_processes(int(flag))[0])


def run_on_first(function: Callable[[], T]) -> T:
    """Calls a function in the first process alone, and returns its result in all.

    What a run finds in its folder is found like this: another process may see an older state of a
    shared disk, and would go on to another computation than the rest.

    Args:
      function: returns what JSON can hold.

    Raises:
      UserError: the function has raised it, in all processes.
    """
    if jax.process_count() == 1:
        return function()
    result, fault = None, ""
    if is_first():
        try:
            result = function()
        except UserError as error:
            fault = str(error)
    sent = json.dumps([result, fault]).encode() if is_first() else b""
    received = gather_over_processes(np.frombuffer(sent, np.uint8))
    result, fault = json.loads(received.tobytes())
    if fault:
        raise UserError(fault)
    return result


def check_same(facts: Mapping[str, str]) -> None:
    """Refuses to go on where processes would train on different things.

    Args:
      facts: what must be the same in all processes, by what to call it; the same names in all.

    Raises:
      UserError: names what differs, in all processes.
    """
    hashes = [hashlib.sha256(fact.encode()).digest() for fact in facts.values()]
    own = np.frombuffer(b"".join(hashes), np.uint8).reshape(1, len(facts), -1)
    all_hashes = gather_over_processes(own)  # [processes, facts, 32]
    differs = (all_hashes != all_hashes[0]).any(2)
    if not differs.any():
        return
    faults = [
        f"{name} (process {', '.join(map(str, np.flatnonzero(others)))})"
        for name, others in zip(facts, differs.T, strict=True)
        if others.any()
    ]
    raise UserError(
        f"all processes must have the same; these differ from those of process 0: "
        f"{'; '.join(faults)}"
    )


def check_shared(folder: pathlib.Path) -> None:
    """Refuses a folder that is not the same one for all processes: each writes parts of it.

    Args:
      folder: exists and can be written to, as far as this process can tell.

    Raises:
      UserError: some do not see what the first one writes, in all processes.
    """
    if jax.process_count() == 1:
        return
    name = run_on_first(lambda: f".shared-{secrets.token_hex(8)}")
    if is_first():
        (folder / name).touch()
    multihost_utils.sync_global_devices("written")
    deadline = time.monotonic() + SHARING_SECONDS
    # Listing shows what is new sooner than asking for it does.
    while not (seen := name in os.listdir(folder)) and time.monotonic() < deadline:
        time.sleep(0.5)
    blind = any_process(not seen)
    if is_first():
        (folder / name).unlink()
    if blind:
        raise UserError(
            f"{folder}: is another folder on another machine; all processes write parts of the "
            "checkpoints, so it must be on a file system that they share"
        )


def gather_over_processes(tree: Any) -> Any:
    """Returns arrays of any length put together, process by process; the same in all.

    Args:
      tree: numpy arrays whose first axis may differ in length between processes.
    """
    if jax.process_count() == 1:
        return tree

    def gather(rows: np.ndarray) -> np.ndarray:
        # As bytes: JAX would make 64-bit numbers 32-bit ones.
        width = rows.dtype.itemsize * int(np.prod(rows.shape[1:]))
        own = np.frombuffer(rows.tobytes(), np.uint8).reshape(len(rows), width)
        counts = multihost_utils.process_allgather(np.asarray(len(rows)))
        padded = np.zeros((int(counts.max()), width), np.uint8)
        padded[: len(rows)] = own
        parts = multihost_utils.process_allgather(padded)
        together = [part[:count] for part, count in zip(parts, counts, strict=True)]
        data = np.concatenate(together).tobytes()
        return np.frombuffer(data, rows.dtype).reshape(-1, *rows.shape[1:])

    return jax.tree.map(gather, tree)


def wait_for_all() -> None:
    """Returns when all processes have come to this point."""
    multihost_utils.sync_global_devices("waited")


def disconnect(code: int) -> None:
    """Leaves the other processes, if there are any; to be called before this one ends.

    Where they leave too, all can end in order. Where they do not, this process has failed alone:
    it ends here, and the others, who can do nothing without it, are ended by JAX.

    Args:
      code: the exit code.
    """
    if not jax.distributed.is_initialized():
        return

    def say_goodbye() -> None:
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()

    goodbye = threading.Thread(target=say_goodbye, daemon=True)
    goodbye.start()
    goodbye.join(DISCONNECT_SECONDS / 2)
    if goodbye.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        # What ends in order would wait for the others, for computations that never end too.
        os._exit(code)
