"""A YAML document as a model of pydantic's, or each of its faults with the file and line it stands on."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from ft_assets.core.errors import Problem, RecipeError
from ft_assets.recipes.yaml_file import Location, dotted, read_yaml

USER_INFO = re.compile(r"://[^/@\s]*@")  # may hold a key
M = TypeVar("M", bound=BaseModel)


def read_as(model: type[M], file: Path) -> M:
    """One YAML file as a model.

    Raises:
        RecipeError: it cannot be read or has faults; all are listed.
    """
    document, lines = read_yaml(file)
    value, faults = validate(model, document, file, lines, ())
    if value is None:
        raise RecipeError(faults)
    return value


def validate(
    model: type[M], body: Any, file: Path, lines: dict[Location, int], prefix: Location
) -> tuple[M | None, list[Problem]]:
    """The body as a model, or None and its faults, one for each field."""
    try:
        return model.model_validate(body), []
    except ValidationError as error:
        problems: dict[str, Problem] = {}
        for fault in error.errors(include_url=False):
            where, branch = _place(fault, body)
            name, allowed = dotted((*prefix, *where)) or "recipe", branch or _allowed(model, fault)
            if name in problems:
                both = " or ".join(dict.fromkeys([problems[name].allowed, allowed]))
                problems[name] = replace(problems[name], allowed=both)
            else:
                problems[name] = Problem(str(file), line_of(lines, (*prefix, *where)), name, _found(fault), allowed)
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


def line_of(lines: dict[Location, int], where: Location) -> int:
    for length in range(len(where), -1, -1):
        if where[:length] in lines:
            return lines[where[:length]]
    return 1


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
