"""How a process finds the others: from flags or from what a scheduler left in its environment."""

import os

import jax
import pytest

from yolov7_jax.errors import UserError
from yolov7_jax.training import distributed
from yolov7_jax.training.distributed import Scheduled, join_processes, scheduled
from yolov7_jax.training.train_config import ProcessConfig

SLURM_JOB = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SLURM_STEP = SLURM_JOB | {"SLURM_STEP_NODELIST": "node[07-08]", "SLURM_STEP_NUM_NODES": "2"}
OPEN_MPI_5 = {
    "OMPI_COMM_WORLD_SIZE": "3",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}
OPEN_MPI = OPEN_MPI_5 | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
TPU = {
    "TPU_WORKER_ID": "1",
    "TPU_WORKER_HOSTNAMES": "host-0,host-1,host-2,host-3",
    "TPU_SKIP_MDS_QUERY": "1",
    "MEGASCALE_NUM_SLICES": "1",
    "MEGASCALE_SLICE_ID": "0",
}


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "JAX_COORDINATOR")):
            monkeypatch.delenv(name)


@pytest.fixture
def connected(monkeypatch):
    """Replaces connecting; gives what JAX was told."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **how: calls.append(how))
    monkeypatch.setattr(distributed.multihost_utils, "sync_global_devices", lambda name: None)
    return calls


def set_environment(monkeypatch, values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        (SLURM_STEP | {"SLURM_PROCID": "3"}, Scheduled("slurm", 4, 3)),
        (SLURM_STEP | {"SLURM_NTASKS": "1"}, Scheduled("slurm", 1, 0)),
        (SLURM_JOB, None),  # in a batch script or an interactive shell, without srun
        (OPEN_MPI, Scheduled("ompi", 3, 2)),
        (TPU, Scheduled("gketpu", 4, 1)),
        (TPU | {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}, Scheduled("gketpu", 8, 5)),
        (TPU | {"TPU_WORKER_HOSTNAMES": "alone", "TPU_WORKER_ID": "0"}, Scheduled("gketpu", 1, 0)),
    ],
)
def test_a_scheduler_is_known_by_its_environment(monkeypatch, environment, found):
    set_environment(monkeypatch, environment)
    assert scheduled() == found


def test_machines_with_tpus_leave_it_to_jax_to_ask_for_the_others(monkeypatch, connected):
    monkeypatch.setenv("TPU_LIBRARY_PATH", __file__)
    join_processes(ProcessConfig())
    assert [how["cluster_detection_method"] for how in connected] == ["gcetpu"]
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # there is nobody to ask
    assert scheduled() is None


def test_a_scheduler_that_says_nonsense_is_refused(monkeypatch):
    set_environment(monkeypatch, SLURM_STEP | {"SLURM_NTASKS": "many"})
    with pytest.raises(UserError, match=r"does not tell which process this is: .*'many'"):
        scheduled()


@pytest.mark.parametrize("environment", [{}, SLURM_JOB, SLURM_STEP | {"SLURM_NTASKS": "1"}])
def test_a_process_that_is_alone_connects_with_nobody(monkeypatch, connected, environment):
    set_environment(monkeypatch, environment)
    join_processes(ProcessConfig())
    join_processes(ProcessConfig("127.0.0.1:1", 1, 0))
    assert connected == []


def test_a_scheduled_process_leaves_the_rest_to_jax(monkeypatch, connected):
    set_environment(monkeypatch, SLURM_STEP | {"SLURM_PROCID": "1"})
    join_processes(ProcessConfig())
    assert connected[0]["cluster_detection_method"] == "slurm"
    assert "coordinator_address" not in connected[0]


def test_flags_outdo_the_scheduler_and_leave_all_devices_visible(monkeypatch, connected, capsys):
    set_environment(monkeypatch, SLURM_STEP)
    join_processes(ProcessConfig("head:1234", 2, 0))
    told = connected[0]
    assert told["cluster_detection_method"] == "deactivate"
    place = told["coordinator_address"], told["num_processes"], told["process_id"]
    assert place == ("head:1234", 2, 0)
    assert "waiting for 1 more process(es) at head:1234" in capsys.readouterr().err


def test_open_mpi_without_an_address_is_refused_with_the_flags_that_help(monkeypatch):
    set_environment(monkeypatch, OPEN_MPI_5)
    with pytest.raises(UserError, match=r"--processes\.coordinator") as caught:
        join_processes(ProcessConfig())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ProcessConfig("head:1"), "belong together; got head:1, None and None"),
        (ProcessConfig("head:1", 2, 2), r"index \(=2\) must be at least 0 and less than"),
        (ProcessConfig("head", 2, 0), r"coordinator \(=head\) must be HOST:PORT"),
    ],
)
def test_flags_that_make_no_sense_are_refused(connected, config, message):
    with pytest.raises(UserError, match=message):
        join_processes(config)
    assert connected == []
