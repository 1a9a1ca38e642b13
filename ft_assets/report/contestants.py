"""The contestants of an evaluation as the page tells of them."""

from typing import Any

LABELS = {
    "base_zero_shot": "base, zero-shot",
    "base_few_shot": "base, few-shot",
    "base_retrieval": "base, retrieval",
    "cpt": "continued pretraining",
    "sft": "SFT",
    "nf4": "NF4",
    "auto_round": "AutoRound",
    "incumbent": "published now",
    "majority": "most frequent label",
}
UNTRAINED = ("base", "majority")  # kinds of contestants that learned nothing
REFUSALS = ("refused_harmful", "refused_harmless")
GENERAL = {"general_accuracy": "accuracy on general questions", "general_perplexity": "perplexity on general text"}
ELSEWHERE = {*REFUSALS, *GENERAL, "perplexity", "memorized"}  # scores that sections of their own tell


def label(name: str) -> str:
    return LABELS.get(name) or name.replace("gguf_", "GGUF ")


def contestants(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry each, with the score of the verdict's metric beside all others.

    ``against`` is the comparison of the candidate with this one: of the candidate's score minus this one's.
    """
    metric, candidate = results["metric"], results["candidate"]
    against = {
        entry["right"]: entry
        for entry in results["comparisons"]
        if entry["left"] == candidate and entry["metric"] == metric
    }
    return [_contestant(name, body, metric, against.get(name)) for name, body in results["contestants"].items()]


def _contestant(name: str, body: dict[str, Any], metric: str, against: dict[str, Any] | None) -> dict[str, Any]:
    scores, costs = body["scores"], body["costs"]
    rate = costs.get("rows_per_second")
    return {
        "name": name,
        "label": label(name),
        "kind": body["kind"],
        **scores[metric],
        "perplexity": scores["perplexity"]["mean"] if "perplexity" in scores else None,
        "seconds_per_1000_requests": 1000 / rate if rate else None,
        "out_of_domain": scores.get(f"out_of_domain.{metric}"),
        "scores": scores,
        "costs": costs,
        "calibration": body.get("calibration", []),
        "against": against,
    }


def comparisons(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Every comparison; ``shown`` are those that stand beside a contestant's score."""
    metric, candidate = results["metric"], results["candidate"]
    return [
        {
            **entry,
            "left_label": label(entry["left"]),
            "right_label": label(entry["right"]),
            "shown": entry["left"] == candidate and entry["metric"] == metric,
        }
        for entry in results["comparisons"]
    ]


def other_scores(found: list[dict[str, Any]], metric: str) -> list[str]:
    """Names of scores that no other table shows, in the order in which contestants first have them."""
    names = dict.fromkeys(name for one in found for name in one["scores"])
    shown = {metric, f"out_of_domain.{metric}", *ELSEWHERE}
    return [name for name in names if name not in shown]


def classes(body: dict[str, Any], most: int) -> dict[str, Any]:
    """How well a classifier tells each label, what it takes for what, and how many texts it read in part."""
    mistakes = [pair for pair in body["confusion"] if pair["expected"] != pair["predicted"]]
    return {
        "labels": body["classes"],
        "mistakes": mistakes[:most],
        "more_mistakes": sum(pair["rows"] for pair in mistakes[most:]),
        "truncated": body["truncated"]["test"],
    }
