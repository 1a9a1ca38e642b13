"""Asset ``raw_corpus``: the files of one batch as they came, byte for byte, under the hash of their content."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import fsspec

from ft_assets.assets.making import make_here, source_of
from ft_assets.assets.partitions import SOURCE_BATCHES
from ft_assets.core.artifact import Staging
from ft_assets.core.batches import RAW, ingesting
from ft_assets.core.canonical import sha256_file
from ft_assets.core.errors import FineTuneError
from ft_assets.core.lineage import raw_stage
from ft_assets.core.location import File, Files, access_errors, difference, files_of, in_words
from ft_assets.core.stage import CODE_VERSIONS
from resources.catalog import CatalogResource
from resources.store import StoreResource


@dg.asset(
    partitions_def=SOURCE_BATCHES,
    group_name="data",
    kinds={"file"},
    owners=["team:data"],
    code_version=CODE_VERSIONS["raw_corpus"],
    description="The files of one batch of a source, byte for byte. A later edit of the source cannot change them.",
)
def raw_corpus(
    context: dg.AssetExecutionContext, store: StoreResource, catalog: CatalogResource
) -> dg.MaterializeResult:
    known, artifacts = catalog.load(), store.open()
    name, batch = source_of(context.partition_key, known)
    source, url, found = known.source(name), known.url(name), known.found(name)
    if batch not in found.batches:
        others = ", ".join(list(found.batches)[:20]) or "none"
        raise FineTuneError(f"source {name} has no batch {batch!r} at {url}; found: {others}")
    # Copied first, then hashed: a file that changes while it is read cannot disagree with its fingerprint.
    copy = artifacts.local / ".staging" / f"incoming-{context.run_id}"
    with ingesting(artifacts, context.partition_key, context.run_id):
        try:
            files = copy_batch(url, found.batches[batch][0], copy)
            stage = raw_stage(name, source, {path: sha256_file(copy / path) for path in files.files})

            def produce(staging: Staging) -> None:
                for path in files.files:
                    shutil.move(copy / path, staging.file(f"files/{path}"))
                sizes = [file.size for file in files.files.values()]
                staging.metrics = {"files": len(sizes), "bytes": sum(sizes)}

            made = make_here(context, stage, artifacts, 0.0, produce)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        ref = {"fingerprint": stage.fingerprint, "signature": files.signature}
        artifacts.set_ref(RAW, context.partition_key, ref)
    metrics = made.manifest.metrics
    return made.result(
        key_metric(metrics),
        {
            "source": name,
            "batch": batch,
            "location": url,
            "licence": source.licence,
            "format": source.format,
            "files": metrics["files"],
            "bytes": metrics["bytes"],
        },
    )


def key_metric(metrics: dict[str, Any]) -> str:
    return f"{metrics['bytes']:,} bytes"


def copy_batch(url: str, path: str, target: Path) -> Files:
    """Copies the files of a batch, piece by piece, and says which they were.

    Raises:
        FineTuneError: the batch holds no files, or a link or name that leads out of it; or it changed meanwhile.
    """
    try:
        before = files_of(url, path)
        if not before.files:
            raise FineTuneError(f"{path} holds no files")
        fs, _ = fsspec.core.url_to_fs(url)
        for name, file in before.files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _copy(fs, file, target / name)
        change = difference(before, files_of(url, path))
    except access_errors() as error:
        if isinstance(error, FineTuneError):
            raise
        raise FineTuneError(f"{path} cannot be read: {in_words(error)}") from error
    if change:
        raise FineTuneError(f"{path} changed while it was read: {change}. Retry when its writer has ended")
    return before


def _copy(fs: Any, file: File, target: Path) -> None:
    try:
        fs.get_file(file.path, str(target))
    except FileNotFoundError as error:
        raise FineTuneError(f"{file.path} disappeared while its batch was read; retry") from error
    size = target.stat().st_size
    if size != file.size:
        raise FineTuneError(
            f"{file.path} {'grew' if size > file.size else 'shrank'} from {file.size:,} to {size:,} bytes while it was "
            "read; retry when its writer has ended"
        )
