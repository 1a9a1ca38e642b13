"""``ft``: what the dagster CLI cannot say in one line.

Exit codes: 0 done, 1 a stage failed, 2 bad input (nothing was created), 3 a blocking check failed or something asked for
has not been made, 130 cancelled. Reading commands import neither Dagster nor torch.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, NoReturn

import typer

from ft_assets import releasing, verifying
from ft_assets.arguments import AsJson, RecipeArgument, open_recipe
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.errors import CorruptArtifact, FineTuneError, MissingInput, Problem, RecipeError
from ft_assets.core.garbage import collect_rarely
from ft_assets.core.lineage import DATA_ASSETS, MODEL_ASSETS
from ft_assets.core.recipe_run import base_of, stages_of
from ft_assets.deploying import deploy_app
from ft_assets.predicting import chat, predict
from ft_assets.recipes.load import Catalog, add_file, named_sources, predicted_sources
from ft_assets.terminal import Screen, print_table
from resources.environment import Settings, catalog, settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Fine-tuning as a lineage graph.", pretty_exceptions_enable=False
)
recipe_app = typer.Typer(no_args_is_help=True, help="Look at recipe files.")
app.add_typer(recipe_app, name="recipe")
app.add_typer(deploy_app, name="deploy")
for command in (*releasing.COMMANDS, verifying.verify, predict, chat):
    app.command()(command)


@app.command()
def run(
    recipe: RecipeArgument,
    until: Annotated[str | None, typer.Option(help="Stop after this asset.")] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a recipe up to date: reuse what is finished, resume what is partial, make what is absent."""
    found, known, name = open_recipe(recipe)
    assets = (*DATA_ASSETS, *MODEL_ASSETS)
    if until is not None and until not in assets:
        _fail(FineTuneError(f"--until {until!r}: no such asset; allowed: {', '.join(assets)}"), 2)
    from ft_assets.beginning import begun

    with begun(found, known, name, until) as beginning:
        from ft_assets.running import run_recipe

        outcome = run_recipe(found, known, name, beginning, Screen())
    if as_json:
        print(json.dumps(outcome.as_json(), indent=1))
    else:
        _print_outcome(outcome, found, name)
    raise typer.Exit(outcome.exit_code)


def _print_outcome(outcome: Any, found: Settings, name: str) -> None:
    rows = [
        [row.asset, row.partition, row.status, f"{row.seconds:.1f}", row.key_metric, f"{row.cost_usd:.4f}"]
        for row in outcome.rows
    ]
    print_table(
        f"recipe {name}",
        ["asset", "partition", "status", "seconds", "key metric", "USD"],
        rows,
        right=("seconds", "USD"),
    )
    if outcome.interrupted:
        print(f"\nCancelled. `ft run {name}` resumes where it stopped.")
    elif outcome.failed:
        print(f"\n{outcome.failed[0][0]} failed; the cause is above. `ft run {name}` resumes where it stopped.")
    elif outcome.shut:
        print(
            f"\nThe gate of {name} is shut: its candidate is not published, and what is published stays.\n"
            f"evaluation page: {outcome.report}\n"
            f"the conditions and their numbers: ft gate {name}\n"
            f"to publish it all the same: ft override {name} --by NAME --reason TEXT"
        )
    elif outcome.exit_code == 3:
        print(
            "\nA blocking check failed, so nothing after it ran: "
            + ", ".join(check for check, blocking in outcome.checks if blocking)
        )
    else:
        if outcome.report:
            print(f"\nevaluation page: {outcome.report}")
        home, dagster = quote(str(found.dagster_home)), quote(str(Path(sys.executable).parent / "dagster"))
        print(f"Dagster UI:      DAGSTER_HOME={home} {dagster} dev -m definitions")


@app.command()
def plan(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A recipe's name, or the path of its YAML file.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every placement considered, and why it does not fit.")] = False,
    stage: Annotated[str | None, typer.Option(help="This stage of the plan alone (sft, say).")] = None,
    calibration: Annotated[
        bool,
        typer.Option("--calibration", help="What was predicted and what was measured, of every finished training."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Where each training stage would run, its memory, time and cost, before it is paid for."""
    from ft_assets import planning

    if calibration:
        if recipe is not None or stage is not None or every:
            raise FineTuneError(
                "ft plan --calibration is of every finished training: leave RECIPE, --stage and --all out"
            )
        planning.show_calibration(settings().open_store(), as_json)
        return
    if recipe is None:
        raise FineTuneError("ft plan wants a RECIPE, or --calibration")
    found, known, name = open_recipe(recipe)
    show = planning.show_options if every else planning.show_plan
    show(known, name, found.open_store(), stage, as_json)


@app.command()
def status(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="A recipe's name or file; all without one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Which artifacts of a recipe are made, partial or absent, as the recipe stands now."""
    found, known, name = open_recipe(recipe) if recipe else (settings(), catalog(settings()), None)
    names = [name] if name else sorted(known.recipes)
    states = {}
    for each in names:
        try:
            states[each] = _states(found.open_store(), known, each)
        except RecipeError as error:
            if name is not None:
                raise
            states[each] = [{"asset": "", "status": "faulty", "fingerprint": "", "made": str(error)}]
    if as_json:
        print(json.dumps(states, indent=1))
        return
    rows = [
        [each, *(entry[key] for key in ("asset", "status", "fingerprint", "made"))]
        for each in names
        for entry in states[each]
    ]
    print_table("", ["recipe", "asset", "status", "fingerprint", "made"], rows)


def _states(store: ArtifactStore, known: Catalog, name: str) -> list[dict[str, str]]:
    import time

    try:
        stages = stages_of(known, known.recipe(name), store).stages
    except MissingInput as error:
        base = base_of(known, known.recipe(name))
        made = store.lookup("base_model", base.fingerprint) is not None
        return [
            {
                "asset": "base_model",
                "status": "made" if made else "absent",
                "fingerprint": base.fingerprint[:12],
                "made": "",
            },
            {"asset": "the rest", "status": "absent", "fingerprint": "", "made": str(error)},
        ]
    states = []
    for asset, stage in stages.items():
        try:
            manifest = store.lookup(stage.made_by, stage.fingerprint)
        except CorruptArtifact:
            states.append({"asset": asset, "status": "corrupt", "fingerprint": stage.fingerprint[:12], "made": ""})
            continue
        partial = store.has_partial(stage.fingerprint)
        word = "partial" if partial else "absent"
        if manifest is not None:
            word = f"passes {stage.passes}" if stage.passes else "made"
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.created_at)) if manifest else ""
        states.append({"asset": asset, "status": word, "fingerprint": stage.fingerprint[:12], "made": when})
    return states


@app.command()
def sources(as_json: AsJson = False) -> None:
    """Every declared source and its batches, with what validation made of each."""
    found = settings()
    known, store = catalog(found), found.open_store()
    rows = []
    for name in sorted(known.sources):
        source = known.sources[name].value
        about = {"source": name, "kind": source.kind, "batch": "", "licence": source.licence}
        nothing = {"state": "faulty", "kept": "", "quarantined": "", "reasons": {}}
        try:
            listed = known.found(name)
        except RecipeError as error:
            rows.append({**about, **nothing, "state": f"faulty: {error}", "note": ""})
            continue
        rows += [{**about, **nothing, "note": why} for why in listed.refused.values()]
        rows += [{**about, "batch": batch, **_batch_state(store, known, f"{name}@{batch}")} for batch in listed.batches]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    columns = ["source", "kind", "batch", "licence", "state", "kept", "quarantined", "note"]
    print_table("", columns, [[str(row[column]) for column in columns] for row in rows], right=("kept", "quarantined"))


def _batch_state(store: ArtifactStore, known: Catalog, key: str) -> dict[str, Any]:
    from ft_assets.core.batches import batch_state

    state = batch_state(known, store, key)
    metrics = state.manifest.metrics if state.manifest else {"rows_kept": "", "quarantined": "", "reasons": {}}
    return {
        "state": state.word,
        "kept": metrics["rows_kept"],
        "quarantined": metrics["quarantined"],
        "reasons": metrics["reasons"],
        "note": state.fault if state.word in ("failed", "ingesting") else "",
    }


@app.command()
def quarantine(
    batch: Annotated[str, typer.Argument(metavar="SOURCE@BATCH", help="A batch; the start of its name is enough.")],
    reason: Annotated[str | None, typer.Option(help="Only rows set aside for this reason.")] = None,
    limit: Annotated[int, typer.Option(min=0, max=1_000_000, help="Rows to print; the counts are of all.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The rows of a batch that were set aside, and why: counts by reason first, then rows."""
    from ft_assets.core.quarantine import COLUMNS, find_batch, read_quarantine

    found = settings()
    known, store = catalog(found), found.open_store()
    state = find_batch(known, store, batch)
    assert state.manifest is not None, "find_batch returns what has been validated"
    reasons = state.manifest.metrics["reasons"]
    if reason is not None and reason not in reasons:
        others = ", ".join(reasons) or "none, nothing was set aside"
        raise FineTuneError(f"no row of {state.key} was set aside for {reason!r}; its reasons: {others}")
    rows = read_quarantine(store.file(state.manifest, "quarantine.parquet"), reason, limit)
    if as_json:
        print(json.dumps({"batch": state.key, "reasons": reasons, "rows": rows}, indent=1))
        return
    print_table(state.key, ["reason", "rows"], [[name, str(count)] for name, count in reasons.items()], ("rows",))
    if rows:
        print()
        print_table("", COLUMNS, [[_one_line(str(row[name])) for name in COLUMNS] for row in rows], ("position",))
    shown = sum(reasons.values()) if reason is None else reasons[reason]
    if len(rows) < shown:
        print(f"{shown - len(rows)} more; --limit {shown} prints all", file=sys.stderr)


def _one_line(text: str) -> str:
    """Text as one cell of one line: what would break a line or steer a terminal is written as an escape."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


@recipe_app.command("check")
def recipe_check(file: Annotated[Path, typer.Argument(help="A recipe's YAML file.")], as_json: AsJson = False) -> None:
    """Check a recipe and all it names; every fault at once."""
    from ft_assets.recipes.base import base_identity

    known, file = catalog(settings()), file.parent.resolve() / file.name
    problems: list[Problem] = []
    with _collected(problems):
        add_file(known, file)
    draft = known.drafts[file]
    named = {source for _, _, source in named_sources(draft)} | {source for _, source in predicted_sources(draft)}
    for source in sorted(named & set(known.sources)):
        with _collected(problems):
            known.batches(source)
    if isinstance(draft.get("base_model"), str):
        with _collected(problems):
            template = draft.get("chat_template")
            base_identity(draft["base_model"], file, template if isinstance(template, str) else None)
    if as_json:
        print(json.dumps({"ok": not problems, "problems": [vars(problem) for problem in problems]}, indent=1))
        raise typer.Exit(2 if problems else 0)
    if problems:
        _fail(RecipeError(problems), 2)
    print(f"{file}: recipe {draft['name']} is good. Next: ft run {file}")


@contextmanager
def _collected(problems: list[Problem]) -> Iterator[None]:
    """Adds the faults of what goes wrong inside to the list, each once."""
    try:
        yield
    except RecipeError as error:
        problems += [problem for problem in error.problems if problem not in problems]


def _fail(error: FineTuneError, code: int) -> NoReturn:
    print(f"{type(error).__name__}:" if isinstance(error, RecipeError) else f"error: {error}", file=sys.stderr)
    if isinstance(error, RecipeError):
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
    sys.exit(code)


def main() -> None:
    """Entry point of the ``ft`` command."""
    collect_rarely()
    # Where it is installed, for tests, pandera would import it: a fifth of what a small batch's validation takes.
    sys.modules.setdefault("hypothesis", None)  # type: ignore[arg-type]
    try:
        app()
    except RecipeError as error:
        _fail(error, 2)
    except MissingInput as error:
        _fail(error, 3)
    except FineTuneError as error:
        _fail(error, 2)


if __name__ == "__main__":
    main()
