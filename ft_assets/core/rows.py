"""From the files of a batch to validated rows and a quarantine: every row goes to exactly one of the two.

The pandera schemas below say what a row of each kind must hold and are meant to be read as its documentation. A batch is
worked through in pieces, so memory does not grow with it but for one small hash a row.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pyarrow as arrow
import pyarrow.parquet as pq
from pandera.errors import SchemaErrors

from ft_assets.core import language, personal
from ft_assets.core.forms import shape
from ft_assets.core.read import Record, read_records
from ft_assets.core.reasons import Reason, RowFault
from ft_assets.core.row_ids import content_id, normal_id
from ft_assets.core.texts import texts
from ft_assets.recipes.schema import Source

PIECE_ROWS = 8192
PIECE_CHARACTERS = 32 * 2**20
SAMPLES_OF_EACH_REASON = 2
SPECIAL_TOKEN = r"<\|[a-zA-Z0-9_]{1,40}\|>"
# With them what makes a person read another text than the model: the marks that turn the writing direction round, and the
# tags (U+E0000 on), letters that nobody sees, but where they belong to a flag.
CONTROL_CHARACTER = (
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{202a}-\x{202e}\x{2066}-\x{2069}]"
    r"|(?:^|[^\x{1f3f4}\x{e0000}-\x{e007f}])[\x{e0000}-\x{e007f}]"
)

TURN = pl.Struct({"role": pl.String, "content": pl.String})
TURNS = pl.List(TURN)
QUARANTINE_SCHEMA = {
    "source": pl.String,
    "file": pl.String,
    "position": pl.Int64,
    "reason": pl.String,
    "detail": pl.String,
    "row": pl.String,
}
PLACE = {"row_id": pl.String, "file": pl.String, "position": pl.Int64}
KEPT_SCHEMAS: dict[str, dict[str, Any]] = {
    "text": {**PLACE, "text": pl.String},
    "instruction": {**PLACE, "messages": TURNS},
    "preference": {**PLACE, "prompt": TURNS, "chosen": pl.String, "rejected": pl.String},
    "prompt": {**PLACE, "prompt": TURNS, "label": pl.String},
    "classification": {**PLACE, "text": pl.String, "label": pl.String},
    "multiple_choice": {**PLACE, "question": pl.String, "choices": pl.List(pl.String), "answer": pl.Int64},
}

Shaped = tuple[Record, dict[str, Any] | RowFault]


@dataclass
class Counts:
    """What became of a batch: rows in = kept + quarantined, always; ``redacted`` counts pieces of personal data."""

    rows_in: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    redacted: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def quarantined(self) -> int:
        return sum(self.reasons.values())

    def metrics(self, kind: str) -> dict[str, Any]:
        """What the manifest of a validated batch of a kind says."""
        return {
            "rows_in": self.rows_in,
            "rows_kept": self.kept,
            "quarantined": self.quarantined,
            "quarantined_share": self.quarantined / self.rows_in if self.rows_in else 1.0,
            "reasons": dict(sorted(self.reasons.items())),
            "redacted": dict(sorted(self.redacted.items())),
            "columns": {column: str(kind) for column, kind in KEPT_SCHEMAS[kind].items()},
            "samples": self.samples,
        }


def validate_batch(name: str, source: Source, files: Mapping[str, Path], out: Path) -> Counts:
    """Reads and checks one batch, without repeats unless the source keeps them; writes ``rows.parquet`` and ``quarantine.parquet`` into ``out``.

    Args:
        name: the source's name.
        files: by their path inside the batch, in the order in which their rows count; of equal rows the first is kept.
    """
    counts = Counts()
    first_seen: dict[bytes, str] = {}
    schema = schema_for(source)
    records = (record for inside, file in files.items() for record in read_records(file, inside))
    with (
        _writer(out / "rows.parquet", KEPT_SCHEMAS[source.kind]) as kept,
        _writer(out / "quarantine.parquet", QUARANTINE_SCHEMA) as quarantine,
    ):
        for piece in _pieces(records, source):
            rows, faults = _check(piece, source, schema, first_seen, counts.redacted)
            rejected = [_entry(name, piece[index][0], faults[index]) for index in sorted(faults)]
            kept.write_table(_table(rows, kept.schema))
            quarantine.write_table(_table(rejected, quarantine.schema))
            counts.rows_in += len(piece)
            counts.kept += len(rows)
            for entry in rejected:
                counts.reasons[entry["reason"]] += 1
                if counts.reasons[entry["reason"]] <= SAMPLES_OF_EACH_REASON:
                    counts.samples.append(entry)
    return counts


def _writer(file: Path, columns: dict[str, Any]) -> pq.ParquetWriter:
    return pq.ParquetWriter(file, pl.DataFrame(schema=columns).to_arrow().schema, compression="zstd")


def _entry(name: str, record: Record, fault: RowFault) -> dict[str, Any]:
    place = {"source": name, "file": record.file, "position": record.position}
    return {**place, "reason": fault.reason.value, "detail": str(fault), "row": record.shown()}


def _table(rows: list[dict[str, Any]], schema: arrow.Schema) -> arrow.Table:
    return arrow.table([[row[name] for row in rows] for name in schema.names], schema=schema)


def _pieces(records: Iterable[Record], source: Source) -> Iterator[list[Shaped]]:
    """Records, shaped, in lists of at most :data:`PIECE_ROWS` rows and about :data:`PIECE_CHARACTERS` characters."""
    piece: list[Shaped] = []
    characters = 0
    for record in records:
        piece.append((record, _shaped(record, source)))
        characters += record.size
        if len(piece) == PIECE_ROWS or characters > PIECE_CHARACTERS:
            yield piece
            piece, characters = [], 0
    if piece:
        yield piece


def _shaped(record: Record, source: Source) -> dict[str, Any] | RowFault:
    """The row that a record means. What it holds besides is let go, for it may take fifty times its size in the file."""
    if record.value is None:
        assert record.fault is not None, "a record has a value or a fault"
        return record.fault
    try:
        return shape(source.format, source.kind, record.value, source.columns)
    except RowFault as fault:
        return fault.bare()
    finally:
        if record.raw is not None:
            record.value = None


def _check(
    piece: list[Shaped],
    source: Source,
    schema: pa.DataFrameSchema,
    first_seen: dict[bytes, str],
    redacted: Counter[str],
) -> tuple[list[dict[str, Any]], dict[int, RowFault]]:
    """The rows of a piece that are kept, in the order of the file, and what is wrong with the others, by their index."""
    faults = {index: row for index, (_, row) in enumerate(piece) if isinstance(row, RowFault)}
    rows = {index: row for index, (_, row) in enumerate(piece) if not isinstance(row, RowFault)}
    places = list(rows)
    for place, broken in _schema_faults([rows[index] for index in places], schema).items():
        faults[places[place]] = broken
        del rows[places[place]]
    faults |= language.foreign(rows, source.languages)
    rows = {index: row for index, row in rows.items() if index not in faults}
    faults |= personal.treat(rows, source.personal_data, source.phone_region, redacted)
    kept = []
    for index, row in rows.items():
        if index in faults:
            continue
        record, _ = piece[index]
        key = normal_id(row)
        if key in first_seen and source.duplicates == "quarantine":
            faults[index] = RowFault(Reason.EXACT_DUPLICATE, f"same content as {first_seen[key]}")
            continue
        first_seen[key] = f"{record.file} {record.position}"
        kept.append({**row, "row_id": content_id(row), "file": record.file, "position": record.position})
    return kept, faults


def _flat(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """The texts of rows as the schemas see them: the shortest of each, and all of it together."""
    everything = [texts(row) for row in rows]
    columns = {
        "shortest": [min(found, key=lambda text: len(text.strip())) for found in everything],
        "everything": ["\n".join(found) for found in everything],
        "chosen": [row.get("chosen") for row in rows],
        "rejected": [row.get("rejected") for row in rows],
        "label": [row.get("label") if "text" in row else None for row in rows],
    }
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def schema_for(source: Source) -> pa.DataFrameSchema:
    """The rules of a source's rows, in the order in which they are reported; a check's name is its reason."""

    def check(reason: Reason, expression: pl.Expr) -> pa.Check:
        return pa.Check(lambda data: data.lazyframe.select(expression), name=reason.value)

    everything, shortest = pl.col("everything"), pl.col("shortest").str.strip_chars()
    checks = [
        check(Reason.EMPTY, shortest.str.len_chars() > 0),
        check(Reason.CONTROL_CHARACTERS, ~everything.str.contains(CONTROL_CHARACTER)),
        check(Reason.SPECIAL_TOKENS, ~everything.str.contains(SPECIAL_TOKEN)),
        check(Reason.TOO_SHORT, everything.str.len_chars() >= source.min_characters),
        check(Reason.TOO_LONG, everything.str.len_chars() <= source.max_characters),
    ]
    if source.kind == "preference":
        same = pl.col("chosen").str.strip_chars() == pl.col("rejected").str.strip_chars()
        checks.append(check(Reason.CHOSEN_EQUALS_REJECTED, ~same))
    if source.kind == "classification":
        checks.append(check(Reason.EMPTY, pl.col("label").str.strip_chars().str.len_chars() > 0))
    columns = {
        "shortest": pa.Column(str),
        "everything": pa.Column(str),
        **{name: pa.Column(str, nullable=True) for name in ("chosen", "rejected", "label")},
    }
    return pa.DataFrameSchema(columns, checks=checks)


DETAILS = {
    Reason.EMPTY: "a text of this row is empty or blank",
    Reason.CONTROL_CHARACTERS: "holds a control character (NUL, escape, a change of writing direction, a hidden letter, ...)",
    Reason.SPECIAL_TOKENS: "holds a chat template's special token, which would become one",
    Reason.TOO_SHORT: "shorter than the source's min_characters",
    Reason.TOO_LONG: "longer than the source's max_characters",
    Reason.CHOSEN_EQUALS_REJECTED: "both answers are the same",
}


def _schema_faults(rows: list[dict[str, Any]], schema: pa.DataFrameSchema) -> dict[int, RowFault]:
    """The first broken rule of each row, by the row's index."""
    if not rows:
        return {}
    try:
        schema.validate(_flat(rows), lazy=True)
    except SchemaErrors as error:
        broken = error.failure_cases.sort("check_number", descending=True)
        reasons = {index: Reason(name) for index, name in zip(broken["index"], broken["check"], strict=True)}
        return {index: RowFault(reason, DETAILS[reason]) for index, reason in reasons.items()}
    return {}
