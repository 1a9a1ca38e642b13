"""Which release of a recipe is the champion, and every one before it. No Dagster.

A record is never changed: each change writes the whole of it under the next number (``champion/<recipe>@000001``), which
one writer alone can create. Another that read the same record before reads again, so none loses what the other wrote::

    {"recipe", "champion": release,
     "history": [{"release", "evaluation", "merged": [made_by, fingerprint], "folder", "to": url, "published_at": ISO 8601,
                  "override": null | {"by", "reason", "at", "conditions"}, "withdrawn": null | {"by", "reason", "at"},
                  "instead_of": null | release}, ...]}

``release`` is a published_model's fingerprint, ``instead_of`` the champion that it took the place of; the newest entry is the
last. A release that was published again has two entries, of which the later counts.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.contestants import incumbent
from ft_assets.core.errors import FineTuneError

CHAMPION = "champion"  # ref: a recipe's record, by its number
ATTEMPTS = 20  # writers of one recipe's record that may come before this one
Merged = tuple[str, str]
Record = dict[str, Any]


class ChampionMoved(FineTuneError):
    """A candidate was judged against an incumbent that is the champion no more."""


def read(store: ArtifactStore, recipe: str) -> Record | None:
    """The record of a recipe, None where nothing of it has been published."""
    return _read(store, recipe)[1]


def _read(store: ArtifactStore, recipe: str) -> tuple[int, Record | None]:
    names = store.ref_names(CHAMPION, f"{recipe}@")
    if not names:
        return 0, None
    return int(names[-1].rpartition("@")[2]), store.get_ref(CHAMPION, names[-1])


def entry_of(record: Record, release: str) -> dict[str, Any] | None:
    """The latest entry of a release."""
    return next((entry for entry in reversed(record["history"]) if entry["release"] == release), None)


def published(record: Record | None) -> tuple[Merged, ...]:
    """The merged models a candidate may be judged against: the champion's, then that of the release whose place it took, and so
    on. So the champion itself is judged again as it was before it was published, whatever else was published or withdrawn.
    """
    found: dict[str, Merged] = {}
    release = record["champion"] if record else None
    while record and release and release not in found:
        entry = entry_of(record, release)
        assert entry is not None, "a champion has been published"
        found[release], release = _merged(entry), entry.get("instead_of")
    return tuple(dict.fromkeys(found.values()))


def withdrawn(record: Record | None, release: str, merged: str) -> dict[str, Any] | None:
    """Who withdrew a release, or one of the same weights, when and why; None where nobody did, or it was brought back."""
    if record is None:
        return None
    alike = (entry for entry in reversed(record["history"]) if entry["merged"][1] == merged)
    entry = entry_of(record, release) or next(alike, None)
    return entry["withdrawn"] if entry else None


def promote(store: ArtifactStore, recipe: str, entry: Mapping[str, Any], seen: tuple[Merged, ...]) -> Record:
    """Makes a release the champion. Nothing is written where it is that already.

    Args:
        entry: of the history, with ``withdrawn`` None.
        seen: the published models as they were when the run that evaluated it began (``RecipeRun.published``).

    Raises:
        ChampionMoved: its incumbent would be another by now; a new run evaluates it against that one.
        FineTuneError: the release was withdrawn.
    """
    merged = _merged(entry)[1]

    def change(record: Record | None) -> Record:
        if record is not None and record["champion"] == entry["release"]:
            return record
        if mark := withdrawn(record, entry["release"], merged):
            raise FineTuneError(
                f"release {entry['release'][:16]} of {recipe} {_withdrawn_text(recipe, entry['release'], mark)}"
            )
        against, now = incumbent(seen, merged), incumbent(published(record), merged)
        if against != now:
            raise ChampionMoved(
                f"release {entry['release'][:16]} of {recipe} was judged when its incumbent was {_text(against)}; by now it is "
                f"{_text(now)}, so another run published or withdrew one. To judge it against that: ft run {recipe}"
            )
        before = record or {"champion": None, "history": []}
        history = [*before["history"], {**entry, "instead_of": before["champion"]}]
        return {"recipe": recipe, "champion": entry["release"], "history": history}

    return _change(store, recipe, change)


def rolled_back_to(record: Record | None, recipe: str, to: str | None) -> dict[str, Any]:
    """The entry of the release that a rollback makes the champion.

    Args:
        to: the release, or the start of its fingerprint (eight digits at least); without it the one before the champion that
            was not withdrawn.

    Raises:
        FineTuneError: there is no such release, or none to go back to.
    """
    if record is None:
        raise FineTuneError(f"nothing of {recipe} has been published, so there is nothing to roll back")
    releases = list(dict.fromkeys(entry["release"] for entry in record["history"]))
    if to is not None:
        found = [release for release in releases if len(to) >= 8 and release.startswith(to)]
        if len(found) != 1:
            known = ", ".join(release[:16] for release in releases)
            raise FineTuneError(
                f"--to {to!r} is no release of {recipe}; its releases: {known} (see: ft champion {recipe})"
            )
        return next(entry for entry in reversed(record["history"]) if entry["release"] == found[0])
    at = max(index for index, entry in enumerate(record["history"]) if entry["release"] == record["champion"])
    for entry in reversed(record["history"][:at]):
        if not entry["withdrawn"] and entry["release"] != record["champion"]:
            return dict(entry)
    raise FineTuneError(
        f"{record['champion'][:16]} is the first release of {recipe} that was not withdrawn: there is none to go back to "
        f"(see: ft champion {recipe})"
    )


def roll_back(store: ArtifactStore, recipe: str, to: str | None, mark: Mapping[str, str]) -> tuple[Record, Record]:
    """Makes an earlier release the champion again (:func:`rolled_back_to` says which) and marks the one that was it as
    withdrawn. One that was withdrawn is brought back.

    Args:
        mark: ``by``, ``reason`` and ``at``.

    Returns:
        the record as it was and as it is; they are equal where that release is the champion already.

    Raises:
        FineTuneError: there is no such release, or none to go back to.
    """
    seen: list[Record] = []

    def change(record: Record | None) -> Record:
        target = rolled_back_to(record, recipe, to)["release"]
        assert record is not None, "there is a release to go back to"
        seen.append(record)
        marks = {record["champion"]: dict(mark), target: None}
        if target == record["champion"]:
            return record
        history = [
            {**entry, "withdrawn": marks.get(entry["release"], entry["withdrawn"])} for entry in record["history"]
        ]
        return {**record, "champion": target, "history": history}

    after = _change(store, recipe, change)
    return seen[-1], after


def _change(store: ArtifactStore, recipe: str, change: Callable[[Record | None], Record]) -> Record:
    for _ in range(ATTEMPTS):
        number, record = _read(store, recipe)
        changed = change(record)
        if changed is record or store.create_ref(CHAMPION, f"{recipe}@{number + 1:06d}", changed):
            return changed
    raise FineTuneError(f"the champion of {recipe} was changed by others {ATTEMPTS} times while this tried; try again")


def _merged(entry: Mapping[str, Any]) -> Merged:
    made_by, fingerprint = entry["merged"]
    return made_by, fingerprint


def _withdrawn_text(recipe: str, release: str, mark: Mapping[str, Any]) -> str:
    return (
        f"was withdrawn by {mark['by']} at {mark['at']} ({mark['reason']}) and is not published again unasked. "
        f"To bring it back: ft rollback {recipe} --to {release[:16]} --by NAME --reason TEXT"
    )


def _text(merged: Merged | None) -> str:
    return f"{merged[0]} {merged[1][:12]}" if merged else "none"
