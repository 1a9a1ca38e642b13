"""``ft predict`` and ``ft chat``: a recipe's models put to use. The model runs in a worker; nothing here imports torch."""

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ft_assets.arguments import AsJson, RecipeArgument, open_recipe
from ft_assets.core.errors import FineTuneError
from ft_assets.core.input_file import answers_beside, left_beside
from ft_assets.core.predicting import Model, find_model
from ft_assets.core.recipe_run import execution
from ft_assets.recipes.load import Catalog
from ft_assets.recipes.predictions import CHAMPION
from ft_assets.recipes.schema import Recipe
from ft_assets.terminal import Screen, print_table
from resources.environment import Settings
from resources.worker import worker_environment

OUTPUTS = (".jsonl", ".parquet")
ModelOption = Annotated[
    str | None,
    typer.Option(
        help="champion, or a model that the recipe makes: merged, policy, sft, base, nf4, ...", metavar="NAME"
    ),
]
LengthOption = Annotated[int | None, typer.Option(min=1, max=8192, help="Tokens of an answer at most.")]


def predict(
    recipe: RecipeArgument,
    input: Annotated[
        Path | None,
        typer.Option(help="A file of rows (JSONL, Parquet, CSV, ...). Without it: the recipe's predictions."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where answers go, .jsonl or .parquet. Default: INPUT.predictions.jsonl, beside it."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="The column that holds what is asked; several are joined by a blank line.")
    ] = None,
    model: ModelOption = None,
    max_new_tokens: LengthOption = None,
    as_json: AsJson = False,
) -> None:
    """Answer every row of a file, or every batch that the recipe's predictions name; a cut run is gone on with."""
    if input is None:
        if given := [
            name
            for name, value in (
                ("--output", output),
                ("--column", column),
                ("--model", model),
                ("--max-new-tokens", max_new_tokens),
            )
            if value
        ]:
            raise FineTuneError(
                f"{', '.join(given)}: only with --input; for its own sources the recipe's predictions say it"
            )
        _predict_batches(recipe, as_json)
        return
    place = _output(input, output)
    found, known, name = open_recipe(recipe)
    chosen = _model(found, known, known.recipe(name), model)
    most = _length(known.recipe(name), chosen, max_new_tokens)
    from ft_assets.answering import predict_file, told

    outcome, answered = predict_file(found, known, name, input, place, column or [], chosen, most, Screen())
    if as_json:
        print(json.dumps(told(outcome, answered), indent=1))
    elif answered is not None:
        _print_answered(input, chosen, answered.as_json(), name)
    else:
        _print_ending(outcome, "The same command")
    raise typer.Exit(outcome.exit_code)


def _predict_batches(recipe: str, as_json: bool) -> None:
    found, known, name = open_recipe(recipe)
    from ft_assets.answering import predict_batches, told

    outcome = predict_batches(found, known, name, Screen())
    if as_json:
        print(json.dumps(told(outcome, None), indent=1))
    else:
        columns = ["asset", "partition", "status", "seconds", "key metric", "USD"]
        rows = [
            [row.asset, row.partition, row.status, f"{row.seconds:.1f}", row.key_metric, f"{row.cost_usd:.4f}"]
            for row in outcome.rows
        ]
        print_table(f"predictions of {name}", columns, rows, right=("seconds", "USD"))
        _print_ending(outcome, f"`ft predict {name}`")
    raise typer.Exit(outcome.exit_code)


def _output(file: Path, output: Path | None) -> Path:
    """Where a file's answers go.

    Raises:
        FineTuneError: there is no such file, or the answers cannot go there.
    """
    if not file.is_file():
        there = "is a folder; give one of its files" if file.is_dir() else "is no file; save what it gives in one"
        raise FineTuneError(f"--input {file} {there if file.exists() else 'is not there'}")
    place = output or answers_beside(file)
    if place.suffix.lower() not in OUTPUTS:
        raise FineTuneError(f"--output {place}: its name ends in {' or '.join(OUTPUTS)}")
    if place.is_dir():
        raise FineTuneError(f"--output {place} is a folder; name a file in it")
    for written in (place, left_beside(place)):
        if written.exists() and written.samefile(file):
            raise FineTuneError(f"--output {place}: {written} would be written, which is the input; name another file")
    if not place.parent.is_dir() or not os.access(place.parent, os.W_OK):
        why = "cannot be written to" if place.parent.is_dir() else "is not there"
        raise FineTuneError(f"--output {place}: folder {place.parent.resolve()} {why}; give --output with another")
    return place


def _model(found: Settings, known: Catalog, recipe: Recipe, name: str | None) -> Model:
    wanted = name or (recipe.predictions.model if recipe.predictions else CHAMPION)
    return find_model(known, recipe, found.open_store(), wanted)


def _length(recipe: Recipe, model: Model, given: int | None) -> int | None:
    """Tokens of an answer at most: what the recipe's predictions say, else what its models were measured with."""
    if model.classifies:
        if given is not None:
            raise FineTuneError("a classifier writes nothing; leave --max-new-tokens out")
        return None
    own = recipe.predictions.max_new_tokens if recipe.predictions else None
    return given or own or recipe.evaluation.max_new_tokens


def _print_answered(file: Path, model: Model, told: dict[str, Any], name: str) -> None:
    speed = f"{told['rows_per_second']:.1f} rows/s"
    if not model.classifies:
        speed += f", {told['tokens_per_second']:.0f} tokens/s"
    print(
        f"{told['predicted']} rows of {file} answered by {model.name} ({model.manifest.fingerprint[:12]}): {told['output']}"
    )
    print(f"{speed}, {told['seconds']:.1f} s, ${told['cost_usd']:.4f}")
    if told["quarantine"]:
        why = ", ".join(f"{reason} {count}" for reason, count in told["reasons"].items())
        print(f"{told['quarantined']} rows have no answer ({why}): {told['quarantine']}")
    if told["cut_short"] and not model.classifies:
        print(f"{told['cut_short']} answers reached the most tokens an answer may have; --max-new-tokens raises it")
    print(f"Next: ft chat {name} --model {model.name}")


def _print_ending(outcome: Any, again: str) -> None:
    if outcome.interrupted:
        print(f"\nCancelled. {again} goes on where it stopped.")
    elif outcome.failed:
        print(f"\n{outcome.failed[0][0]} failed; the cause is above. {again} goes on where it stopped.")
    elif outcome.exit_code:
        print("\nA blocking check failed: " + ", ".join(check for check, blocking in outcome.checks if blocking))


def chat(
    recipe: RecipeArgument,
    model: ModelOption = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=8192, help="Tokens of an answer at most.")] = 512,
) -> None:
    """Talk to a model in the terminal, or line by line through a pipe. /reset forgets, /quit leaves, Ctrl-C stops an answer."""
    found, known, name = open_recipe(recipe)
    chosen = _model(found, known, known.recipe(name), model)
    if importlib.util.find_spec("torch") is None:
        raise FineTuneError(
            "ft chat runs the model on this machine, which has no torch: pip install 'ft-assets[worker]'"
        )
    if chosen.classifies and system:
        raise FineTuneError("a classifier has no system prompt; leave --system out")
    body = {
        "stage": "chat",
        "fingerprint": chosen.manifest.fingerprint,
        "code_version": "",
        "identity": chosen.identity(),
        "upstream": {role: list(entry) for role, entry in chosen.upstream().items()},
        "execution": {
            **execution(known.recipe(name), "batch_predictions"),
            "title": f"{name}, {chosen.name} ({chosen.manifest.stage} {chosen.manifest.fingerprint[:12]})",
            "system": system,
            "max_new_tokens": max_new_tokens,
        },
        "store": {"url": found.store, "local": str(found.home / "local")},
        "progress": os.devnull,
        "cache": str(found.cache),
    }
    threads = known.recipe(name).hardware.threads_per_process
    sys.stdout.flush()
    sys.stderr.flush()
    # In this process's place: the terminal, its signals and the exit code are then the worker's own.
    command = [sys.executable, "-m", "ft_assets.worker.chat", json.dumps(body)]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the worker says what Ctrl-C does
    os.execve(sys.executable, command, {**os.environ, **worker_environment(None, threads)})
