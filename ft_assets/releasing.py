"""``ft gate``, ``override``, ``champion``, ``rollback``: what may be released, what is, and taking it back."""

import json
import sys
from typing import Annotated, Any

import typer

from ft_assets.arguments import AsJson, RecipeArgument, open_recipe
from ft_assets.core import champion as champions
from ft_assets.core import overrides
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.champion import Record
from ft_assets.core.errors import FineTuneError, MissingInput
from ft_assets.core.gate import failed
from ft_assets.core.publish import ListedFile, Target, pointer_to
from ft_assets.core.recipe_run import RecipeRun, stages_of
from ft_assets.terminal import print_table
from resources.environment import Settings

SHUT = 3
DIGITS = 16  # of a release's fingerprint; they name its folder too
By = Annotated[str, typer.Option("--by", help="Who decides it; kept for good.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept for good.")]


def gate(recipe: RecipeArgument, as_json: AsJson = False) -> None:
    """The conditions of a recipe's gate with their numbers, and whether its candidate may be published (exit code 3 if not)."""
    found, known, name = open_recipe(recipe)
    body = _judged(stages_of(known, known.recipe(name), found.open_store()))
    if as_json:
        print(json.dumps({"recipe": name, **body}, indent=1))
    else:
        _print_gate(name, body)
    raise typer.Exit(0 if body["passed"] else SHUT)


def _judged(run: RecipeRun) -> dict[str, Any]:
    """The gate.json of a recipe's evaluation as the recipe stands now."""
    body: dict[str, Any] = run.artifact("eval_report", ("gate.json",)).json("gate.json")
    return body


def _print_gate(name: str, body: dict[str, Any]) -> None:
    words = {(True, False): "met", (False, False): "NOT MET", (False, True): "overridden"}
    rows = [
        [each["condition"], words[each["passed"], each["overridden"]], each["sentence"]] for each in body["conditions"]
    ]
    if rows:
        print_table(f"gate of {name}", ["condition", "", "numbers"], rows)
        print()
    if override := body["override"]:
        print(f"overridden by {override['by']} at {override['at']}: {override['reason']}")
    if body["passed"]:
        print("open" if rows else f"open: the recipe {name} has no gate, so nothing is asked of its candidate")
    else:
        print(
            f"shut by {len(failed(body))} of {len(rows)} conditions: the candidate is not published, and what is published stays"
        )


def override(
    recipe: RecipeArgument,
    by: By,
    reason: Reason,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="A condition that failed; may be given several times. Without it, all that failed."),
    ] = None,
) -> None:
    """Let a candidate through its shut gate: this evaluation alone, by name and with a reason, written into its release."""
    found, known, name = open_recipe(recipe)
    store, mark = found.open_store(), overrides.signed(by, reason)
    run = stages_of(known, known.recipe(name), store)
    written = overrides.write(
        store,
        name,
        run.stages["eval_report"].fingerprint,
        _judged(run),
        [_as_kept(text) for text in condition or []],
        mark,
    )
    for text in written["conditions"]:
        print(f"overridden: {text}")
    print(f"by {mark['by']} at {mark['at']}: {mark['reason']}\nTo publish the candidate: ft run {name}")


def _as_kept(text: str) -> str:
    from ft_assets.core.conditions import ConditionError, parse

    try:
        return str(parse(text))
    except ConditionError as error:
        raise FineTuneError(f"--condition {text!r:.80}: {error}") from error


def champion(recipe: RecipeArgument, as_json: AsJson = False) -> None:
    """Every release of a recipe, which of them is the champion, and who withdrew one or let it through its gate."""
    found, _, name = open_recipe(recipe)
    record = champions.read(found.open_store(), name)
    if as_json:
        print(json.dumps(record or {"recipe": name, "champion": None, "history": []}, indent=1))
        return
    if record is None:
        raise MissingInput(f"nothing of {name} has been published; run: ft run {name}")
    columns = ["release", "", "published", "at", "notes"]
    print_table(f"releases of {name}", columns, [_release_row(record, entry) for entry in record["history"]])


def _release_row(record: Record, entry: dict[str, Any]) -> list[str]:
    notes = []
    if forced := entry["override"]:
        notes.append(f"gate overridden by {forced['by']} at {forced['at']}: {forced['reason']}")
    if mark := entry["withdrawn"]:
        notes.append(f"withdrawn by {mark['by']} at {mark['at']}: {mark['reason']}")
    word = "champion" if champions.entry_of(record, record["champion"]) is entry else "withdrawn" if mark else ""
    return [entry["release"][:DIGITS], word, entry["published_at"], entry["to"], "; ".join(notes)]


def rollback(
    recipe: RecipeArgument,
    by: By,
    reason: Reason,
    to: Annotated[
        str | None, typer.Option(help="A release (8 digits at least); without it, the one before the champion.")
    ] = None,
) -> None:
    """Make an earlier release the champion again. The one taken back is not published again unasked."""
    found, _, name = open_recipe(recipe)
    store, mark = found.open_store(), overrides.signed(by, reason)
    release = champions.rolled_back_to(champions.read(store, name), name, to)
    place = _place(found, store, release)
    before, after = champions.roll_back(store, name, release["release"], mark)
    short = release["release"][:DIGITS]
    try:
        place.write_pointer(pointer_to(release["release"]))
    except FineTuneError as error:
        raise FineTuneError(
            f"{short} is the champion of {name} by its record, but the pointer at {release['to']} was not moved: {error}\n"
            f"To move it: ft rollback {name} --to {short} --by NAME --reason TEXT"
        ) from error
    was = champions.entry_of(before, before["champion"])
    print(f"champion of {name} was {before['champion'][:DIGITS]}, is {after['champion'][:DIGITS]} at {release['to']}")
    if was is not None and was["to"] != release["to"]:
        print(f"{was['to']} still points at {before['champion'][:DIGITS]}: it is another place")


def _place(found: Settings, store: ArtifactStore, entry: dict[str, Any]) -> Target:
    """Where a release lies, all of it being there as it was published.

    Raises:
        FineTuneError: a file is absent or changed, or the place cannot be reached.
    """
    from resources.target import target_of

    place = target_of(entry["to"], str(found.home))
    manifest = store.lookup("published_model", entry["release"])
    if manifest is None:
        print(
            f"the store has no published_model {entry['release'][:DIGITS]} any more: its files are not checked",
            file=sys.stderr,
        )
        return place
    listed = json.loads(store.file(manifest, "release.json").read_text(encoding="utf-8"))["files"]
    if absent := place.missing(entry["folder"], [ListedFile(**file) for file in listed]):
        raise FineTuneError(
            f"release {entry['release'][:DIGITS]} at {entry['to']} is not whole ({len(absent)} files, {absent[0]} the first), so "
            "nothing was changed; name another with --to"
        )
    return place


COMMANDS = (gate, override, champion, rollback)
