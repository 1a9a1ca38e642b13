"""Laws of reading anything: bounded time, bounded memory, and every row accounted for, whatever the bytes."""

import json
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import batches as batch
import containers as box
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from containers import kept, row
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_assets.core.unpack import EXPANSION_FREE_BYTES
from ft_assets.recipes.schema import Source

ALPACA = Source(kind="instruction", location="here", format="alpaca", licence="MIT", personal_data="keep")


# What a file costs to read


def gzip_bomb(times, unit=bytes(2**26)):
    """One row, and then one piece of 64 MiB that unpacks as often as is wanted: gigabytes in megabytes."""
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(b'{"a": 1}\n') + packer.flush(zlib.Z_FULL_FLUSH)
    packer.compress(unit)
    packer.flush(zlib.Z_FULL_FLUSH)
    return head + (packer.compress(unit) + packer.flush(zlib.Z_FULL_FLUSH)) * times


def parquet_bomb(file, rows):
    """Rows of a megabyte, of which the file holds one."""
    same = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 2**20]))
    pq.write_table(pa.table({"text": same}), file, compression="zstd")


HEAVY = {  # Rows kept, and where and why what is not.
    "a.jsonl": (2, [[2, "oversized"]]),
    "array.json": (2, [[2, "oversized"]]),
    "a.csv": (2, [[3, "oversized"]]),
    "a.parquet": (2, [[2, "oversized"]]),
    "file.arrow": (2, [[2, "oversized"]]),
    "line.jsonl": (2, [[2, "oversized"]]),
    "bomb.jsonl.gz": (1, [[2, "oversized"]]),
    "bomb.json.gz": (1, [[2, "oversized"]]),
    "bomb.csv.gz": (0, [[2, "oversized"]]),
    "bomb.txt.gz": (0, [[1, "oversized"]]),
    "bomb.jsonl.zst": (0, [[1, "oversized"]]),
    "bomb.parquet": (63, [[64, "oversized"]]),
    "bomb.arrow.gz": (0, [[1, "oversized"]]),
}
MOST_SECONDS, MOST_MIB, MOST_CHILD_MIB = 20, 256, 1024


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    """What a process of its own said of each file of :data:`HEAVY`."""
    folder = tmp_path_factory.mktemp("heavy")
    rows, bomb = [row(0), row(1, "x" * 50 * 2**20), row(2)], gzip_bomb(48)
    for name in ("a.jsonl", "array.json", "a.parquet", "file.arrow"):
        box.written(folder, name, box.CONTAINERS[name](rows))
    box.written(
        folder,
        "a.csv",
        box.table([rows[0]])
        + b"".join(b"%s,%s\n" % (r["instruction"].encode(), r["output"].encode()) for r in rows[1:]),
    )
    box.written(folder, "line.jsonl", box.json_lines([row(0)]) + b"x" * 200 * 2**20 + b"\n" + box.json_lines([row(1)]))
    for name in [name for name in HEAVY if name.startswith("bomb") and name.endswith(".gz")]:
        box.written(folder, name, bomb[: len(bomb) // (1 if name == "bomb.jsonl.gz" else 8)])
    box.written(folder, "bomb.jsonl.zst", box.PACKERS[".zst"](bytes(2**26)) * 48)
    parquet_bomb(folder / "bomb.parquet", 6000)
    command = [sys.executable, str(Path(batch.__file__).parent / "heavy.py"), *(str(folder / name) for name in HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return dict(zip(HEAVY, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", HEAVY)
def test_huge_rows_and_bombs_cost_bounded_time_and_memory(heavy, name):
    told, (rows, wanted) = heavy[name], HEAVY[name]
    assert (told["kept"], [fault[:2] for fault in told["faults"]]) == (rows, wanted)
    assert told["seconds"] < MOST_SECONDS
    assert told["mib"] < MOST_MIB
    assert told["child_mib"] < MOST_CHILD_MIB


def test_small_files_may_unpack_to_as_much_as_they_like(read):
    """Text that repeats itself is no bomb while it is small."""
    rows = EXPANSION_FREE_BYTES // 8 // 2**20
    data = box.PACKERS[".gz"](box.json_lines([{"text": "x" * 2**20}] * rows))
    assert len(kept(read("a.jsonl.gz", data))) == rows


# Any bytes at all

PLAIN = [row(n) for n in range(20)]
SEEDS = {
    name + packing: box.PACKERS[packing](make(PLAIN))
    for name, make in box.CONTAINERS.items()
    for packing in box.PACKERS
}
LIGHT = sorted(name for name in SEEDS if ".parquet" not in name and ".arrow" not in name)
COLUMNAR = sorted(set(SEEDS) - set(LIGHT))


@st.composite
def mutated(draw, names):
    """A file of some container, with bytes of it changed, cut out, put in or swapped."""
    name = draw(st.sampled_from(names))
    data = bytearray(SEEDS[name])
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        piece = draw(
            st.binary(max_size=4) | st.sampled_from([b'"', b"{", b"[", b"]", b",", b"\n", b"\0", b"\xff\xff\xff\x7f"])
        )
        data[at : at + draw(st.integers(0, 40) | st.sampled_from([len(piece)] * 3))] = piece
    return name, bytes(data)


def conserved(name, data):
    with tempfile.TemporaryDirectory() as folder:
        found = batch.validate(ALPACA, box.written(Path(folder), name, data))
    assert found.rows_in == found.rows.height + found.quarantine.height == found.found.kept + found.found.quarantined
    positions = found.rows["position"].to_list() + found.quarantine["position"].to_list()
    assert len(set(positions)) == len(positions)
    assert all(found.quarantine["detail"].str.len_chars() > 0)


@given(st.tuples(st.sampled_from(LIGHT), st.binary(max_size=300)) | mutated(LIGHT))
@settings(max_examples=250, deadline=None, derandomize=True)
def test_no_bytes_stop_the_reading(file):
    conserved(*file)


@given(mutated(COLUMNAR))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_no_bytes_of_a_table_stop_the_reading(file):
    conserved(*file)
