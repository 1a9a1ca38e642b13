"""The rows of a batch that were set aside, read from its validated dataset."""

from pathlib import Path
from typing import Any

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.batches import RAW, BatchState, batch_state
from ft_assets.core.errors import FineTuneError, MissingInput
from ft_assets.recipes.load import Catalog

COLUMNS = ["file", "position", "reason", "detail", "row"]


def find_batch(catalog: Catalog, store: ArtifactStore, text: str) -> BatchState:
    """The validated batch that ``source@batch``, or the start of one, names.

    Raises:
        RecipeError: the source is not declared.
        FineTuneError: it names no source, or several batches start like that.
        MissingInput: no such batch has been ingested, or it has not been validated as its source stands now.
    """
    source, _, batch = text.partition("@")
    if not source:
        raise FineTuneError(f"{text!r} names no source; a batch is SOURCE@BATCH, as `ft sources` lists them")
    catalog.source(source)
    names = store.ref_names(RAW, f"{source}@")
    matches = [text] if text in names else [name for name in names if name.startswith(f"{source}@{batch}")]
    if not matches:
        known = ", ".join(names[:20]) or "none"
        raise MissingInput(
            f"{text} has not been ingested; ingested of {source}: {known}. Ingest it with `ft run` of a recipe that uses "
            f"{source}, or job `ingest` in the UI"
        )
    if len(matches) > 1:
        more = f" and {len(matches) - 20} more" if len(matches) > 20 else ""
        raise FineTuneError(
            f"{len(matches)} batches start with {text}: {', '.join(matches[:20])}{more}; name one of them"
        )
    state = batch_state(catalog, store, matches[0])
    if state.manifest is None:
        raise MissingInput(f"{state.fault}; ingest it again with `ft run` of a recipe that uses {source}, or in the UI")
    return state


def read_quarantine(file: Path, reason: str | None, limit: int) -> list[dict[str, Any]]:
    """The first ``limit`` rows, of one reason or of all, in the order of the files."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for piece in pq.ParquetFile(file).iter_batches(columns=COLUMNS, batch_size=1024):
        # Without pyarrow.compute, whose import takes longer than all the rest.
        wanted = [index for index, found in enumerate(piece["reason"].to_pylist()) if reason in (None, found)]
        rows += [piece.slice(index, 1).to_pylist()[0] for index in wanted[: limit - len(rows)]]
        if len(rows) >= limit:
            break
    return rows
