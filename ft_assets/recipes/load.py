"""Reads recipes and sources from YAML files, and reports every fault with its file and line.

A file may hold ``sources:`` (name to source), a recipe, or both. Several folders are searched; a name may be declared
once only.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from ft_assets.core.errors import Problem, RecipeError
from ft_assets.core.location import Found, access_errors, find_batches, in_words
from ft_assets.recipes.faults import line_of, validate
from ft_assets.recipes.predictions import kind_of_predictions
from ft_assets.recipes.roles import SOURCE_ROLES, kind_of_role
from ft_assets.recipes.schema import NAME, Recipe, Source
from ft_assets.recipes.yaml_file import Location, dotted, positions, read_yaml

SHIPPED = Path(__file__).parent
T = TypeVar("T")


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A recipe or source and the file it came from."""

    value: T
    file: Path


@dataclass
class Catalog:
    """All recipes and sources known to this deployment.

    ``drafts`` holds each file's recipe as it is written, faults and all; ``source_faults`` what is wrong with a source,
    by its name. Both are in ``problems`` too, which holds every fault of every file.
    """

    recipes: dict[str, Loaded[Recipe]] = field(default_factory=dict)
    sources: dict[str, Loaded[Source]] = field(default_factory=dict)
    drafts: dict[Path, dict[str, Any]] = field(default_factory=dict)
    source_faults: dict[str, list[Problem]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def recipe(self, name: str) -> Recipe:
        """The recipe of this name.

        Raises:
            RecipeError: there is none or more than one, or its file or a source it names has faults; all are listed.
        """
        files = [file for file, draft in self.drafts.items() if draft.get("name") == name]
        problems = [problem for file in files for problem in self.faults(file)]
        if not files:  # A file that cannot be read has no name but its own.
            problems = [problem for problem in self.problems if Path(problem.file).stem == name]
        if problems or name not in self.recipes:
            raise RecipeError(problems or [_unknown("recipe", name, self.recipes)])
        return self.recipes[name].value

    def faults(self, file: Path) -> list[Problem]:
        """What is wrong with a file, and with the sources its recipe names."""
        problems = [problem for problem in self.problems if problem.file == str(file)]
        draft = self.drafts.get(file, {})
        classifies = "classifier" in draft
        wanted = [(("data", role, at), kind_of_role(role, classifies), name) for role, at, name in named_sources(draft)]
        wanted += [
            (("predictions", "sources", at), kind_of_predictions(classifies), name)
            for at, name in predicted_sources(draft)
        ]
        for where, kind, name in wanted:
            if name in self.source_faults:
                problems += self.source_faults[name]
            elif fault := self._misnamed(name, kind) or self._repeats(name, where[0]):
                problems.append(Problem(str(file), positions(file).get(where, 1), dotted(where), *fault))
        return list(dict.fromkeys(problems))

    def _repeats(self, name: str, part: str) -> tuple[str, str] | None:
        """A source that keeps duplicates is none to learn from or to measure on: each row must count once."""
        if part != "data" or self.sources[name].value.duplicates == "quarantine":
            return None
        return f"{name!r}, a source with duplicates: keep", "one with duplicates: quarantine; keep is for predictions"

    def _misnamed(self, name: str, wanted: str) -> tuple[str, str] | None:
        """What was found and what is allowed, where there is no source of this name, or it is of another kind."""
        if name not in self.sources:
            unknown = _unknown("source", name, self.sources)
            return unknown.found, unknown.allowed
        kind = self.sources[name].value.kind
        fit = [other for other, loaded in self.sources.items() if loaded.value.kind == wanted]
        found = f"{name!r}, a source of kind {kind}"
        return None if kind == wanted else (found, f"kind {wanted}: {', '.join(sorted(fit)) or 'none declared'}")

    def source(self, name: str) -> Source:
        """The source of this name.

        Raises:
            RecipeError: there is none or more than one, or it has faults.
        """
        problems = self.source_faults.get(name)
        if problems or name not in self.sources:
            raise RecipeError(problems or [_unknown("source", name, self.sources)])
        return self.sources[name].value

    def url(self, name: str) -> str:
        """The source's location as an absolute path or URL."""
        location = self.source(name).location
        if "://" in location or Path(location).is_absolute():
            return location
        return str((self.sources[name].file.parent / location).resolve())

    def found(self, name: str) -> Found:
        """What lies at the source's location now: its batches, and what stands there that cannot be one.

        Raises:
            RecipeError: its location cannot be read.
        """
        url = self.url(name)
        try:
            return find_batches(url)
        except access_errors() as error:
            allowed = "an existing file, a folder of batches, a glob or an fsspec URL"
            raise self._location_error(name, f"{url} ({in_words(error)})", allowed) from error

    def batches(self, name: str) -> dict[str, str]:
        """The source's batches now: key to path (a file, or a sub-folder), in key order.

        Raises:
            RecipeError: its location cannot be read, two of its files would be one batch, or one can be none.
        """
        found = self.found(name)
        for why in found.refused.values():
            raise self._location_error(name, why, "files and folders with a name of their own")
        return {key: path for key, (path, _) in found.batches.items()}

    def _location_error(self, name: str, found: str, allowed: str) -> RecipeError:
        where = self.sources[name].file
        line = positions(where).get(("sources", name, "location"), 1)
        return RecipeError([Problem(str(where), line, f"sources.{name}.location", found, allowed)])


def named_sources(draft: dict[str, Any]) -> list[tuple[str, int, str]]:
    """Role, index and name of each source that a recipe names; what is no list of names is the schema's fault."""
    data = draft.get("data")
    roles = {role: data.get(role) for role in SOURCE_ROLES} if isinstance(data, dict) else {}
    return [
        (role, index, name)
        for role, names in roles.items()
        if isinstance(names, list)
        for index, name in enumerate(names)
        if isinstance(name, str) and re.fullmatch(NAME, name)
    ]


def predicted_sources(draft: dict[str, Any]) -> list[tuple[int, str]]:
    """Index and name of each source whose batches a recipe answers; what is no list of names is the schema's fault."""
    predictions = draft.get("predictions")
    names = predictions.get("sources") if isinstance(predictions, dict) else None
    return [(at, name) for at, name in enumerate(names if isinstance(names, list) else []) if isinstance(name, str)]


def _unknown(what: str, name: str, known: Iterable[str]) -> Problem:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return Problem("-", 0, what, f"{name!r}, which is not declared{hint}", ", ".join(sorted(known)) or "none declared")


def load_catalog(folders: Iterable[Path]) -> Catalog:
    """Reads every ``*.yaml`` of the folders; faults are collected in the catalog, not raised."""
    catalog = Catalog()
    for folder in dict.fromkeys(Path(folder).resolve() for folder in folders):
        for file in sorted(folder.glob("*.yaml")):
            _add_file(catalog, file)
    return catalog


def add_file(catalog: Catalog, file: Path) -> str:
    """Adds one file to the catalog and returns the name of its recipe.

    Raises:
        RecipeError: the file, or a source that its recipe names, has faults, or it holds no recipe.
    """
    file = file.parent.resolve() / file.name
    if file not in catalog.drafts:
        _add_file(catalog, file)
    problems = catalog.faults(file)
    if not problems and not catalog.drafts[file]:
        problems = [Problem(str(file), 1, "name", "no recipe in this file", "a recipe, which starts with its name")]
    if problems:
        raise RecipeError(problems)
    return catalog.recipe(catalog.drafts[file]["name"]).name


def _add_file(catalog: Catalog, file: Path) -> None:
    catalog.drafts[file] = {}
    try:
        document, lines = read_yaml(file)
    except RecipeError as error:
        catalog.problems += error.problems
        return
    sources = document.pop("sources", None) or {}
    if not isinstance(sources, dict):
        line = lines.get(("sources",), 1)
        catalog.problems.append(Problem(str(file), line, "sources", f"{sources!r:.80}", "name: {kind, location, ...}"))
        sources = {}
    for name, body in sources.items():
        _add_source(catalog, str(name), body, file, lines)
    if document:
        catalog.drafts[file] = document
        recipe, faults = validate(Recipe, document, file, lines, ())
        if recipe is not None:
            faults += _declare(catalog.recipes, "recipe", recipe.name, recipe, file, lines.get(("name",), 1))
        catalog.problems += faults


def _add_source(catalog: Catalog, name: str, body: Any, file: Path, lines: dict[Location, int]) -> None:
    where = ("sources", name)
    line = line_of(lines, where)
    source, faults = validate(Source, body, file, lines, where)
    if not re.fullmatch(NAME, name):
        faults.append(Problem(str(file), line, dotted(where), f"the name {name!r:.80}", f"a name that matches {NAME}"))
    elif source is not None:
        faults += _declare(catalog.sources, "source", name, source, file, line)
    if faults:
        catalog.source_faults.setdefault(name, []).extend(faults)
        catalog.problems += faults


def _declare(table: dict[str, Loaded[Any]], what: str, name: str, value: Any, file: Path, line: int) -> list[Problem]:
    if name in table:
        found = f"declared in {table[name].file} too"
        return [Problem(str(file), line, f"{what} {name}", found, "a name of its own")]
    table[name] = Loaded(value, file)
    return []
