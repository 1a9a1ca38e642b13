"""The artifacts that each batch of a recipe has of its own; one that is missing or corrupt is made on the way."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ft_assets.core import near
from ft_assets.core.ahead import verify_ahead
from ft_assets.core.artifact import Artifact
from ft_assets.core.errors import CorruptArtifact
from ft_assets.core.overlap import EvaluationGrams, evaluation_grams
from ft_assets.core.split import FATE, Earlier, judge, prompt_hash
from ft_assets.recipes.roles import precedence
from ft_assets.worker.job import Job, one_at_a_time
from ft_assets.worker.prepare import find_overlap, joined, prepare

Row = dict[str, Any]

JUDGED_BY = ("index.arrow", "signatures.u8")  # files of a prepared batch


def keys_of(job: Job, role: str) -> list[str]:
    """The ``source@batch`` keys of a role, in the order in which their rows take precedence."""
    keys = [name.partition(":")[2] for name in job.upstream if name.partition(":")[0] == role]
    return sorted(keys, key=precedence)


def opened(job: Job, make: Callable[[Job], None], only: tuple[str, ...] | None = None) -> Artifact:
    """The artifact of a job with its files, or those of ``only``, verified; made where it is missing or corrupt.

    Raises:
        CorruptArtifact: it is corrupt again right after it was made.
    """
    with suppress(CorruptArtifact):  # looked at again when no other worker may be mending it
        if (found := job.store.open(job.stage, job.fingerprint, only)) is not None:
            return found
    with one_at_a_time(job) as already_made:
        try:
            if already_made and (found := job.store.open(job.stage, job.fingerprint, only)) is not None:
                return found
        except CorruptArtifact as error:
            job.progress(f"{error}; making it again")
            job.store.set_aside(job.stage, job.fingerprint)
        make(job)
    made = job.store.open(job.stage, job.fingerprint, only)
    assert made is not None, "it was just committed"
    return made


class Batches:
    """The training batches of ``tokenized_splits``, each prepared, compared with the evaluation sets and judged once."""

    def __init__(self, job: Job, held_out: dict[str, list[Row]]):
        self.job = job
        self.held_out = held_out
        self.evaluated = {prompt_hash(row) for rows in held_out.values() for row in rows}
        self._grams: EvaluationGrams | None = None

    def verify_ahead(self) -> None:
        """Starts to verify what was found of batches that are known, while those that are new are prepared."""
        only = {"judged_batch": None, "prepared_batch": JUDGED_BY}
        parts = [(part["stage"], part["fingerprint"]) for part in self.job.execution["parts"].values()]
        verify_ahead(self.job.store, [(stage, made, only[stage]) for stage, made in parts if stage in only])

    def prepared(self, name: str, *only: str) -> Artifact:
        return opened(self._job("prepared", name), prepare, only or None)

    def judged(self, role: str) -> Iterator[Earlier]:
        """Every batch of a role with the fate of its rows."""
        earlier: list[Earlier] = []
        for key in keys_of(self.job, role):
            name = f"{role}:{key}"
            prepared = self.prepared(name, *JUDGED_BY)
            index = pl.read_ipc(prepared.file("index.arrow")).with_columns(pl.lit(key).alias("batch"))
            of_batch = Earlier(index, _signatures(prepared.file("signatures.u8")))

            def make(job: Job, name: str = name, of_batch: Earlier = of_batch) -> None:
                self._judge(job, name, of_batch, earlier)

            fate = opened(self._job("judged", name), make)
            earlier.append(replace(of_batch, rows=index.hstack(pl.read_ipc(fate.file("fate.arrow")))))
            yield earlier[-1]

    def _judge(self, job: Job, name: str, batch: Earlier, earlier: list[Earlier]) -> None:
        job.progress(f"comparing {name} with {len(earlier)} batches before it")
        threshold = job.identity["threshold"]
        with job.commit() as staging:
            signatures = None if threshold is None else batch.signatures
            rows = judge(batch.rows, earlier, self.evaluated, self._overlaps(name), signatures, threshold or 1.0)
            rows.select(*FATE).write_ipc(staging.file("fate.arrow"))
            staging.metrics = {"rows": rows.height, "dropped": int(rows["reason"].is_not_null().sum())}

    def _overlaps(self, name: str) -> dict[str, str]:
        """Rows of a batch that share an n-gram with an evaluation set, by ``row_id``."""
        if f"overlap:{name}" not in self.job.execution["parts"]:
            return {}
        artifact = opened(self._job("overlap", name), lambda job: find_overlap(job, self._evaluation_grams()))
        found = pl.read_parquet(artifact.file("overlap.parquet"))
        return dict(zip(found["row_id"], found["place"], strict=True))

    def _evaluation_grams(self) -> EvaluationGrams:
        if self._grams is None:
            sets = [
                (role, joined(rows), [f"{row['batch']} row {row['position']}" for row in rows])
                for role, rows in self.held_out.items()
            ]
            self._grams = evaluation_grams(sets, self.job.identity["data"]["decontamination"]["ngram_words"])
        return self._grams

    def _job(self, kind: str, name: str) -> Job:
        return self.job.part(self.job.execution["parts"][f"{kind}:{name}"], key=name.partition(":")[2])


def _signatures(file: Path) -> near.Signatures:
    """Signatures as ``prepared_batch`` wrote them, mapped into memory."""
    count = file.stat().st_size // near.PERMUTATIONS
    if not count:
        return np.empty((0, near.PERMUTATIONS), np.uint8)
    return np.memmap(file, np.uint8, "r", shape=(count, near.PERMUTATIONS))
