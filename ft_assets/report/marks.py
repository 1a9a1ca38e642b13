"""Facts as a template sees them: whatever is printed says which fact it is, so that a page holds no number of its own.

A number is printed through one of :data:`ft_assets.report.forms.FORMS` as ``<data data-fact="PATH" data-form="FORM">``, a
text as ``<bdi data-fact="PATH">``; PATH is a JSON pointer (RFC 6901) into ``report.json``.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup, escape

from ft_assets.report.forms import FORMS

NOT_MEASURED = Markup('<span class="quiet" title="not measured">\u2013</span>')
JOINERS = "\u200c\u200d"  # scripts and emoji need them
HELD = re.compile(r"\{(/[^|}]*)(?:\|(\w+))?\}")


class Fact:
    """One value of the facts and its place. Printing a number without a form is an error."""

    def __init__(self, value: Any, path: str = ""):
        self._value, self._path = value, path

    def __getitem__(self, key: str | int) -> "Fact":
        return Fact(self._value[key], f"{self._path}/{str(key).replace('~', '~0').replace('/', '~1')}")

    def __iter__(self) -> Iterator["Fact"]:
        return (self[index] for index in range(len(self._value)))

    def __len__(self) -> int:
        return len(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return bool(self._value == (other._value if isinstance(other, Fact) else other))

    def __hash__(self) -> int:
        return hash(self._path)

    def __html__(self) -> str:
        if self._value is None:
            return NOT_MEASURED
        if not isinstance(self._value, str):
            raise TypeError(f"{self._path} is no text: name the form in which it is printed")
        return Markup('<bdi data-fact="{}">{}</bdi>').format(self._path, visible(self._value))


def number(fact: Fact, form: str) -> Markup:
    """A number in its form; a dash where it was not measured."""
    if fact._value is None:
        return NOT_MEASURED
    template = Markup('<data data-fact="{}" data-form="{}" value="{}">{}</data>')
    return template.format(fact._path, form, repr(fact._value), FORMS[form](fact._value))


def entries(fact: Fact) -> list[tuple[str, Fact]]:
    """Keys and facts of a mapping."""
    return [(key, fact[key]) for key in fact._value]


def at(fact: Fact, path: str) -> Fact:
    """The fact at a path below another (``costs/size_bytes``); one of None where there is none."""
    for key in path.split("/"):
        if not isinstance(fact._value, dict) or key not in fact._value:
            return Fact(None)
        fact = fact[key]
    return fact


def visible(text: str) -> Markup:
    """Escaped text in which every character that is not seen, or turns others around, is named by its code point."""
    return Markup("").join(_character(char) for char in text)


def _character(char: str) -> Markup:
    unseen = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") and char not in JOINERS
    if not unseen or char in "\n\t":
        return escape(char)
    name = unicodedata.name(char, "control character")
    return Markup('<span class="unseen" title="{}">U+{:04X}</span>').format(name, ord(char))


def look_up(facts: Any, path: str) -> Any:
    """The value that a JSON pointer names."""
    for key in path.split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        facts = facts[int(key)] if isinstance(facts, list) else facts[key]
    return facts


def plain(sentence: str, facts: dict[str, Any]) -> str:
    """A sentence with its ``{PATH|FORM}`` put in; a text has no form."""

    def shown(match: re.Match[str]) -> str:
        value = look_up(facts, match[1])
        return FORMS[match[2]](value) if match[2] else str(value)

    return HELD.sub(shown, sentence)


def marked(sentence: Fact, facts: Fact) -> Markup:
    """The same as HTML, each of its numbers and texts marked."""

    def shown(match: re.Match[str]) -> str:
        fact = Fact(look_up(facts._value, match[1]), match[1])
        return number(fact, match[2]) if match[2] else fact.__html__()

    # What stands between is ours and needs no escape, but a sign in it might.
    return Markup(HELD.sub(shown, str(escape(sentence._value))))
