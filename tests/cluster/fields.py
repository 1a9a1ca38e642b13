"""Checks of one field in the words of a server's answer."""

import json
import re
from typing import Any

from cluster.kinds import Cause
from cluster.quantities import quantity

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_NAME = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_ENVIRONMENT = r"[A-Za-z_][A-Za-z0-9_]*"


def invalid_value(path: str, value: Any, why: str) -> Cause:
    return Cause(path, "FieldValueInvalid", f"Invalid value: {_shown(value)}: {why}")


def without_value(path: str, why: str) -> Cause:
    return Cause(path, "FieldValueInvalid", f"Invalid value: {why}")


def required(path: str, why: str = "") -> Cause:
    return Cause(path, "FieldValueRequired", f"Required value: {why}" if why else "Required value")


def forbidden_field(path: str, why: str) -> Cause:
    return Cause(path, "FieldValueForbidden", f"Forbidden: {why}")


def duplicate(path: str, value: Any) -> Cause:
    return Cause(path, "FieldValueDuplicate", f"Duplicate value: {_shown(value)}")


def missing(path: str, value: str) -> Cause:
    """A name that nothing has."""
    return Cause(path, "FieldValueNotFound", f"Not found: {_shown(value)}")


def unsupported(path: str, value: Any, allowed: list[str]) -> Cause:
    named = ", ".join(_shown(each) for each in sorted(allowed))
    return Cause(path, "FieldValueNotSupported", f"Unsupported value: {_shown(value)}: supported values: {named}")


def at_least(path: str, value: int | None, low: int = 0) -> list[Cause]:
    if value is None or value >= low:
        return []
    return [
        invalid_value(
            path, value, f"must be greater than or equal to {low}" if low == 0 else f"must be greater than {low - 1}"
        )
    ]


def dns_label(path: str, name: str) -> list[Cause]:
    if len(name) > 63:
        return [invalid_value(path, name, "must be no more than 63 bytes")]
    if re.fullmatch(_LABEL, name):
        return []
    why = (
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
        f"alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
    )
    return [invalid_value(path, name, why)]


def dns_subdomain(path: str, name: str) -> list[Cause]:
    if len(name) > 253:
        return [invalid_value(path, name, "must be no more than 253 bytes")]
    pattern = rf"{_LABEL}(\.{_LABEL})*"
    if re.fullmatch(pattern, name):
        return []
    why = (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end "
        f"with an alphanumeric character (e.g. 'example.com', regex used for validation is '{pattern}')"
    )
    return [invalid_value(path, name, why)]


def service_name(path: str, name: str) -> list[Cause]:
    """RFC 1035: it begins with a letter."""
    pattern = r"[a-z]([-a-z0-9]*[a-z0-9])?"
    if len(name) > 63:
        return [invalid_value(path, name, "must be no more than 63 bytes")]
    if re.fullmatch(pattern, name):
        return []
    why = (
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end "
        f"with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '{pattern}')"
    )
    return [invalid_value(path, name, why)]


def environment_name(path: str, name: str) -> list[Cause]:
    if not name:
        return [required(path)]
    return (
        []
        if "=" not in name and name.isprintable()
        else [invalid_value(path, name, "a valid environment variable name must not contain '='")]
    )


def labels(path: str, given: dict[str, str]) -> list[Cause]:
    causes = []
    for key, value in given.items():
        causes += qualified_name(path, key)
        if len(value) > 63:
            causes.append(invalid_value(path, value, "must be no more than 63 bytes"))
        if not re.fullmatch(_VALUE, value):
            why = (
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
                f"end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '{_VALUE}')"
            )
            causes.append(invalid_value(path, value, why))
    return causes


def annotations(path: str, given: dict[str, str]) -> list[Cause]:
    causes = [cause for key in given for cause in qualified_name(path, key.lower())]
    if sum(len(key) + len(value) for key, value in given.items()) > 256 * 1024:
        causes.append(Cause(path, "FieldValueTooLong", "Too long: may not be more than 262144 bytes"))
    return causes


def qualified_name(path: str, key: str) -> list[Cause]:
    prefix, slash, name = key.rpartition("/")
    causes = []
    if slash and not prefix:
        causes.append(invalid_value(path, key, "prefix part must be non-empty"))
    elif slash:
        why = [cause.message.partition(": ")[2].partition(": ")[2] for cause in dns_subdomain(path, prefix)]
        causes += [invalid_value(path, key, f"prefix part {text}") for text in why]
    if len(name) > 63:
        causes.append(invalid_value(path, key, "name part must be no more than 63 bytes"))
    if not re.fullmatch(_NAME, name):
        why_name = (
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
            f"character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_NAME}')"
        )
        causes.append(invalid_value(path, key, why_name))
    return causes


def amount(path: str, text: str) -> list[Cause]:
    try:
        found = quantity(text)
    except ValueError as error:
        return [invalid_value(path, text, str(error))]
    return [] if found >= 0 else [invalid_value(path, text, "must be greater than or equal to 0")]


def _shown(value: Any) -> str:
    return json.dumps(value)
