"""Runs the validation of a batch and reads back what it wrote."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ft_assets.core.rows import Counts, validate_batch
from ft_assets.core.split import INDEX, Earlier, index_row, judge, without_contradictions
from ft_assets.recipes.roles import precedence
from ft_assets.recipes.schema import Source


@dataclass(frozen=True)
class Batch:
    rows: pl.DataFrame
    quarantine: pl.DataFrame
    found: Counts

    @property
    def rows_in(self) -> int:
        return self.found.rows_in

    def counts(self) -> dict[str, int]:
        return dict(sorted(self.found.reasons.items()))


def validate(source: Source, *files: Path) -> Batch:
    """Validates files as one batch, each named by its path below the folder that holds them all."""
    shared = os.path.commonpath([file.parent for file in files])
    named = {str(file.relative_to(shared)): file for file in files}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        counts = validate_batch("here", source, named, out)
        return Batch(pl.read_parquet(out / "rows.parquet"), pl.read_parquet(out / "quarantine.parquet"), counts)


def joined(batches: dict[str, pl.DataFrame], evaluated: set[int] = frozenset()) -> pl.DataFrame:
    """Rows of several batches, by key, as ``tokenized_splits`` judges them, with the rows themselves under ``row``."""
    earlier: list[Earlier] = []
    rows = []
    for key, frame in sorted(batches.items(), key=lambda entry: precedence(entry[0])):
        entries = pl.DataFrame([index_row(row, 1) for row in frame.to_dicts()], schema=INDEX).with_columns(
            batch=pl.lit(key)
        )
        earlier.append(Earlier(judge(entries, earlier, set(evaluated), {})))
        rows += frame.to_dicts()
    found = without_contradictions(pl.concat([each.rows for each in earlier]))
    return found.with_columns(pl.Series("row", rows, dtype=pl.Object))
