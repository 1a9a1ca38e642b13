"""Merged weights are compared on rows of the recipe, never on made-up ones."""

from pathlib import Path

import polars as pl
import pytest

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.errors import MissingInput
from ft_assets.worker.job import Job
from ft_assets.worker.merge import PARITY_ROWS, _parity_prompts

SPLITS = ("tokenized_splits", "d" * 64)
PARTS = ("sft_validation", "sft_train", "cpt_validation", "cpt_train", "preference_train", "prompt_train")


def job_over(store: ArtifactStore, folder: Path) -> Job:
    return Job(
        stage="merged_model",
        fingerprint="e" * 64,
        code_version="1",
        identity={},
        upstream={},
        execution={"splits": list(SPLITS)},
        store=store,
        progress_file=folder / "progress.jsonl",
        cache=folder,
    )


def make_splits(store: ArtifactStore, rows: dict[str, int]) -> None:
    with store.write(*SPLITS, code_version="1", identity={}, upstream={}) as staging:
        for name in PARTS:
            column = "prompt_ids" if name.startswith("p") else "input_ids"
            ids = [[row, PARTS.index(name)] for row in range(rows.get(name, 0))]
            pl.DataFrame({column: ids}, schema={column: pl.List(pl.Int32)}).write_ipc_stream(
                staging.file(f"{name}/00000.arrow")
            )


def test_held_out_rows_come_first(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    make_splits(store, {"sft_validation": 20, "sft_train": 20})
    assert _parity_prompts(job_over(store, tmp_path)) == [[row, 0] for row in range(PARITY_ROWS)]


@pytest.mark.parametrize("rows", [None, {}])
def test_without_rows_the_merge_stops(tmp_path: Path, rows: dict[str, int] | None) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    if rows is not None:
        make_splits(store, rows)
    with pytest.raises(MissingInput, match="tokenized_splits dddddddddddd"):
        _parity_prompts(job_over(store, tmp_path))
