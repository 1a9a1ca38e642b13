"""Asset ``raw_corpus``: the files of one batch as they came, byte for byte, under the hash of their content."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import fsspec

from ft_assets.assets.making import make_here, source_of
from ft_assets.assets.partitions import SOURCE_BATCHES
from ft_assets.core.artifact import Staging
from ft_assets.core.canonical import sha256_file
from ft_assets.core.errors import FineTuneError
from ft_assets.core.lineage import CODE_VERSIONS, raw_stage
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
    source = known.source(name)
    batches = known.batches(name)
    if batch not in batches:
        raise FineTuneError(
            f"source {name} has no batch {batch!r} at {known.url(name)}; found: {', '.join(batches) or 'none'}"
        )
    # Copied first, then hashed: a file that changes while it is read cannot disagree with its fingerprint.
    copy = artifacts.local / ".incoming" / context.run_id
    try:
        files = copy_batch(known.url(name), batches[batch], copy)
        stage = raw_stage(name, source, {str(path): sha256_file(copy / path) for path in files})

        def produce(staging: Staging) -> None:
            for path in files:
                shutil.move(copy / path, staging.file(f"files/{path}"))
            staging.metrics = {
                "files": len(files),
                "bytes": sum(f.stat().st_size for f in staging.folder.rglob("*") if f.is_file()),
            }

        made = make_here(context, stage, artifacts, 0.0, produce)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    artifacts.set_ref("raw_corpus", context.partition_key, {"fingerprint": stage.fingerprint})
    metrics = made.manifest.metrics
    return made.result(
        f"{metrics['bytes']:,} bytes",
        {
            "source": name,
            "batch": batch,
            "location": known.url(name),
            "licence": source.licence,
            "format": source.format,
            "files": metrics["files"],
            "bytes": metrics["bytes"],
        },
    )


def copy_batch(root: str, path: str, target: Path) -> list[Path]:
    """Copies the files of a batch (a file, or everything below a folder) and returns their paths inside it.

    Raises:
        FineTuneError: the batch is empty, or a link in it leads out of it.
    """
    fs, _ = fsspec.core.url_to_fs(root)
    found = [path] if fs.isfile(path) else sorted(fs.find(path))
    if not found:
        raise FineTuneError(f"{path} holds no files")
    names = []
    for file in found:
        name = Path(file).name if file == path else str(Path(file).relative_to(path))
        _refuse_link_out(Path(file), Path(path), fs.protocol)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(file, str(target / name))
        names.append(Path(name))
    return names


def _refuse_link_out(file: Path, batch: Path, protocol: Any) -> None:
    if "file" not in (protocol if isinstance(protocol, tuple) else (protocol,)):
        return
    inside = batch.parent if file == batch else batch
    if not file.resolve().is_relative_to(inside.resolve()):
        raise FineTuneError(
            f"{file} links to {file.resolve()}, outside its source; copy the file into the source instead"
        )
