"""A file that no source declares, brought into the store as a batch is: copied, then validated."""

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from ft_assets.core.artifact import Artifact, ArtifactStore, Staging
from ft_assets.core.canonical import sha256_file
from ft_assets.core.errors import CorruptArtifact, FineTuneError
from ft_assets.core.lineage import raw_stage, validated_stage
from ft_assets.core.predicting import FILE
from ft_assets.core.stage import Stage
from ft_assets.core.unpack import PACKINGS
from ft_assets.recipes.schema import Source


def answers_beside(file: Path) -> Path:
    """Where a file's answers go if nobody says it: those of ``rows.jsonl.gz`` to ``rows.predictions.jsonl``."""
    plain = Path(file.stem if file.suffix.lower() in PACKINGS else file.name)
    return file.with_name(f"{plain.stem}.predictions.jsonl")


def left_beside(output: Path) -> Path:
    """Where the rows without an answer go: ``rows.quarantine.jsonl`` beside ``rows.predictions.jsonl`` or ``rows.parquet``."""
    return output.with_name(f"{output.stem.removesuffix('.predictions')}.quarantine.jsonl")


def ingest_file(store: ArtifactStore, file: Path, source: Source) -> Artifact:
    """The validated rows of a file; reused where the same file was read in the same way before.

    Raises:
        FineTuneError: it cannot be read, or no row of it can be used; names the first row and what is wrong with it.
    """
    from ft_assets.core.rows import validate_batch

    copy = store.local / ".staging" / f"input-{uuid.uuid4().hex}" / file.name
    try:
        copy.parent.mkdir(parents=True)
        # Copied first, then hashed: a file that changes meanwhile cannot disagree with its fingerprint.
        shutil.copyfile(file, copy)
        raw = raw_stage(FILE, source, {file.name: sha256_file(copy)})
        made = _made(store, raw, lambda staging: Path(shutil.move(copy, staging.file(f"files/{file.name}"))))
    except OSError as error:
        raise FineTuneError(f"{file} cannot be copied to the store: {error.strerror or error}") from error
    finally:
        shutil.rmtree(copy.parent, ignore_errors=True)

    def validate(staging: Staging) -> None:
        inside = {file.name: made.file(f"files/{file.name}")}
        staging.metrics = validate_batch(FILE, source, inside, staging.folder).metrics(source.kind)

    rows = _made(store, validated_stage(source, raw.fingerprint), validate)
    metrics = rows.manifest.metrics
    if not metrics["rows_kept"]:
        first = next(iter(metrics["samples"]), None)
        why = f"row {first['position']}: {first['reason']}: {first['detail']}" if first else "it holds no rows"
        raise FineTuneError(
            f"no row of {file} can be answered; {why}. A row holds what is asked in column "
            f"{'text' if source.kind == 'text' else 'prompt'!r}, or in what --column names"
        )
    return rows


def _made(store: ArtifactStore, stage: Stage, produce: Callable[[Staging], object]) -> Artifact:
    try:
        found = store.open(stage.name, stage.fingerprint)
    except CorruptArtifact:
        store.set_aside(stage.name, stage.fingerprint)
        found = None
    if found is None:
        upstream = {role: entry[1] for role, entry in stage.upstream.items()}
        with store.write(
            stage.name, stage.fingerprint, code_version=stage.code_version, identity=stage.identity, upstream=upstream
        ) as staging:
            produce(staging)
        found = store.open(stage.name, stage.fingerprint)
    assert found is not None, "it was just committed"
    return found
