"""metrics.jsonl: no epoch twice, none lost, and no half line that is taken for a whole one."""

import pytest
from full_disk import files_end_at

from yolov7_jax.errors import UserError
from yolov7_jax.training.metrics_file import append_record, read_records, truncate_records


def test_records_after_the_checkpoint_are_dropped(tmp_path):
    for epoch in (1, 2, 3):
        append_record(tmp_path, {"epoch": epoch, "step": 10 * epoch})
    assert truncate_records(tmp_path, 25) == read_records(tmp_path)
    assert [record["epoch"] for record in read_records(tmp_path)] == [1, 2]


def test_a_line_cut_short_is_left_out(tmp_path):
    append_record(tmp_path, {"epoch": 1, "step": 10})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')
    assert read_records(tmp_path) == [{"epoch": 1, "step": 10}]
    assert truncate_records(tmp_path, 20) == [{"epoch": 1, "step": 10}]
    append_record(tmp_path, {"epoch": 2, "step": 20})
    assert len(read_records(tmp_path)) == 2


@pytest.mark.parametrize("line", ['{"a": 1}', "5", '{"step": 1'])
def test_a_line_that_is_no_record_is_refused_and_nothing_deleted(tmp_path, line):
    text = '{"step": 1}\n' + line + '\n{"step": 3}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: is not the record of an epoch"):
        truncate_records(tmp_path, 3)
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_a_folder_without_records_has_none(tmp_path):
    assert read_records(tmp_path) == []


def test_a_record_that_is_no_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        append_record(tmp_path, {"ap": float("nan")})


def test_a_record_that_does_not_fit_on_the_disk_leaves_no_half_line(tmp_path):
    append_record(tmp_path, {"epoch": 1, "step": 10})
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with (
        files_end_at(len(before) + 5),
        pytest.raises(UserError, match="cannot be written") as caught,
    ):
        append_record(tmp_path, {"epoch": 2, "step": 20})
    assert "metrics.jsonl" in str(caught.value)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    append_record(tmp_path, {"epoch": 2, "step": 20})
    assert [record["epoch"] for record in read_records(tmp_path)] == [1, 2]


def test_records_that_cannot_be_rewritten_stay_as_they_were(tmp_path):
    for epoch in (1, 2, 3):
        append_record(tmp_path, {"epoch": epoch, "step": 10 * epoch})
    with files_end_at(5), pytest.raises(UserError, match="cannot be written"):
        truncate_records(tmp_path, 20)
    assert len(read_records(tmp_path)) == 3


def test_a_line_cut_short_within_a_character_is_left_out(tmp_path):
    append_record(tmp_path, {"epoch": 1, "step": 10})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": "\xc3')
    assert read_records(tmp_path) == [{"epoch": 1, "step": 10}]
