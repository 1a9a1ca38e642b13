"""What has become of each batch so far, read from the store: ingested, validated, failed or gone."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ft_assets.core.artifact import ArtifactStore, Manifest
from ft_assets.core.lineage import validated_stage
from ft_assets.recipes.load import Catalog
from ft_assets.recipes.schema import Recipe, Source

RAW = "raw_corpus"  # ref: the fingerprint of a batch's files, and their signature when they were copied
UNFINISHED = "unfinished_batch"  # ref: why the last ingestion of a batch is not behind it
RUN_DATA = "run_data"  # ref: the raw fingerprints a run of a recipe works with
RUN_PUBLISHED = "run_published"  # ref: the published models that a run of a recipe is judged against
SHUT_OUT = "shut_out"  # ref: the validated fingerprints behind a recipe's last candidate that its gate kept out
TRAINED_ON = "trained_on"  # ref: the validated fingerprints behind a recipe's published model


@dataclass(frozen=True)
class BatchState:
    """One batch of a source. ``validated`` is its validated_dataset's fingerprint, ``rows`` how many that keeps;
    ``fault`` says why it cannot be used, and is empty where it can. ``word`` is that in one word.
    """

    source: str
    key: str
    word: str
    raw: str = ""
    validated: str = ""
    rows: int = 0
    fault: str = ""
    manifest: Manifest | None = None


def recipe_batches(
    catalog: Catalog, recipe: Recipe, store: ArtifactStore, pinned: Mapping[str, str] | None = None
) -> dict[str, BatchState]:
    """State of every batch of the recipe's sources, by ``source@batch``.

    ``pinned``: raw fingerprint by batch; then these batches count, as they were, and no others.
    """
    states: dict[str, BatchState] = {}
    for name in recipe.data.source_names():
        if pinned is None:
            keys = {*store.ref_names(RAW, f"{name}@"), *store.ref_names(UNFINISHED, f"{name}@")}
            states |= {key: batch_state(catalog, store, key) for key in sorted(keys)}
        else:
            own = {key: raw for key, raw in sorted(pinned.items()) if key.startswith(f"{name}@")}
            states |= {key: _of_raw(catalog, store, key, raw) for key, raw in own.items()}
    return states


def batch_state(catalog: Catalog, store: ArtifactStore, key: str) -> BatchState:
    """What has become of a batch, as its source is declared now."""
    name = key.partition("@")[0]
    unfinished, ref = store.get_ref(UNFINISHED, key), store.get_ref(RAW, key)
    if unfinished is not None:
        raw = ref["fingerprint"] if ref else ""
        return BatchState(name, key, unfinished["word"], raw, fault=f"{key} {unfinished['what']}")
    if ref is None:
        return BatchState(name, key, "new", fault=f"{key} has not been ingested")
    return _of_raw(catalog, store, key, ref["fingerprint"])


def _of_raw(catalog: Catalog, store: ArtifactStore, key: str, raw: str) -> BatchState:
    name = key.partition("@")[0]
    source = catalog.source(name)
    validated = validated_stage(source, raw).fingerprint
    manifest = store.lookup("validated_dataset", validated)
    if manifest is None:
        fault = f"validated_dataset of {key} has not been made as its source stands now"
        return BatchState(name, key, "ingested", raw, fault=fault)
    metrics = manifest.metrics
    fault = ""
    if not below_threshold(metrics, source):
        fault = (
            f"{key} failed its check: {metrics['quarantined_share']:.0%} of its rows are quarantined, "
            f"max_quarantined_share allows {source.max_quarantined_share:.0%} (see: ft quarantine {key})"
        )
    elif not rows_conserved(metrics):
        fault = f"{key} failed its check rows_conserved"
    word = "failed" if fault else "validated"
    return BatchState(name, key, word, raw, validated, metrics["rows_kept"], fault, manifest)


def rows_conserved(metrics: Mapping[str, Any]) -> bool:
    """The blocking check of this name, on a validated_dataset's metrics."""
    return bool(metrics["rows_in"] == metrics["rows_kept"] + metrics["quarantined"])


def below_threshold(metrics: Mapping[str, Any], source: Source) -> bool:
    """The blocking check ``quarantine_below_threshold``, as the source is declared now."""
    return bool(metrics["quarantined_share"] <= source.max_quarantined_share)


@contextmanager
def ingesting(store: ArtifactStore, key: str, run_id: str) -> Iterator[None]:
    """Leaves a word in the store for as long as the ingestion of a batch has not ended well; a kill leaves it too."""
    store.set_ref(
        UNFINISHED, key, {"word": "ingesting", "what": f"is being ingested, or that was cut short (run {run_id})"}
    )
    try:
        yield
    except Exception as error:
        store.set_ref(UNFINISHED, key, {"word": "failed", "what": f"could not be ingested: {error}"})
        raise
    store.drop_ref(UNFINISHED, key)


def withdraw_gone(catalog: Catalog, store: ArtifactStore, source: str, there: Collection[str]) -> list[str]:
    """Forgets what failed of a source and has been taken away since; returns the keys that no longer count.

    A version that was validated stays when its files go: they have been copied.
    """
    known = {*store.ref_names(RAW, f"{source}@"), *store.ref_names(UNFINISHED, f"{source}@")}
    withdrawn = []
    for key in sorted(known - set(there)):
        store.drop_ref(UNFINISHED, key)
        if batch_state(catalog, store, key).word in ("failed", "new"):
            store.drop_ref(RAW, key)
            withdrawn.append(key)
    return withdrawn
