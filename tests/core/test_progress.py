"""The progress file is read while it is written and may be damaged; a line that is no record is passed over."""

import json
from pathlib import Path

import pytest

from ft_assets.core.progress import describe, last_progress

GOOD = {"t": 1.0, "stage": "sft_adapter", "note": "training", "step": 3, "total": 9, "loss": 1.5}


def test_a_missing_file_says_nothing(tmp_path: Path) -> None:
    assert last_progress(tmp_path / "none.jsonl") == {}
    assert describe({}) == ""


@pytest.mark.parametrize(
    "line",
    [b"17", b"null", b"[]", b'"text"', b"{}", b'{"stage": "sft_adapter"}', b'{"t": 1', b"\xff\xfe", b"[" * 4000, b""],
)
def test_a_line_that_is_no_record_is_passed_over(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    assert last_progress(path) in (GOOD, {})  # a long line pushes the one before out of what is read
    path.write_bytes(line + b"\n")
    assert describe(last_progress(path)) == ""


def test_a_line_still_being_written_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "step": 4}))
    assert last_progress(path)["step"] == 3
    assert describe(last_progress(path)) == "sft_adapter: training, step 3/9, loss 1.500"
