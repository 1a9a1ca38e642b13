"""Conditions of a gate as text: read, checked for the names they use, written. Pure.

A condition is one line of this grammar; blanks between its parts do not count::

    condition  = sum ("<=" | ">=" | "<" | ">") sum
               | contestant ("not worse than" | "better than") contestant "at 95%" ["on" metric]
    sum        = ["-"] term {("+" | "-") term}
    term       = number ["*" name] | name
    name       = word {"." word}                   policy.entity_f1, forgetting.perplexity_ratio; with one dot at least
    number     = digits ["." digits]
"""

import difflib
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import NoReturn

COMPARISONS = ("<=", ">=", "<", ">")
RELATIONS = ("not worse than", "better than")
LEVEL = "at 95%"  # the intervals of an evaluation are of this level alone
MAX_LETTERS = 500

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
_WORD = r"[a-z][a-z0-9_]*"
_LATER = r"[A-Za-z0-9_]+"  # tasks of lm-eval are named freely
_TOKEN = re.compile(rf"(?P<name>{_WORD}(?:\.{_LATER})*)|(?P<number>{_NUMBER})|(?P<sign><=|>=|<|>|\+|-|\*|%)")


class ConditionError(ValueError):
    """A condition that is not of the grammar, or names what the recipe does not have; its text says where."""


@dataclass(frozen=True)
class Term:
    """``factor`` times the number of a name, or the factor alone where ``name`` is empty."""

    factor: float
    name: str = ""

    def __str__(self) -> str:
        size = _plain(abs(self.factor))
        if not self.name:
            return size
        return self.name if abs(self.factor) == 1 else f"{size} * {self.name}"


@dataclass(frozen=True)
class Comparison:
    """Two sums and the sign between them."""

    left: tuple[Term, ...]
    sign: str
    right: tuple[Term, ...]

    def __str__(self) -> str:
        return f"{sum_text(self.left)} {self.sign} {sum_text(self.right)}"

    def names(self) -> list[str]:
        return list(dict.fromkeys(term.name for term in (*self.left, *self.right) if term.name))


@dataclass(frozen=True)
class Relation:
    """Two contestants and what the 95% interval of their paired difference is to say; ``metric`` is empty for the verdict's."""

    left: str
    relation: str
    right: str
    metric: str = ""

    def __str__(self) -> str:
        on = f" on {self.metric}" if self.metric else ""
        return f"{self.left} {self.relation} {self.right} {LEVEL}{on}"


Condition = Comparison | Relation


def parse(text: str) -> Condition:
    """A condition, read.

    Raises:
        ConditionError: it is not of the grammar; names the position (from 1), what was found and what is allowed.
    """
    return _Parser(text).condition()


class _Parser:
    """Reads one condition from left to right; ``tokens`` are (kind, text, position from 1)."""

    def __init__(self, text: str):
        if len(text) > MAX_LETTERS:
            raise ConditionError(f"a condition of {len(text)} letters; at most {MAX_LETTERS}")
        self.text, self.at = text, 0
        self.tokens: list[tuple[str, str, int]] = []
        position = 0
        while position < len(text):
            if text[position].isspace():
                position += 1
                continue
            match = _TOKEN.match(text, position)
            if match is None:
                self._fail(
                    position + 1, text[position], "a name like policy.entity_f1, a number, or one of <= >= < > + - *"
                )
            self.tokens.append((str(match.lastgroup), match.group(), position + 1))
            position = match.end()

    def condition(self) -> Condition:
        if len(self.tokens) > 1 and self.tokens[0][0] == "name" and self.tokens[1][0] == "name":
            found: Condition = self._relation()
        else:
            left = self._sum()
            sign = self._take("sign", COMPARISONS, "one of <= >= < >, or: not worse than, better than")
            found = Comparison(left, sign, self._sum())
        if self.at < len(self.tokens):
            _, word, position = self.tokens[self.at]
            self._fail(position, word, "the end of the condition")
        if isinstance(found, Comparison) and not found.names():
            raise ConditionError("a condition that names no number of the evaluation")
        return found

    def _relation(self) -> Relation:
        left = self._contestant()
        relation = self._words(*RELATIONS)
        right = self._contestant()
        self._words("at")
        number = self._take("number", ("95",), "95%, the level of the evaluation's intervals")
        self._take("sign", ("%",), f"%, as in {LEVEL}")
        assert number == "95", "nothing else was taken"
        metric = ""
        if self.at < len(self.tokens):
            self._words("on")
            metric = self._take("name", None, "a metric")
        return Relation(left, relation, right, metric)

    def _contestant(self) -> str:
        _, word, position = self._next("a contestant")
        name = self._take("name", None, "a contestant")
        if "." in name:
            self._fail(
                position, word, "a contestant alone, without a metric; the metric comes last: ... at 95% on METRIC"
            )
        return name

    def _words(self, *phrases: str) -> str:
        """One of these phrases."""
        _, word, position = self._next(" or ".join(phrases))
        for phrase in phrases:
            words = phrase.split()
            if [token[1] for token in self.tokens[self.at : self.at + len(words)]] == words:
                self.at += len(words)
                return phrase
        return self._fail(position, word, " or ".join(phrases))

    def _sum(self) -> tuple[Term, ...]:
        terms = [self._term(self._sign() if self._at_sign() else 1)]
        while self._at_sign():
            terms.append(self._term(self._sign()))
        return tuple(terms)

    def _at_sign(self) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at][1] in ("+", "-")

    def _sign(self) -> int:
        return -1 if self._take("sign", ("+", "-"), "+ or -") == "-" else 1

    def _term(self, sign: int) -> Term:
        kind, word, position = self._next("a name or a number")
        if kind == "number":
            self.at += 1
            if self.at < len(self.tokens) and self.tokens[self.at][1] == "*":
                self.at += 1
                return Term(sign * float(word), self._dotted())
            return Term(sign * float(word))
        if kind != "name":
            self._fail(position, word, "a name like policy.entity_f1, or a number")
        return Term(float(sign), self._dotted())

    def _dotted(self) -> str:
        _, word, position = self._next("a name")
        name = self._take("name", None, "a name like policy.entity_f1")
        if "." not in name:
            self._fail(position, word, f"a contestant with its metric ({word}.entity_f1, say)")
        return name

    def _next(self, allowed: str) -> tuple[str, str, int]:
        if self.at >= len(self.tokens):
            self._fail(len(self.text) + 1, "", allowed)
        return self.tokens[self.at]

    def _take(self, kind: str, among: Collection[str] | None, allowed: str) -> str:
        found, word, position = self._next(allowed)
        if found != kind or (among is not None and word not in among):
            self._fail(position, word, allowed)
        self.at += 1
        return word

    def _fail(self, position: int, found: str, allowed: str) -> NoReturn:
        what = repr(found) if found else "the end"
        raise ConditionError(f"at letter {position}: found {what}; allowed: {allowed}")


def check_names(
    text: str,
    names: Collection[str],
    contestants: Collection[str],
    metrics: Collection[str],
    compared: Collection[tuple[str, str]],
    beginnings: Collection[str] = (),
) -> None:
    """Refuses a condition that names what an evaluation will not have.

    Args:
        names: every number it will have, ``contestant.metric`` or a measure.
        contestants: those that may stand in a relation.
        metrics: those a relation may be about.
        compared: the pairs (left, right) that are compared row by row.
        beginnings: of names whose ends are known when the evaluation has run.

    Raises:
        ConditionError: names what is wrong, where, and what is nearest to it.
    """
    condition = parse(text)
    if isinstance(condition, Comparison):
        for name in condition.names():
            if not name.startswith(tuple(beginnings)):
                _among(text, name, names, "number")
        return
    for contestant in (condition.left, condition.right):
        _among(text, contestant, contestants, "contestant")
    if condition.metric:
        _among(text, condition.metric, metrics, "metric of a comparison")
    if (condition.left, condition.right) not in compared:
        allowed = sorted({left for left, _ in compared})
        others = sorted(right for left, right in compared if left == condition.left)
        told = (
            f"{condition.left} is compared with {', '.join(others)}" if others else f"left stands {', '.join(allowed)}"
        )
        raise ConditionError(f"{condition.left} and {condition.right} are not compared row by row; {told}")


def _among(text: str, name: str, allowed: Collection[str], what: str) -> None:
    if name in allowed:
        return
    near = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    own = [other for other in allowed if other.partition(".")[0] == name.partition(".")[0] and "." in name]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(own or allowed)[:12])}"
    raise ConditionError(f"at letter {text.find(name) + 1}: {name} is no {what} of this recipe; {hint}")


def check_name(condition: str) -> str:
    """The name of a condition's asset check: letters, digits and underscores; stable, as Dagster keeps its history by it."""
    words = {
        "<=": " at_most ",
        ">=": " at_least ",
        "<": " below ",
        ">": " above ",
        "+": " plus ",
        "-": " minus ",
        "*": " times ",
    }
    text = re.sub(r"<=|>=|<|>|\*|(?<= )[+-](?= )", lambda found: words[found.group()], condition)
    return "gate_" + re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:200]


def sum_text(terms: tuple[Term, ...]) -> str:
    first, *rest = terms
    return (
        ("-" if _negative(first) else "")
        + str(first)
        + "".join(f" {'-' if _negative(term) else '+'} {term}" for term in rest)
    )


def _negative(term: Term) -> bool:
    return math.copysign(1, term.factor) < 0


def _plain(number: float) -> str:
    """A number without an exponent, as the grammar has none."""
    return format(Decimal(repr(number)), "f").removesuffix(".0")
