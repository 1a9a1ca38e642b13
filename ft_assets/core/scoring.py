"""From what contestants answered to ``results.json``: scores, measures, comparisons and warnings, each with its interval."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ft_assets.core.answered import HARM, Row, Sets, aligned
from ft_assets.core.cautions import cautions
from ft_assets.core.errors import FineTuneError
from ft_assets.core.labels import by_label, confusion
from ft_assets.core.measuring import measures
from ft_assets.core.metrics import MACRO, METRICS, label_of
from ft_assets.core.refusals import JUDGE, is_refusal
from ft_assets.core.reliability import calibration_error, reliability
from ft_assets.core.statistics import (
    Interval,
    Measure,
    Values,
    difference,
    holm,
    interval,
    macro_f1,
    mean,
    p_value,
    perplexity,
)
from ft_assets.recipes.classifying import METRICS_OF_LABELS

ANSWERED = ("test", "out_of_domain")
SIGNIFICANT = 0.05

Results = dict[str, Any]


def score(
    settings: dict[str, Any],
    seed: int,
    candidate: str,
    contestants: dict[str, dict[str, Any]],
    incumbent: dict[str, Any] | None = None,
) -> Results:
    """What one evaluation found, as plain JSON.

    Args:
        settings: the recipe's ``evaluation``, of it ``metric``, ``metrics`` and ``bootstrap_samples``.
        contestants: by name ``kind`` and ``answers``, the body of an ``answers.json``.
        incumbent: which release ``incumbent`` is; told as it is.

    Raises:
        FineTuneError: a contestant without test rows, contestants that answered different rows, an expected answer that its
            metric cannot read, or a number that is not finite; names contestant, set and row.
    """
    sets = aligned(candidate, {name: entry["answers"] for name, entry in contestants.items()})
    kinds = {name: entry["kind"] for name, entry in contestants.items()}
    metrics = _metrics(settings)
    given = {part: {row["answer"] for own in sets.values() for row in own.get(part, [])} for part in ANSWERED}
    samples = settings["bootstrap_samples"]
    scored = {name: Scored(name, own, metrics, given, samples, seed) for name, own in sets.items()}
    found = {
        name: {
            "kind": kinds[name],
            "scores": {key: asdict(each) for key, each in own.scores().items()}
            | contestants[name]["answers"].get("lm_eval", {}),
            "costs": _costs(name, contestants[name]["answers"]["costs"]),
            "calibration": own.calibration(),
            "answers": own.records(),
            **own.labels(),
            **{key: value for key, value in contestants[name]["answers"].items() if key == "truncated"},
        }
        for name, own in scored.items()
    }
    told = {name: asdict(each) for name, each in measures(scored, candidate, kinds).items()}
    compared = _compare(scored, metrics, candidate, kinds)
    return {
        "metric": settings["metric"],
        "candidate": candidate,
        "incumbent": incumbent,
        "contestants": found,
        "measures": told,
        "comparisons": compared,
        "warnings": cautions(settings["metric"], candidate, found[candidate]["scores"], compared),
        **({"judge": JUDGE} if any("safety" in own for own in sets.values()) else {}),
    }


def _metrics(settings: dict[str, Any]) -> list[str]:
    """That of the verdict first. Of labels both are told, whichever decides."""
    of_labels = METRICS_OF_LABELS if settings["metric"] in METRICS_OF_LABELS else ()
    return list(dict.fromkeys([settings["metric"], *settings.get("metrics", []), *of_labels]))


def check_expected(settings: dict[str, Any], part: str, rows: list[Row]) -> None:
    """Refuses questions that no answer could be scored on, before anyone is asked.

    Args:
        rows: each with its ``row_id`` and ``expected``; those after the first ``max_rows`` are asked of nobody.

    Raises:
        FineTuneError: a metric cannot read an expected answer; names the row.
    """
    asked = rows[: settings.get("max_rows")]
    _per_row("the expected answer", part, [{**row, "answer": row["expected"]} for row in asked], _metrics(settings))


def summary(results: Results) -> Results:
    """What the manifest's metrics tell of the results: all but the answers."""
    found = results["contestants"]
    return {
        "verdict_metric": results["metric"],
        "scores": {name: each["scores"] for name, each in found.items()},
        "costs": {name: each["costs"] for name, each in found.items()},
        **{name: results[name] for name in ("candidate", "measures", "comparisons", "warnings")},
    }


def names(results: Results) -> dict[str, float]:
    """Every number that a gate may name: ``policy.entity_f1``, ``nf4.size_bytes``, ``forgetting.perplexity_ratio``. The
    candidate's stand under ``candidate.`` too.
    """
    flat: dict[str, float] = {name: found["mean"] for name, found in results["measures"].items()}
    for name, contestant in results["contestants"].items():
        numbers = {metric: found["mean"] for metric, found in contestant["scores"].items()} | contestant["costs"]
        for alias in (name, "candidate") if name == results["candidate"] else (name,):
            flat |= {f"{alias}.{key}": value for key, value in numbers.items() if value is not None}
    return flat


class Scored:
    """One contestant's answers with their scores.

    Args:
        given: by set what any contestant answered.
        samples: of the bootstrap; with one seed the same rows are drawn for every contestant of an evaluation.
    """

    def __init__(
        self, name: str, sets: Sets, metrics: Sequence[str], given: dict[str, set[str]], samples: int, seed: int
    ):
        self.name, self.sets, self.metrics, self.given = name, sets, metrics, given
        self.samples, self.seed = samples, seed
        self._rows = {part: _per_row(name, part, rows, metrics) for part, rows in sets.items() if part in ANSWERED}

    def row_scores(self, part: str, metric: str) -> list[float]:
        """Each row's score; where the metric is no mean of rows, 1 where the row is right and 0 else."""
        return self._rows[part][metric]

    def measured(self, part: str, metric: str) -> tuple[Values, Measure]:
        """What is resampled of a metric and how it is read from resampled rows."""
        if metric not in MACRO:
            return np.asarray(self.row_scores(part, metric)), mean
        read = label_of(metric)
        rows = self.sets[part]
        labels = {read(row["expected"]) for row in rows}
        if metric == "macro_f1":  # a classifier gives labels alone: each that was given is one
            labels |= self.given[part]
        code = {label: at for at, label in enumerate(sorted(labels))}
        given = np.array([code.get(read(row["answer"]), len(code)) for row in rows], dtype=np.float64)
        wanted = np.array([code[read(row["expected"])] for row in rows])
        return given, macro_f1(wanted, len(code))

    def column(self, part: str, key: str) -> list[Any] | None:
        """One value of each row of a set; None where the set or the value is not there."""
        rows = self.sets.get(part, [])
        values = [row.get(key) for row in rows]
        return None if not values or None in values else values

    def refused(self, harm: str) -> list[float] | None:
        """Of each safety row with this label 1 where it was refused, else 0."""
        return [
            float(is_refusal(row["answer"])) for row in self.sets.get("safety", []) if row["expected"] == harm
        ] or None

    def correct(self) -> list[float] | None:
        """Of each row of ``general`` 1 where the right choice is the most likely, else 0."""
        rows = self.sets.get("general", [])
        return [float(row["choice"] == row["expected"]) for row in rows] or None

    def memorized(self, part: str) -> list[float] | None:
        """Of each row of a part 1 where the model goes on with it word for word to its end (extractable, Carlini et al., 2023,
        arXiv 2202.07646), else 0.
        """
        rows = [row for row in self.sets.get("memorization", []) if row["part"] == part]
        return [float(row["matched"] >= row["of"]) for row in rows] or None

    def interval(self, values: Sequence[float] | Values, measure: Measure = mean) -> Interval:
        return interval(values, self.samples, self.seed, measure)

    def scores(self) -> dict[str, Interval]:
        """Every score the contestant has."""
        found = {}
        for part in self._rows:
            for metric in self.metrics:
                found[metric if part == "test" else f"{part}.{metric}"] = self.interval(*self.measured(part, metric))
        plain = {
            "general_accuracy": self.correct(),
            "memorized": self.memorized("train"),
            "reward": self.column("test", "reward"),
            **{f"refused_{harm}": self.refused(harm) for harm in HARM},
        }
        found |= {name: self.interval(values) for name, values in plain.items() if values}
        for part, name in (("test", "perplexity"), ("general_text", "general_perplexity")):
            nll, tokens = self.column(part, "nll"), self.column(part, "tokens")
            if nll and tokens:
                found[name] = perplexity(nll, tokens, self.samples, self.seed)
        if confidence := self.column("test", "confidence"):
            right = self.row_scores("test", self.metrics[0])
            found["calibration_error"] = calibration_error(confidence, right, self.samples, self.seed)
        return found

    def calibration(self) -> list[dict[str, Any]]:
        """The bins of the reliability curve; none where no confidence is known."""
        confidence = self.column("test", "confidence")
        return reliability(confidence, self.row_scores("test", self.metrics[0])) if confidence else []

    def records(self) -> dict[str, list[Row]]:
        """The answers with what was made of them."""
        found = {
            part: [
                {**row, "score": value} for row, value in zip(self.sets[part], by_metric[self.metrics[0]], strict=True)
            ]
            for part, by_metric in self._rows.items()
        }
        if "safety" in self.sets:
            found["safety"] = [{**row, "refused": is_refusal(row["answer"])} for row in self.sets["safety"]]
        return found

    def labels(self) -> dict[str, Any]:
        """A classifier's labels one by one."""
        if self.metrics[0] not in METRICS_OF_LABELS:
            return {}
        given, had = ([row[key] for row in self.sets["test"]] for key in ("answer", "expected"))
        return {"classes": by_label(given, had), "confusion": confusion(given, had)}


def _per_row(name: str, part: str, rows: list[Row], metrics: Sequence[str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for metric in metrics:
        found[metric] = []
        for row in rows:
            try:
                found[metric].append(METRICS[metric](row["answer"], row["expected"]))
            except ValueError as error:
                raise FineTuneError(
                    f"{name}, {part} row {row['row_id']} cannot be scored by {metric}: {error}; mend the row or take "
                    "another evaluation.metric"
                ) from error
    return found


def _costs(name: str, costs: dict[str, float | None]) -> dict[str, float | None]:
    for key, value in costs.items():
        if value is not None and not math.isfinite(value):
            raise FineTuneError(f"{name}: {key} is {value}, no finite number")
    return costs


def _compare(scored: dict[str, Scored], metrics: Sequence[str], candidate: str, kinds: dict[str, str]) -> list[Results]:
    """The candidate against every other contestant, and each quantized form against the merged model, on the test rows; an
    outcome is told from the p-value that is corrected for all of them.
    """
    pairs = [(candidate, other) for other in scored if other != candidate]
    pairs += [(name, "merged") for name, kind in kinds.items() if kind == "quantized" and "merged" in scored]
    found = []
    for metric in metrics:
        for left, right in pairs:
            one, measure = scored[left].measured("test", metric)
            other, _ = scored[right].measured("test", metric)
            own = scored[left]
            told = asdict(difference(one, other, own.samples, own.seed, measure))
            p = p_value(one, other, own.seed, measure)
            found.append({"left": left, "right": right, "metric": metric, **told, "p": p})
    for entry, p in zip(found, holm([entry["p"] for entry in found]), strict=True):
        sure = p <= SIGNIFICANT and not entry["low"] <= 0 <= entry["high"]
        entry |= {"p_holm": p, "outcome": ("better" if entry["mean"] > 0 else "worse") if sure else "cannot tell"}
    return found
