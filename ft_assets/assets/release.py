"""What a release holds: weights, model card, report, bill of materials and, where a key is configured, a signature."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ft_assets.core.artifact import Artifact, Staging
from ft_assets.core.bill import BILL, bill
from ft_assets.core.publish import ListedFile, PublishedFile
from ft_assets.core.recipe_run import RecipeRun
from ft_assets.core.release import Batch, Release, base_of
from ft_assets.core.signing import SIGNATURE, sign
from ft_assets.recipes.schema import Source

CARD, REPORT = "README.md", "report.html"
MADE_HERE = (CARD, BILL, SIGNATURE)
TRAINING_ONLY = ("history.json", "deepspeed.json")
DATASET = "hf://datasets/"


def weights(run: RecipeRun) -> list[PublishedFile]:
    """The release's files that others made: weights with what loads them, and the report."""
    files = [
        PublishedFile(REPORT, run.artifact("eval_report").file(REPORT)),
        *_folder(run.artifact("merged_model"), ""),
    ]
    if not run.stages["merged_model"].passes:
        files += _folder(run.artifact("policy"), "adapter/")
    if not run.stages["quantized_model"].passes:
        files += _folder(run.artifact("quantized_model"), "quantized/")
    return files


def _folder(artifact: Artifact, prefix: str) -> list[PublishedFile]:
    names = [name for name in artifact.manifest.files if name not in TRAINING_ONLY]
    return [PublishedFile(prefix + name, artifact.file(name)) for name in names]


def write(staging: Staging, release: Release, files: Sequence[PublishedFile], scratch: Path, key: Path | None) -> None:
    """Writes what is made here: the card, the bill and, with a key, the signature over all.

    Args:
        files: those of :func:`weights`.
        scratch: a folder on the same disk as they are, if that can be.
    """
    from ft_assets.report.card import model_card

    forms = sorted({file.name.split("/")[1] for file in files if file.name.startswith("quantized/")})
    staging.file(CARD).write_text(model_card(release, forms, key is not None), encoding="utf-8")
    known = [*files, PublishedFile(CARD, staging.file(CARD))]
    staging.write_json(BILL, bill(release, known))
    if key is not None:
        staging.file(SIGNATURE).write_bytes(_signature([*known, PublishedFile(BILL, staging.file(BILL))], scratch, key))


def _signature(files: Sequence[PublishedFile], scratch: Path, key: Path) -> bytes:
    """Signs the release as one folder, in which each file has a second name, or a copy on another disk."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for file in files:
            target = Path(folder, file.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            assert isinstance(file.content, Path), "every file of a release is on disk by now"
            try:
                os.link(file.content, target)
            except OSError:
                shutil.copyfile(file.content, target)
        return sign(Path(folder), key)


def complete(files: Sequence[PublishedFile], folder: Path) -> list[PublishedFile]:
    """Every file of the release, with those that :func:`write` left in ``folder``."""
    return [*files, *(PublishedFile(name, folder / name) for name in MADE_HERE if (folder / name).is_file())]


def listing(files: Sequence[PublishedFile]) -> list[dict[str, object]]:
    """What ``release.json`` keeps of the files, to find what is no longer as it was published."""
    return [asdict(ListedFile(file.name, file.size, file.sha256, file.git_blob)) for file in files]


def described(run: RecipeRun, sources: Mapping[str, Source]) -> Release:
    """What the card and the bill tell of the release. ``sources``: those that the recipe names."""
    report, base = run.artifact("eval_report").manifest, run.artifact("base_model").manifest
    stages = {name: stage for name, stage in run.stages.items() if ":" not in name and not stage.passes}
    manifests = {name: run.store.lookup(name, stage.fingerprint) for name, stage in stages.items()}
    versions = {entry for manifest in manifests.values() if manifest for entry in manifest.versions.items()}
    return Release(
        recipe=run.recipe,
        fingerprint=run.stages["published_model"].fingerprint,
        verdict=report.metrics["verdict"],
        results=run.artifact("evaluation").json("results.json"),
        gate=run.artifact("eval_report").json("gate.json"),
        base=base_of(run.recipe.base_model, base.metrics["content_hash"]),
        batches=tuple(_batches(run, sources)),
        lineage={name: manifest.fingerprint for name, manifest in manifests.items() if manifest},
        versions=tuple(sorted(versions)),
        made_at=report.created_at,
    )


def _batches(run: RecipeRun, sources: Mapping[str, Source]) -> list[Batch]:
    roles: dict[str, list[str]] = {}
    found = {}
    for role, (stage, fingerprint) in run.stages["tokenized_splits"].upstream.items():
        if stage == "validated_dataset":
            name, _, key = role.partition(":")
            roles.setdefault(key, []).append(name)
            found[key] = run.store.lookup(stage, fingerprint)
    batches = []
    for key, manifest in sorted(found.items()):
        assert manifest is not None, "the splits were made from it"
        source = sources[key.partition("@")[0]]
        place = source.location.removeprefix(DATASET) if source.location.startswith(DATASET) else ""
        rows = manifest.files["rows.parquet"]["sha256"]
        batches.append(
            Batch(
                key=key,
                roles=tuple(sorted(roles[key])),
                licence=source.licence,
                description=source.description,
                languages=tuple(source.languages),
                dataset="/".join(place.split("@")[0].split("/")[:2]) or None,
                fingerprint=manifest.fingerprint,
                rows=rows,
                rows_kept=manifest.metrics["rows_kept"],
                quarantined=manifest.metrics["quarantined"],
            )
        )
    return batches
