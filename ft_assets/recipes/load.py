"""Reads recipes and sources from YAML files, and reports every fault with its file and line.

A file may hold ``sources:`` (name to source), a recipe, or both. Several folders are searched; a name may be declared
once only.
"""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import fsspec
import yaml
from pydantic import BaseModel, ValidationError

from ft_assets.core.errors import Problem, RecipeError
from ft_assets.recipes.schema import Recipe, Source

SHIPPED = Path(__file__).parent
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
    """All recipes and sources known to this deployment."""

    recipes: dict[str, Loaded[Recipe]] = field(default_factory=dict)
    sources: dict[str, Loaded[Source]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def recipe(self, name: str) -> Recipe:
        """The recipe of this name.

        Raises:
            RecipeError: there is none, or its file or a source it names has faults; all are listed.
        """
        if name in self.recipes:
            problems = [*self._faults_of(self.recipes[name].file), *self.missing_sources(name)]
            if problems:
                raise RecipeError(problems)
            return self.recipes[name].value
        faulty = [problem for problem in self.problems if Path(problem.file).stem == name]
        raise RecipeError(faulty or [_unknown("recipe", name, self.recipes)])

    def _faults_of(self, file: Path) -> list[Problem]:
        return [problem for problem in self.problems if problem.file == str(file)]

    def missing_sources(self, name: str) -> list[Problem]:
        loaded = self.recipes[name]
        lines = positions(loaded.file)
        problems = []
        for role, names in loaded.value.data.sources().items():
            for index, source in enumerate(names):
                if source not in self.sources:
                    unknown = _unknown("source", source, self.sources)
                    line = lines.get(("data", role, index), 1)
                    problems.append(Problem(str(loaded.file), line, f"data.{role}[{index}]", unknown.found, unknown.allowed))
        return problems

    def source(self, name: str) -> Source:
        if name not in self.sources:
            raise RecipeError([_unknown("source", name, self.sources)])
        return self.sources[name].value

    def url(self, name: str) -> str:
        """The source's location as an absolute path or URL."""
        location = self.source(name).location
        if "://" in location or Path(location).is_absolute():
            return location
        return str((self.sources[name].file.parent / location).resolve())

    def batches(self, name: str) -> dict[str, str]:
        """The source's batches now: key to path (a file, or a sub-folder), in key order."""
        fs, root = fsspec.core.url_to_fs(self.url(name))
        if not fs.exists(root):
            where = self.sources[name].file
            line = positions(where).get(("sources", name, "location"), 1)
            raise RecipeError([Problem(str(where), line, f"sources.{name}.location", self.url(name) + " (not there)",
                                       "an existing file, a folder of batches or an fsspec URL")])
        paths = [root] if fs.isfile(root) else [p for p in fs.ls(root, detail=False) if not _is_hidden(p)]
        return {_batch_key(path): path for path in sorted(paths)}


def _is_hidden(path: str) -> bool:
    return Path(path).name.startswith((".", "_"))


def _batch_key(path: str) -> str:
    name = Path(path).name
    for suffix in (".gz", ".jsonl", ".json", ".md", ".txt"):
        name = name.removesuffix(suffix)
    return name


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
        RecipeError: the file has faults, or holds no recipe.
    """
    file = file.resolve()
    before = len(catalog.problems)
    _add_file(catalog, file)
    names = [name for name, loaded in catalog.recipes.items() if loaded.file == file]
    problems = [*catalog.problems[before:], *(p for name in names for p in catalog.missing_sources(name))]
    if not names and not problems:
        problems = [Problem(str(file), 1, "name", "no recipe in this file", "a recipe, which starts with its name")]
    if problems:
        raise RecipeError(problems)
    return names[0]


def _add_file(catalog: Catalog, file: Path) -> None:
    try:
        document, lines = _read(file)
    except RecipeError as error:
        catalog.problems += error.problems
        return
    sources = document.pop("sources", None) or {}
    if not isinstance(sources, dict):
        catalog.problems.append(Problem(str(file), lines.get(("sources",), 1), "sources", repr(sources), "name: {kind, location, ...}"))
        sources = {}
    for name, body in sources.items():
        found = _validate(Source, body, file, lines, ("sources", name), catalog.problems)
        if found is not None:
            _declare(catalog, catalog.sources, "source", str(name), found, file, lines.get(("sources", name), 1))
    if document:
        recipe = _validate(Recipe, document, file, lines, (), catalog.problems)
        if recipe is not None:
            _declare(catalog, catalog.recipes, "recipe", recipe.name, recipe, file, lines.get(("name",), 1))


def _declare(catalog: Catalog, table: dict[str, Loaded[Any]], what: str, name: str, value: Any, file: Path, line: int) -> None:
    if name in table and table[name].file != file:
        other = table[name].file
        catalog.problems.append(Problem(str(file), line, f"{what} {name}", f"declared in {other} too", "a name of its own"))
    else:
        table[name] = Loaded(value, file)


def _validate(model: type[M], body: Any, file: Path, lines: dict[Location, int], prefix: Location,
                            problems: list[Problem]) -> M | None:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            where = tuple(part for part in fault["loc"] if (*prefix, part) in lines or not str(part).startswith("function-"))
            problems.append(Problem(str(file), _line_of(lines, (*prefix, *where)), _dotted((*prefix, *where)) or "recipe",
                                    _found(fault), _allowed(model, fault)))
    return None


def _line_of(lines: dict[Location, int], where: Location) -> int:
    for length in range(len(where), -1, -1):
        if where[:length] in lines:
            return lines[where[:length]]
    return 1


def _dotted(where: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")


def _found(fault: Any) -> str:
    if fault["type"] == "missing":
        return "nothing"
    if fault["type"] == "extra_forbidden":
        return f"an unknown field (value {fault['input']!r:.60})"
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):
        return str(fault["ctx"]["error"])
    return f"{fault['input']!r:.80}"


def _allowed(model: type[BaseModel], fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        fields = _fields_at(model, fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), fields, n=1)
        return f"{near[0]} (did you mean that?)" if near else ", ".join(fields)
    if fault["type"] == "missing":
        return "a value; this field has no default"
    if fault["type"] == "value_error":
        return "fields that fit together"
    return str(fault["msg"]).removeprefix("Input should be ").removeprefix("String should ")


def _fields_at(model: type[BaseModel], where: Location) -> list[str]:
    for part in where:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        options = [annotation, *get_args(annotation)]
        inner = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _read(file: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    """The document and the line of each of its fields.

    Raises:
        RecipeError: not UTF-8, not YAML, a key given twice, or not a mapping.
    """
    def problem(line: int, what: str, found: str, allowed: str) -> RecipeError:
        return RecipeError([Problem(str(file), line, what, found, allowed)])

    try:
        node = yaml.compose(file.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise problem(1, "file", str(error), "a readable UTF-8 YAML file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise problem(mark.line + 1 if mark else 1, "YAML", getattr(error, "problem", None) or str(error), "valid YAML") from error
    if not isinstance(node, yaml.MappingNode):
        raise problem(1, "file", "no mapping", "a recipe, sources, or both")
    lines: dict[Location, int] = {}
    for where, line in _walk(node, ()):
        if where in lines:
            raise problem(line, _dotted(where), f"the key a second time (first on line {lines[where]})", "each key once")
        lines[where] = line
    return yaml.SafeLoader("").construct_document(node), lines


def _walk(node: yaml.Node, where: Location) -> Iterator[tuple[Location, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*where, key.value)
            yield here, key.start_mark.line + 1
            yield from _walk(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*where, index), value.start_mark.line + 1
            yield from _walk(value, (*where, index))


def positions(file: Path) -> dict[Location, int]:
    """The line of each field of a YAML file that has been read before."""
    return _read(file)[1]
