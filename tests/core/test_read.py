"""Laws of reading: the container makes no difference, a bad row takes no other along, and nothing vanishes unsaid."""

import json
import zlib

import batches as batch
import containers as box
import pytest
from containers import faults, kept, numbers, row

from ft_assets.core import json_array, lines, table
from ft_assets.core.reasons import Reason
from ft_assets.recipes.schema import Source

ALPACA = Source(kind="instruction", location="here", format="alpaca", licence="MIT", personal_data="keep")
LIMIT = 2**18
TEXT = Source(kind="text", location="here", format="text", licence="MIT")


ROWS = [
    row(0),
    row(1, 'with "quotes", commas,\ttabs\nand a line end'),
    row(2, "\u2028 \u200d \u05e9\u05dc\u05d5\u05dd \U0001f600"),
    {"instruction": "=1+1", "output": "  blanks around  "},
]
PACKED = [(name, packing) for name in box.CONTAINERS for packing in box.PACKERS]


# The same rows, whatever they come in


@pytest.fixture(scope="module")
def plain_ids(tmp_path_factory):
    file = box.written(tmp_path_factory.mktemp("plain"), "a.jsonl", box.json_lines(ROWS))
    ids = batch.validate(ALPACA, file).rows["row_id"].to_list()
    assert len(set(ids)) == len(ROWS)
    return ids


@pytest.mark.parametrize(("name", "packing"), PACKED, ids=[name + packing for name, packing in PACKED])
def test_every_container_and_packing_gives_the_same_rows(tmp_path, plain_ids, name, packing):
    data = box.PACKERS[packing](box.CONTAINERS[name](ROWS))
    found = batch.validate(ALPACA, box.written(tmp_path, name + packing, data))
    assert (found.rows["row_id"].to_list(), found.counts()) == (plain_ids, {})


@pytest.mark.parametrize("packing", box.PACKERS)
@pytest.mark.parametrize("suffix", [".txt", ".md", ".MD"])
def test_a_document_is_one_row_in_every_packing(tmp_path, suffix, packing):
    data = box.PACKERS[packing](b"\xef\xbb\xbf# Title\r\n\r\nText \xe2\x80\xa8 on.\r\n")
    found = batch.validate(TEXT, box.written(tmp_path, "page" + suffix + packing, data))
    assert found.rows["text"].to_list() == ["# Title\r\n\r\nText \u2028 on."]


def test_what_a_table_leaves_out_is_null_and_the_same_as_absent(tmp_path):
    rows = [{**row(1), "input": "Context."}, row(0)]
    found = [
        batch.validate(ALPACA, box.written(tmp_path, name, box.CONTAINERS[name](rows))).rows["row_id"].to_list()
        for name in ("a.jsonl", "a.parquet")
    ]
    assert len(found[0]) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["a.jsonl", "array.json", "lines.json", "a.csv", "a.tsv"])
def test_a_byte_order_mark_is_no_part_of_the_rows(read, name):
    data = box.CONTAINERS[name](ROWS)
    assert kept(read(name, b"\xef\xbb\xbf" + data)) == kept(read(name, data)) != []


@pytest.mark.parametrize("name", box.CONTAINERS)
def test_an_empty_file_has_no_row_or_cannot_be_read(read, name):
    unreadable = [(1, "unreadable")] if name.endswith((".parquet", ".arrow")) else []
    assert faults(read(name, b"")) == unreadable
    assert kept(read(name, b"")) == []


@pytest.mark.parametrize("name", ["rows", "rows.xlsx", "rows.jsonl.bz2", "rows.gz", ".jsonl"])
def test_a_file_of_unknown_name_is_one_unreadable_record(read, name):
    [record] = read(name, box.json_lines(ROWS))
    assert (record.position, record.fault.reason) == (1, Reason.UNREADABLE)
    assert ".parquet" in str(record.fault)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "array.json", "a.csv", "a.txt"])
def test_another_encoding_than_utf8_gives_no_row(tmp_path, name, encoding):
    data = box.CONTAINERS.get(name, box.json_lines)(ROWS).decode().encode(encoding)
    found = batch.validate(TEXT if name == "a.txt" else ALPACA, box.written(tmp_path, name, data))
    assert found.rows.height == 0
    assert found.rows_in == found.quarantine.height > 0


# One bad row among good ones

BAD_JSON = {
    "torn": (b'{"instruction": "Question', "malformed"),
    "surrogate": (b'{"instruction": "\\ud800", "output": "a"}', "malformed"),
    "NUL": (b'{"instruction": "\x00", "output": "a"}', "malformed"),
    "NaN": (b'{"instruction": "a", "output": "b", "score": NaN}', "malformed"),
    "infinity": (b'{"instruction": "a", "output": "b", "score": -Infinity}', "malformed"),
    "key twice": (b'{"instruction": "a", "output": "b", "output": "c"}', "malformed"),
    "2,000 deep": (b'{"a":' + b"[" * 2000 + b"1" + b"]" * 2000 + b"}", None),
    "30,000 deep": (b'{"a":' * 30_000 + b"1" + b"}" * 30_000, "malformed"),
    "not UTF-8": (b'{"instruction": "\xe9", "output": "a"}', "not_utf8"),
    "no object": (b"17", "wrong_type"),
    "a stray brace": (b'{"instruction": "a"}}', "malformed"),
    "too long": (b'{"instruction": "' + b"x" * 3 * LIMIT + b'"}', "oversized"),
    "a little too long": (b'{"a":"' + b"x" * (LIMIT - 7) + b'"}', "oversized"),
    "escapes": (b'{"instruction": "' + b'\\"' * 2 * LIMIT + b'"}', "oversized"),
    "backslashes": (b'{"instruction": "' + b"\\\\" * 2 * LIMIT + b'"}', "oversized"),
    "brackets": (b"[" * 2 * LIMIT + b"]" * 2 * LIMIT, "oversized"),
    "blanks": (b"{" + b" " * 2 * LIMIT + b"}", "oversized"),
    "strings": (b"[" + b'"[{", ' * LIMIT + b"0]", "oversized"),
}


@pytest.fixture
def short_rows(monkeypatch):
    """Rows may have :data:`LIMIT` bytes; what is longer in earnest is in :data:`HEAVY`."""
    for module in (json_array, lines, table):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", LIMIT)


@pytest.mark.parametrize("container", ["lines", "array"])
@pytest.mark.parametrize("bad", BAD_JSON)
def test_rows_around_a_bad_one_survive(read, short_rows, bad, container):
    data, reason = BAD_JSON[bad]
    if container == "array" and bad == "torn":
        data += b'"}}'  # An open quote has no end in an array; its own test is below.
    before, after = (json.dumps(row(number)).encode() for number in (0, 1))
    joined = (
        b"\n".join([before, data, after]) if container == "lines" else b"[" + b",".join([before, data, after]) + b"]"
    )
    records = read("a.json", joined)
    assert len(records) == 3
    assert [records[0].value, records[2].value] == [row(0), row(1)]
    assert len(records[1].shown()) <= 2000
    if reason:
        assert faults(records) == [(2, reason)]


@pytest.mark.parametrize("container", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_column_whose_type_changes_costs_only_the_rows_of_the_wrong_type(tmp_path, container):
    if container == "a.parquet":  # A typed column cannot change; it is of the wrong type as a whole.
        data, left = box.parquet([{"instruction": 1, "output": "a"}]), 0
    elif container == "a.csv":
        data, left = box.table([row(0), row(1), {"instruction": 7, "output": 7}]), 3
    else:
        data, left = box.json_lines([row(0), {"instruction": 7, "output": "a"}, row(1), row(2, output=None)]), 2
    found = batch.validate(ALPACA, box.written(tmp_path, container, data))
    assert found.rows.height == left
    assert set(found.counts()) <= {"wrong_type"}


@pytest.mark.parametrize("name", ["a.jsonl", "array.json"])
def test_a_line_separator_inside_a_string_ends_no_row(read, name):
    rows = [row(n, "a\u2028b\u2029c\x85d") for n in range(3)]
    assert kept(read(name, box.CONTAINERS[name](rows))) == rows


def test_bidirectional_marks_are_refused_and_joiners_kept(tmp_path):
    flag = "\U0001f3f4\U000e0067\U000e0062\U000e007f"
    rows = [row(0, "a\u202eb"), row(1, "a\u2066b"), row(2, "a\u200db\u200f"), row(3, "a\U000e0041b"), row(4, flag)]
    found = batch.validate(ALPACA, box.written(tmp_path, "a.csv", box.table(rows)))
    assert found.rows["position"].to_list() == [4, 6]
    assert found.counts() == {"control_characters": 3}


def test_a_character_of_no_width_hides_no_repeat(tmp_path):
    rows = [row(0), *(row(0, f"Ye{mark}s.") for mark in "\u200b\ufeff\u00ad\u2063\u200e")]
    found = batch.validate(ALPACA, box.written(tmp_path, "a.jsonl", box.json_lines(rows)))
    assert found.counts() == {"exact_duplicate": len(rows) - 1}


# JSON arrays

ENDS = {
    "no end": b'[{"a": 1}, {"b": 2}',
    "comma": b'[{"a": 1}, {"b": 2},',
    "open string": b'[{"a": 1}, {"b": 2}, {"c": "x, ]',
    "open brace": b'[{"a": 1}, {"b": 2}, {"c": {"d": 3}, {"e": 4}]',
    "behind the end": b'[{"a": 1}, {"b": 2}] {"c": 3}',
    "two arrays": b'[{"a": 1}, {"b": 2}][{"c": 3}]',
}


@pytest.mark.parametrize("end", ENDS)
def test_an_array_that_does_not_end_well_gives_what_came_before(read, end):
    records = read("a.json", ENDS[end])
    assert kept(records) == [{"a": 1}, {"b": 2}]
    assert faults(records)[0][0] == 3
    assert faults(records)[-1] == (len(records), "unreadable")
    assert f"from position {len(records)} on" in str(records[-1].fault)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("data", [b"[}", b"[}}}]", b"[}, {}]", b"[:]", b"[,]", b"[\\", b'["', b"[]]", b"[{]}", b"[[[["])
def test_a_broken_array_is_read_to_its_end(read, data):
    records = read("a.json", data)
    assert len(records) <= 3
    assert [value for value in kept(records) if value] == []


@pytest.mark.parametrize("size", [2**13 - 30, 2**16 - 40, 2**16 - 1, 2**16, 2**17 + 3])
def test_rows_lie_across_the_pieces_in_which_a_file_is_read(read, size):
    rows = [row(number, '\\"]}[{,' * (size // 14) + "é" * number) for number in range(9)]
    assert kept(read("a.json", json.dumps(rows).encode())) == rows
    assert kept(read("b.json", b"\n" * size + json.dumps(rows, ensure_ascii=False).encode())) == rows


def test_json_lines_after_blank_ones_keep_their_line_numbers(read):
    records = read("a.json", b"\n" * 9000 + box.json_lines([row(0)]) + b"\n \n" + box.json_lines([row(1)]))
    assert [record.position for record in records] == [9001, 9004]


# CSV


def csv_of(*lines):
    return b"\n".join([b"instruction,output", *lines, b""])


GOOD = b"Question 0?,Yes."


def test_a_quote_that_never_closes_ends_the_reading_where_it_was_opened(read):
    records = read("a.csv", csv_of(GOOD, b'Question 1?,"Yes.', b"Question 2?,Yes."))
    assert numbers(records) == [0]
    assert faults(records) == [(3, "unreadable")]
    assert "never closes" in str(records[-1].fault)


def test_lines_swallowed_by_a_quote_are_one_record_that_names_them(read):
    records = read("a.csv", csv_of(GOOD, b'Question 1?,"Yes.', b'Question 2?,"Yes."', b"Question 3?,Yes."))
    assert numbers(records) == [0, 3]
    assert faults(records) == [(3, "malformed")]
    assert "lines 3 to 4" in str(records[1].fault)
    assert "Question 1" in records[1].raw
    assert "Question 2" in records[1].raw


@pytest.mark.parametrize("bad", [b"Question 1?", b"Question 1?,Yes.,more", b'Question 1?,"Yes."?', b"\xe9,\xe9"])
def test_a_bad_csv_row_takes_no_other_along(read, bad):
    records = read("a.csv", csv_of(GOOD, bad, b"Question 2?,Yes."))
    assert numbers(records) == [0, 2]
    assert faults(records) == [(3, "not_utf8" if bad[0] == 0xE9 else "malformed")]
    assert records[1].raw == bad.decode("utf-8", "replace") + "\n"


@pytest.mark.parametrize(
    ("header", "reason"),
    [(b"instruction,output,output", "unreadable"), (b'"a"b,c', "unreadable"), (b"\xe9,output", "not_utf8")],
)
def test_without_a_header_that_can_be_used_no_row_is_read(read, header, reason):
    records = read("a.csv", b"\n".join([header, b"a,b,c", b"d,e,f"]))
    assert (kept(records), faults(records)) == ([], [(1, reason)])


def test_crlf_ends_rows_and_stays_in_cells(read):
    data = box.table([row(0, "a\r\nb"), row(1)])
    assert b"\r\n" in data
    assert [value["output"] for value in kept(read("a.csv", data))] == ["a\r\nb", "Yes."]


def test_lines_are_counted_over_cells_of_many_lines_and_blank_lines(read):
    records = read("a.csv", b"\n\n" + csv_of(b'a,"x\ny\nz"', b"", GOOD, b"short"))
    assert [record.position for record in records] == [4, 8, 9]


BIG = 3 * LIMIT
BIG_CELLS = {
    "one line": b'Question 1?,"' + b"x" * BIG + b'"',
    "no quotes": b"Question 1?," + b"x" * BIG,
    "many lines": b'Question 1?,"' + b"x, y\n" * (BIG // 5) + b'"',
    "escaped quotes": b'Question 1?,"' + b'""\n' * (BIG // 3) + b'"',
    "many cells": b",".join([b'"' + b"x" * (LIMIT // 9) + b'\n"'] * 20),
}


@pytest.mark.parametrize("big", BIG_CELLS)
def test_rows_behind_one_that_is_too_long_are_read(read, short_rows, big):
    records = read("a.csv", csv_of(GOOD, BIG_CELLS[big], b"Question 2?,Yes."))
    assert numbers(records) == [0, 2]
    assert faults(records) == [(3, "oversized")]
    assert records[2].position == 4 + BIG_CELLS[big].count(b"\n")


def test_a_quote_that_never_closes_is_no_row_too_long(read, short_rows):
    records = read("a.csv", csv_of(GOOD, b'Question 1?,"Yes.') + b"Question 2?,Yes.\n" * LIMIT)
    assert (numbers(records), faults(records)) == ([0], [(3, "unreadable")])


# Packed files that are broken

MANY = box.json_lines([row(n) for n in range(2000)])


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_of_a_packed_file_cut_off_all_that_unpacks_is_read(read, packing, share):
    packed = box.PACKERS[packing](MANY)
    packed = packed[: int(len(packed) * share)]
    records = read("a.jsonl" + packing, packed)
    whole = numbers(records)
    assert whole == list(range(len(whole)))
    assert faults(records) == [(len(whole) + 1, "unreadable")]
    if packing == ".gz":
        assert len(whole) == zlib.decompressobj(31).decompress(packed).count(b"\n")
    assert "ends in the middle" in str(records[-1].fault)


@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_an_array_or_table_cut_off_inside_its_packing_gives_its_first_rows(read, name):
    data = box.CONTAINERS["array.json" if name == "a.json" else name]([row(n, str(n * 7919)) for n in range(20_000)])
    records = read(name + ".gz", box.PACKERS[".gz"](data)[:40_000])
    whole = numbers(records)
    assert whole == list(range(len(whole)))
    assert len(whole) > 4000
    assert [fault[1] for fault in faults(records)] == ["unreadable"]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("behind", [b"garbage", b"\x1f\x8b\x08 no gzip", b"\x28\xb5\x2f\xfd no zstd"])
def test_rows_in_front_of_garbage_are_kept_and_the_garbage_is_told(read, packing, behind):
    records = read("a.jsonl" + packing, box.PACKERS[packing](MANY) + behind)
    assert numbers(records) == list(range(2000))
    assert faults(records) == [(2001, "unreadable")]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_packed_file_may_have_several_streams(read, packing):
    pack = box.PACKERS[packing]
    parts = [pack(box.json_lines([row(n)])) for n in range(300)]
    records = read("a.jsonl" + packing, pack(b"") + b"".join(parts))
    assert numbers(records) == list(range(300))
    assert faults(records) == []


def test_zeros_behind_gzip_are_no_garbage(read):
    records = read("a.jsonl.gz", box.PACKERS[".gz"](MANY) + bytes(5000))
    assert (len(kept(records)), faults(records)) == (2000, [])


def test_a_flipped_bit_in_gzip_is_told(read):
    packed = bytearray(box.PACKERS[".gz"](MANY))
    packed[-6] ^= 1  # In the checksum.
    assert [reason for _, reason in faults(read("a.jsonl.gz", bytes(packed)))] == ["unreadable"]
