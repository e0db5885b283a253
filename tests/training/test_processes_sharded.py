"""Runs whose parameters lie in parts on the devices of two processes."""

import shutil

import numpy as np
import pytest
from training_processes import EPOCH, assert_same_records


@pytest.mark.slow
def test_sharded_run_out_of_time_at_its_evaluation_continues_on_any_number_of_devices(
    workshop, alone, tmp_path
):
    run = tmp_path / "run"
    ended = workshop.fit(run, (2, 2), "--shard-parameters", "--max-hours=1e-9")
    assert ended.codes == [0, 0], ended.errors
    assert f"stopped after step {EPOCH} (--max-hours 1e-09)" in ended.outputs[0]
    wanted = alone[1].losses[: len(ended.losses)]
    np.testing.assert_allclose(ended.losses, wanted, rtol=1e-5)
    for number, devices in enumerate([(1,), (4,), (2, 2)]):
        copy = tmp_path / f"run{number}"
        shutil.copytree(run, copy)
        ended = workshop.run(["resume", str(copy), "--max-hours=1"], devices)
        assert set(ended.codes) == {0}, ended.errors
        np.testing.assert_allclose(ended.losses, alone[1].losses[EPOCH:], rtol=1e-5)
        assert_same_records(copy, alone[0])
