"""Reads recipes and sources from YAML files, and reports every fault with its file and line.

A file may hold ``sources:`` (name to source), a recipe, or both. Several folders are searched; a name may be declared
once only.
"""

import copy
import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ft_assets.core.errors import Problem, RecipeError
from ft_assets.core.location import Found, access_errors, find_batches, in_words
from ft_assets.recipes.predictions import kind_of_predictions
from ft_assets.recipes.schema import NAME, SOURCE_ROLES, Recipe, Source, kind_of_role

SHIPPED = Path(__file__).parent
MAX_FIELDS = 20_000
USER_INFO = re.compile(r"://[^/@\s]*@")  # may hold a key
Location = tuple[str | int, ...]
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


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
                problems.append(Problem(str(file), positions(file).get(where, 1), _dotted(where), *fault))
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
        document, lines = _read(file)
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
        recipe, faults = _validate(Recipe, document, file, lines, ())
        if recipe is not None:
            faults += _declare(catalog.recipes, "recipe", recipe.name, recipe, file, lines.get(("name",), 1))
        catalog.problems += faults


def _add_source(catalog: Catalog, name: str, body: Any, file: Path, lines: dict[Location, int]) -> None:
    where = ("sources", name)
    line = _line_of(lines, where)
    source, faults = _validate(Source, body, file, lines, where)
    if not re.fullmatch(NAME, name):
        faults.append(Problem(str(file), line, _dotted(where), f"the name {name!r:.80}", f"a name that matches {NAME}"))
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


def _validate(
    model: type[M], body: Any, file: Path, lines: dict[Location, int], prefix: Location
) -> tuple[M | None, list[Problem]]:
    """The body as a model, or None and its faults, one for each field."""
    try:
        return model.model_validate(body), []
    except ValidationError as error:
        problems: dict[str, Problem] = {}
        for fault in error.errors(include_url=False):
            where, branch = _place(fault, body)
            name, allowed = _dotted((*prefix, *where)) or "recipe", branch or _allowed(model, fault)
            if name in problems:
                both = " or ".join(dict.fromkeys([problems[name].allowed, allowed]))
                problems[name] = replace(problems[name], allowed=both)
            else:
                problems[name] = Problem(str(file), _line_of(lines, (*prefix, *where)), name, _found(fault), allowed)
    return None, list(problems.values())


def _place(fault: Any, body: Any) -> tuple[Location, str]:
    """The field of a fault, and the branch of a union it is about: pydantic puts both into one location."""
    where: list[str | int] = []
    for part in fault["loc"]:
        inside = part in body if isinstance(body, dict) else isinstance(body, list) and part in range(len(body))
        if not inside and isinstance(body, dict) and part == body.get("method"):
            continue  # the tag of a union that tells its branches apart by ``method``
        if not inside and fault["type"] != "missing":
            of_pydantic = fault["type"] == "invalid_key" or str(part).startswith(("function-", "["))
            return tuple(where), "" if of_pydantic else str(part)
        where.append(part)
        body = body[part] if inside else None
    if fault["type"].startswith("union_tag"):
        where.append("method")
    return tuple(where), ""


def _line_of(lines: dict[Location, int], where: Location) -> int:
    for length in range(len(where), -1, -1):
        if where[:length] in lines:
            return lines[where[:length]]
    return 1


def _dotted(where: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")


def _found(fault: Any) -> str:
    if fault["type"] in ("missing", "union_tag_not_found"):
        return "nothing"
    if fault["type"] == "union_tag_invalid":
        return repr(fault["ctx"]["tag"])
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):
        return str(fault["ctx"]["error"])
    shown = "not shown" if _may_be_secret(fault["loc"]) else f"{USER_INFO.sub('://...@', repr(fault['input'])):.80}"
    return f"an unknown field (value {shown:.60})" if fault["type"] == "extra_forbidden" else shown


def _may_be_secret(where: Location) -> bool:
    """Whether a value stands where somebody may have put a secret: errors go to logs. Variables are written in capitals."""
    return any(part in ("env", "env_from_secrets") or str(part).isupper() for part in where)


def _allowed(model: type[BaseModel], fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        fields = _fields_at(model, fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), fields, n=1)
        return f"{near[0]} (did you mean that?)" if near else ", ".join(fields)
    if fault["type"] == "union_tag_invalid":
        return str(fault["ctx"]["expected_tags"])
    if fault["type"] in ("missing", "union_tag_not_found"):
        return "a value; this field has no default"
    if fault["type"] == "value_error":
        return "fields that fit together" if isinstance(fault["input"], dict) else str(fault["ctx"]["error"])
    return str(fault["msg"]).removeprefix("Input should be ").removeprefix("String should ")


def _fields_at(model: type[BaseModel], where: Location) -> list[str]:
    found = [model]
    for part in where:
        tagged = [each for each in found if part in _methods(each)]
        if tagged and len(found) > 1:
            found = tagged
            continue
        fields = [each.model_fields[str(part)].annotation for each in found if str(part) in each.model_fields]
        if fields:  # else it is an index, or a key of a mapping
            found = [model for annotation in fields for model in _models_in(annotation)]
    return list(found[0].model_fields) if found else []


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models of an annotation, also those in lists and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for option in get_args(annotation):
        yield from _models_in(option)


def _methods(model: type[BaseModel]) -> tuple[Any, ...]:
    """The values of ``method`` by which a union knows this branch."""
    return get_args(model.model_fields["method"].annotation) if "method" in model.model_fields else ()


class _Loader(yaml.SafeLoader):
    """Names the line of a value that is not what its form or tag says: the date 2026-13-41, ``!!bool maybe``."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, OverflowError) as error:
            found = f"{node.value!r:.80}, which is no {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=found, problem_mark=node.start_mark) from error


def _read(file: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    """The document and the line of each of its fields.

    Raises:
        RecipeError: not UTF-8, not YAML, a key given twice, too large or too deep, or not a mapping.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, 1, "file", str(error), "a readable UTF-8 YAML file") from error
    document, lines = _parsed(file, text)
    return copy.deepcopy(document), lines


# Every asset of a run reads the catalog anew, and PyYAML takes its time.
@lru_cache(maxsize=256)
def _parsed(file: Path, text: str) -> tuple[dict[str, Any], dict[Location, int]]:
    lines: dict[Location, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise _unreadable(file, 1, "file", "no mapping", "a recipe, sources, or both")
        for where, line in _walk(node, ()):
            if where in lines:
                found = f"the key a second time (first on line {lines[where]})"
                raise _unreadable(file, line, _dotted(where), found, "each key once")
            lines[where] = line
            if len(lines) > MAX_FIELDS:
                found = f"more than {MAX_FIELDS} values, with those that aliases repeat"
                raise _unreadable(file, line, "YAML", found, "fewer")
        return _Loader("").construct_document(node), lines
    except RecursionError as error:
        found = "values nested too deeply, or inside themselves"
        raise _unreadable(file, 1, "YAML", found, "valid YAML") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        found = getattr(error, "problem", None) or str(error)
        raise _unreadable(file, mark.line + 1 if mark else 1, "YAML", found, "valid YAML") from error


def _unreadable(file: Path, line: int, what: str, found: str, allowed: str) -> RecipeError:
    return RecipeError([Problem(str(file), line, what, found, allowed)])


def _walk(node: yaml.Node, where: Location) -> Iterator[tuple[Location, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key that is no text", problem_mark=key.start_mark)
            here = (*where, key.value)
            yield here, key.start_mark.line + 1
            yield from _walk(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*where, index), value.start_mark.line + 1
            yield from _walk(value, (*where, index))


def read_as(model: type[M], file: Path) -> M:
    """One YAML file as a model.

    Raises:
        RecipeError: it cannot be read or has faults; all are listed.
    """
    document, lines = _read(file)
    value, faults = _validate(model, document, file, lines, ())
    if value is None:
        raise RecipeError(faults)
    return value


def positions(file: Path) -> dict[Location, int]:
    """The line of each field of a YAML file that has been read before."""
    return _read(file)[1]
