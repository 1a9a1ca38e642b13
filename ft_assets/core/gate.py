"""The gate: an evaluation judged by its recipe's conditions, all of which a candidate must meet to be published. Pure.

A comparison (:mod:`ft_assets.core.conditions` has the grammar) is of means. A relation reads the 95% interval of the paired difference, row by
row, of two contestants. *Better than* wants all of it above zero. *Not worse than* wants that it is not
wholly below zero: the candidate has not been shown to be worse. That is no proof that it is as good, the less
so the fewer the rows, so the sentence gives the difference that would have gone unseen; who wants proof writes a margin,
``policy.entity_f1 >= incumbent.entity_f1 - 0.02``, or asks for *better than*.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_assets.core.cautions import least_told
from ft_assets.core.conditions import Comparison, Relation, Term, parse, sum_text
from ft_assets.core.errors import FineTuneError

COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
IN_WORDS = {"<=": "at most", ">=": "at least", "<": "below", ">": "above"}
INCUMBENT = "incumbent"
CANDIDATE = "candidate"
NO_PRICE = ": hardware.usd_per_hour gave no price when it was made; give one, take the evaluation's folder out of the store, run again"


class GateClosed(FineTuneError):
    """A candidate whose gate did not pass was to be published."""


@dataclass(frozen=True)
class Judged:
    """What came of one condition: ``numbers`` are those it was judged by, ``overridden`` that a person let it pass."""

    condition: str
    passed: bool
    numbers: dict[str, float]
    sentence: str
    overridden: bool = False


def judge(
    conditions: Iterable[str],
    numbers: Mapping[str, float],
    results: Mapping[str, Any],
    override: Mapping[str, Any] | None,
) -> list[Judged]:
    """Each condition on an evaluation's results.

    Args:
        numbers: what names stand for (:func:`ft_assets.core.scoring.names`).
        results: the evaluation's results.json: ``candidate``, ``incumbent``, ``comparisons`` and ``metric`` are read.
        override: who let which failed conditions pass, and why.
    """
    covered = set(override["conditions"]) if override else set()
    judged = []
    for text in conditions:
        condition = parse(text)
        if isinstance(condition, Comparison):
            found = _judge_comparison(condition, numbers, results)
        else:
            found = _judge_relation(condition, results)
        overridden = not found.passed and text in covered
        judged.append(Judged(text, found.passed, found.numbers, found.sentence, overridden))
    return judged


def _judge_comparison(condition: Comparison, numbers: Mapping[str, float], results: Mapping[str, Any]) -> Judged:
    text = str(condition)
    found = {name: numbers[name] for name in condition.names() if name in numbers}
    missing = [name for name in condition.names() if name not in found]
    of_none = [name for name in missing if name.startswith(f"{INCUMBENT}.") and not results["incumbent"]]
    if left := [name for name in missing if name not in of_none]:
        why = NO_PRICE if any(name.endswith(".usd_per_1000_requests") for name in left) else ""
        return Judged(text, False, found, f"The evaluation has no number for {', '.join(left)}{why}.")
    if of_none:
        return Judged(
            text,
            True,
            found,
            "No other model of this recipe has been published: there is no incumbent to compare with.",
        )
    left_value, right_value = _value(condition.left, found), _value(condition.right, found)
    passed = COMPARE[condition.sign](left_value, right_value)
    how = IN_WORDS[condition.sign] if passed else f"not {IN_WORDS[condition.sign]}"
    right = sum_text(condition.right)
    limit = right if len(condition.right) == 1 and not condition.right[0].name else f"{right} = {shown(right_value)}"
    sentence = f"{sum_text(condition.left)} is {shown(left_value)}, {how} {limit}."
    return Judged(text, passed, found, sentence)


def _judge_relation(condition: Relation, results: Mapping[str, Any]) -> Judged:
    text = str(condition)
    left, right = (results["candidate"] if name == CANDIDATE else name for name in (condition.left, condition.right))
    if INCUMBENT in (left, right) and not results["incumbent"]:
        return Judged(
            text, True, {}, "No other model of this recipe has been published: there is no incumbent to compare with."
        )
    metric = condition.metric or results["metric"]
    entry = _compared(left, right, metric, results["comparisons"])
    if entry is None:
        return Judged(text, False, {}, f"The evaluation does not compare {left} with {right} on {metric}.")
    low, high = entry["low"], entry["high"]
    passed = low > 0 if condition.relation == "better than" else high >= 0
    numbers = {name: entry[name] for name in ("mean", "low", "high", "n")}
    sentence = (
        f"{left} minus {right} in {metric} is {entry['mean']:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}] on {entry['n']} "
        f"rows, paired: {'' if passed else 'not shown to be better' if condition.relation == 'better than' else 'worse'}"
    )
    if passed:
        sentence += "better" if low > 0 else "not shown to be worse"
    if low <= 0 <= high:
        unseen = least_told(low, high, entry["n"])
        sentence += f"; no difference can be told, and one of {shown(unseen)} might go unseen on so few rows"
    return Judged(text, passed, numbers, sentence + ".")


def _compared(left: str, right: str, metric: str, comparisons: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    wanted = (left, right, metric)
    return next((entry for entry in comparisons if (entry["left"], entry["right"], entry["metric"]) == wanted), None)


def as_body(judged: Sequence[Judged], override: Mapping[str, Any] | None) -> dict[str, Any]:
    """What gate.json holds."""
    return {
        "passed": all(each.passed or each.overridden for each in judged),
        "conditions": [vars(each) for each in judged],
        "override": dict(override) if override else None,
    }


def failed(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conditions of a gate.json that hold it shut."""
    return [each for each in body["conditions"] if not each["passed"] and not each["overridden"]]


def require_passed(body: Mapping[str, Any], recipe: str) -> None:
    """Lets a candidate be published whose gate.json says that it may.

    Raises:
        GateClosed: names what failed and what to do.
    """
    if body["passed"]:
        return
    why = "\n".join(f"  {each['condition']}: {each['sentence']}" for each in failed(body))
    raise GateClosed(
        f"the gate of {recipe} is shut, so its candidate is not published and what is published stays:\n{why}\n"
        f"See `ft gate {recipe}`. To publish it all the same: ft override {recipe} --by NAME --reason TEXT"
    )


def shown(value: float) -> str:
    """A number for people: four significant digits or, where it is large, all before the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(digits, 8)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _value(terms: tuple[Term, ...], numbers: Mapping[str, float]) -> float:
    return math.fsum(term.factor * (numbers[term.name] if term.name else 1.0) for term in terms)
