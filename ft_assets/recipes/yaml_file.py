"""YAML files of recipes and sources: the document, and the line of each of its fields."""

import copy
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ft_assets.core.errors import Problem, RecipeError

MAX_FIELDS = 20_000
Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """Names the line of a value that is not what its form or tag says: the date 2026-13-41, ``!!bool maybe``."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, OverflowError) as error:
            found = f"{node.value!r:.80}, which is no {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=found, problem_mark=node.start_mark) from error


def read_yaml(file: Path) -> tuple[dict[str, Any], dict[Location, int]]:
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
                raise _unreadable(file, line, dotted(where), found, "each key once")
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


def positions(file: Path) -> dict[Location, int]:
    """The line of each field of a YAML file that has been read before."""
    return read_yaml(file)[1]


def dotted(where: Location) -> str:
    """A place in a document as a person writes it: ``sources.rows.location[0]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
