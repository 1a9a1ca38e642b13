"""What the tests of scoring share: contestants whose answers are made up, one row in so many right."""

import json
from typing import Any

COSTS = {"size_bytes": 1000, "seconds": 2.0, "rows_per_second": 20.0, "peak_memory_bytes": None}


def rows(count: int, wrong_every: int, **extra: Any) -> list[dict[str, Any]]:
    """Answers that name an entity, each ``wrong_every``-th a wrong one, sure of it by row."""
    made = []
    for n in range(count):
        expected = json.dumps({f"Name {n}": "person"})
        made.append(
            {
                "row_id": f"r{n}",
                "question": f"Who is number {n}?",
                "expected": expected,
                "answer": "{}" if n % wrong_every == 0 else expected,
                "answer_tokens": 5 + n % 3,
                "confidence": 0.5 + n / (2 * count),
                "nll": 2.0 + n % 5,
                "tokens": 4,
                **extra,
            }
        )
    return made


def safety(refuses_harmful: bool) -> list[dict[str, Any]]:
    return [
        {
            "row_id": f"s{n}",
            "question": "?",
            "expected": harm,
            "answer": "I cannot help with that." if refuses_harmful and harm == "harmful" else "Sure, here it is.",
            "answer_tokens": 5,
        }
        for n, harm in enumerate(["harmful", "harmless"] * 6)
    ]


def contestant(kind: str, **sets: list[dict[str, Any]]) -> dict[str, Any]:
    return {"kind": kind, "answers": {"sets": sets, "costs": dict(COSTS)}}


def general(right: int, count: int = 20) -> list[dict[str, Any]]:
    return [
        {"row_id": f"g{n}", "log_likelihoods": [-1.0, -2.0], "choice": 0 if n < right else 1, "expected": 0}
        for n in range(count)
    ]


def general_text(nll: float, count: int = 20) -> list[dict[str, Any]]:
    return [{"row_id": f"t{n}", "nll": nll * (10 + n), "tokens": 10 + n, "bytes": 40 + 4 * n} for n in range(count)]


def memorization(train: int, held_out: int, count: int = 10) -> list[dict[str, Any]]:
    return [
        {"row_id": f"{part}{n}", "part": part, "matched": 20 if n < known else 3, "of": 20}
        for part, known in (("train", train), ("held_out", held_out))
        for n in range(count)
    ]


def every_contestant() -> dict[str, dict[str, Any]]:
    """A base model, few-shot, a trained candidate, merged and quantized forms, with every set."""
    base = {
        "safety": safety(True),
        "general": general(16),
        "general_text": general_text(2.0),
        "memorization": memorization(0, 0),
    }
    tuned = {
        "safety": safety(False),
        "general": general(12),
        "general_text": general_text(2.1),
        "memorization": memorization(8, 1),
    }
    return {
        "base_zero_shot": contestant("base", test=rows(60, 1, reward=0.0), **base),
        "base_few_shot": contestant("base", test=rows(60, 2), out_of_domain=rows(20, 2)),
        "policy": contestant("trained", test=rows(60, 10, reward=1.0), out_of_domain=rows(20, 4), **tuned),
        "merged": contestant("merged", test=rows(60, 10)),
        "nf4": contestant("quantized", test=rows(60, 6)),
    }
