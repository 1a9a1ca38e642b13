"""Which batches are new and whole, from two looks at a source: pure, but for reading the location itself.

A batch is asked for once for each signature of its files. It is whole when two looks saw the same signature, or when a
folder holds its writer's ``_SUCCESS`` marker. What was seen is kept as 12 hex digits for each batch, so that the state of
10,000 batches is 150 kB.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.batches import RAW, BatchState, batch_state
from ft_assets.core.errors import RecipeError
from ft_assets.core.location import Files, access_errors, files_of, in_words
from ft_assets.recipes.load import Catalog

MARK_DIGITS = 12


@dataclass(frozen=True)
class Look:
    """One look at a source: the files of each batch by ``source@batch``, and what could not be read, in words."""

    batches: dict[str, Files] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Seen:
    """What the looks before this one saw of a source: marks of batches not yet known to be whole, and of those asked for."""

    pending: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()


def look(catalog: Catalog, name: str) -> Look:
    """Lists a source and the files of each of its batches; a fault of one batch hides no other."""
    try:
        found = catalog.found(name)
        url = catalog.url(name)
    except RecipeError as error:
        return Look(faults=[f"source {name}: {error}"])
    batches: dict[str, Files] = {}
    faults = [f"source {name}: {why}" for why in found.refused.values()]
    for key, (path, file) in found.batches.items():
        if file is not None:
            batches[f"{name}@{key}"] = Files({PurePosixPath(path).name: file}, complete=False)
            continue
        try:
            files = files_of(url, path)
        except access_errors() as error:
            faults.append(f"batch {name}@{key}: {in_words(error)}")
            continue
        if files.files:  # a folder just made for files that are on their way
            batches[f"{name}@{key}"] = files
    return Look(batches, faults)


def files_of_batches(catalog: Catalog, keys: Iterable[str]) -> dict[str, Files]:
    """The files that batches have now, by ``source@batch``, each source being listed once; none of a batch that cannot be read."""
    keys = list(keys)
    looks = [look(catalog, name) for name in dict.fromkeys(key.partition("@")[0] for key in keys)]
    found = {key: files for each in looks for key, files in each.batches.items()}
    return {key: found[key] for key in keys if key in found}


def as_ingested(catalog: Catalog, store: ArtifactStore, now: Mapping[str, Files]) -> dict[str, BatchState]:
    """The batches whose files ``now`` are those that were ingested, and validated well, by key. One of a location that tells
    no time or tag of a file's last change is never among them: it may have changed all the same.
    """
    timed = {key: files for key, files in now.items() if all(file.changed for file in files.files.values())}
    states = {key: validated_as(catalog, store, key, files) for key, files in timed.items()}
    return {key: state for key, state in states.items() if state is not None}


def validated_as(catalog: Catalog, store: ArtifactStore, key: str, files: Files) -> BatchState | None:
    """What has become of a batch, where these files of it, as far as their names, sizes and times tell, were copied last and
    validated well; else None.
    """
    if files.signature != (store.get_ref(RAW, key) or {}).get("signature"):
        return None
    state = batch_state(catalog, store, key)
    return state if state.word == "validated" else None


def whole(seen: Seen, now: Look, most: int) -> tuple[list[str], Seen]:
    """The batches to ask for now, ``most`` of them at the most, and what to remember for the next look."""
    due: list[str] = []
    pending, asked = set(), set()
    for key, files in now.batches.items():
        mark = mark_of(key, files)
        if mark in seen.asked:
            asked.add(mark)
        elif (files.complete or mark in seen.pending) and len(due) < most:
            due.append(key)
            asked.add(mark)
        else:
            pending.add(mark)
    return due, Seen(frozenset(pending), frozenset(asked))


def mark_of(key: str, files: Files) -> str:
    return hashlib.sha256(f"{key}\n{files.signature}".encode()).hexdigest()[:MARK_DIGITS]


def read_cursor(text: str | None) -> dict[str, Seen]:
    """What a cursor holds by source; nothing where it is none of ours (run keys then keep a batch from a second run)."""
    try:
        found = json.loads(text or "{}")
        return {name: Seen(frozenset(entry["pending"]), frozenset(entry["asked"])) for name, entry in found.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def write_cursor(seen: Mapping[str, Seen]) -> str:
    body = {name: {"pending": sorted(entry.pending), "asked": sorted(entry.asked)} for name, entry in seen.items()}
    return json.dumps(body, sort_keys=True, separators=(",", ":"))
