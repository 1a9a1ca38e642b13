"""Laws of reading Parquet and Arrow: what lies in them is told, what breaks their reader breaks nothing else."""

import os
import signal
import time
from itertools import combinations
from pathlib import Path

import containers as box
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from containers import faults, kept, row

from ft_assets.core import columnar
from ft_assets.core.read import read_records


def test_rows_of_a_table_that_are_not_text_are_told_apart(read):
    made = pa.table({"text": pa.array([b"good", b"b\xe9d", b"good"]).view(pa.string())})
    for name, data in (("a.parquet", box.parquet(made)), ("a.arrow", box.arrow(made))):
        records = read(name, data)
        assert kept(records) == [{"text": "good"}] * 2
        assert faults(records) == [(2, "not_utf8")]


def test_a_table_may_hold_what_json_cannot(read):
    made = pa.table({"nan": [float("nan"), 1.5], "bytes": [b"\xff", b""], "at": pa.array([0, 1], pa.timestamp("s"))})
    first, second = kept(read("a.parquet", box.parquet(made)))
    assert (first["nan"], second["nan"]) == (None, 1.5)
    assert (list(first["bytes"]), list(first["at"])) == (["bytes"], ["datetime"])


def test_offsets_that_lie_in_an_arrow_file_cost_the_rows_they_are_of(read):
    data = bytearray(box.arrow(pa.table({"text": ["aaaa", "bbbb", "cccc"]})))
    at = data.index(b"\0\0\0\0\4\0\0\0\x08\0\0\0\x0c\0\0\0")
    data[at + 4 : at + 8] = b"\xff\xff\xff\x7f"
    records = read("a.arrow", bytes(data))
    assert kept(records) == [{"text": "cccc"}]
    assert faults(records) == [(1, "malformed"), (2, "malformed")]


@pytest.mark.parametrize("name", ["a.parquet", "file.arrow", "stream.arrow"])
def test_a_table_that_is_cut_off_is_told(read, name):
    data = box.CONTAINERS[name]([row(n) for n in range(500)])
    for left in (len(data) // 2, len(data) - 9):
        records = read(name, data[:left])
        end = name == "stream.arrow" and left == len(data) - 9  # Only the mark of the end is lost, and no row.
        assert [reason for _, reason in faults(records)] == (
            [] if end and len(kept(records)) == 500 else ["unreadable"]
        )


def test_a_parquet_footer_that_contradicts_itself_is_told(read):
    data = box.parquet([{"text": f"Text {n}"} for n in range(100)])
    claim, lie = b"\x16\xc8\x01", b"\x16\x8e\x01"  # 100 and 71, as thrift writes them.
    places = [at for at in range(len(data)) if data.startswith(claim, at)]
    assert len(places) == 3  # Values of the column, rows of the group, rows of the file.
    for lies in [*combinations(places, 1), *combinations(places, 2)]:
        lying = bytearray(data)
        for at in lies:
            lying[at : at + 3] = lie
        records = read("a.parquet", bytes(lying))
        assert faults(records) == [(len(records), "unreadable")]


def test_a_column_given_twice_in_a_table_is_told(read):
    made = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    for name, data in (("a.parquet", box.parquet(made)), ("a.arrow", box.arrow(made))):
        assert faults(read(name, data)) == [(1, "unreadable")]


def nested(depth):
    value = pa.array([1])
    for _ in range(depth):
        value = pa.StructArray.from_arrays([value], names=["a"])
    return pa.table({"a": value, "text": ["deep"]})


@pytest.mark.parametrize("depth", [50, 400])
def test_a_table_nested_deeply_is_read_or_told(read, depth):
    records = read("a.parquet", box.parquet(nested(depth)))
    assert len(records) == 1
    assert depth > 50 or kept(records)


def test_a_child_killed_from_outside_is_no_fault_of_the_file(tmp_path, monkeypatch):
    """The same file must not be quarantined today and kept tomorrow."""
    file = box.written(tmp_path, "a.parquet", box.parquet([row(n) for n in range(20_000)]))
    records = read_records(file, "a.parquet")
    next(records)
    [child] = [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]
    os.kill(child, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match="status -9"):
        list(records)


def test_reading_may_stop_early_and_leaves_no_child(tmp_path):
    file = box.written(tmp_path, "a.parquet", box.parquet([row(n) for n in range(20_000)]))
    records = read_records(file, "a.parquet")
    next(records)
    records.close()
    assert Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text() == ""


def test_a_reader_that_spins_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(columnar, "CHILD_SECONDS", 1)
    pq.write_table(pa.table({"a": pa.nulls(10**7)}), tmp_path / "a.parquet", row_group_size=10**7)
    began = time.monotonic()
    records = list(read_records(tmp_path / "a.parquet", "a.parquet"))
    assert time.monotonic() - began < 15
    assert faults(records) == [(len(records), "unreadable")]
    assert "SIGXCPU" in str(records[-1].fault)


def test_a_disk_that_fails_is_no_fault_of_the_file(tmp_path):
    with pytest.raises(OSError, match=r"gone\.jsonl"):
        list(read_records(tmp_path / "gone.jsonl", "gone.jsonl"))
