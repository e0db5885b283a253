"""How processes that train together meet: with other things, or never."""

import shutil

import pytest


def test_processes_with_other_data_or_settings_are_refused_by_name(workshop, tmp_path):
    shutil.copytree(workshop.data.parent, tmp_path / "data")
    (tmp_path / "data" / "labels" / "train" / "3.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    own = [f"--data={tmp_path / 'data' / 'data.yaml'}", "--optim.lr0=2e-4"]
    ended = workshop.fit(tmp_path / "run", (1, 1), own=own)
    assert ended.codes == [2, 2], ended.errors
    for error in ended.errors:
        assert "settings and anchors (process 1); training split (process 1)" in error
        assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("present", [0, 1])
def test_a_process_that_never_comes_is_not_waited_for_forever(workshop, tmp_path, present):
    ended = workshop.fit(tmp_path / "run", (1, 1), present=[present], patience=3)
    assert ended.codes == [2]
    assert "did not come together within 3 s" in ended.errors[0]
    assert "Traceback" not in ended.errors[0]
