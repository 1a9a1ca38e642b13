"""Answers side by side, and where each differs from what was expected."""

import difflib
import re
from typing import Any

from ft_assets.report.contestants import UNTRAINED, label

EXAMPLES = 8
SAFETY_EXAMPLES = 6
MOST_SHOWN = 5  # contestants side by side
MOST_CHARACTERS = 1_500
ALIKE = 0.5  # of less, marks would be on every other word
WORD = re.compile(r"\w+|\s+|[^\w\s]")


def examples(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows where the contestants differ most, and such as the candidate has wrong, in a fixed order."""
    candidate = results["candidate"]
    shown = side_by_side(results)
    records = {name: {row["row_id"]: row for row in _answers(results, name)["test"]} for name in shown}
    rows = _answers(results, candidate)["test"]

    def spread(row: dict[str, Any]) -> float:
        scores = [records[name][row["row_id"]]["score"] for name in shown]
        return float(max(scores) - min(scores))

    losing = [row for row in rows if row["score"] < 0.5][: EXAMPLES // 3]
    winning = sorted((row for row in rows if row not in losing), key=lambda row: (-spread(row), row["row_id"]))
    return [
        {
            "row_id": row["row_id"],
            "question": cut(row["question"]),
            "expected": cut(row["expected"]),
            "answers": [_compared(name, records[name][row["row_id"]]) for name in shown],
        }
        for row in [*winning[: EXAMPLES - len(losing)], *losing]
    ]


def side_by_side(results: dict[str, Any]) -> list[str]:
    """Contestants whose answers are shown: the bare base, the best that learned nothing, what is published, and the last
    that were trained, the candidate at the end.
    """
    found, candidate, metric = results["contestants"], results["candidate"], results["metric"]
    untrained = [name for name, body in found.items() if body["kind"] in UNTRAINED]
    best = max(untrained, key=lambda name: found[name]["scores"][metric]["mean"], default=None)
    trained = [name for name, body in found.items() if body["kind"] == "trained" and name != candidate]
    chosen = dict.fromkeys([*untrained[:1], best, "incumbent", *trained[-1:], candidate])
    return [name for name in chosen if name in found][-MOST_SHOWN:]


def safety_examples(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Prompts that the base and the candidate took differently first, then others."""
    names = [name for name in ("base_zero_shot", results["candidate"]) if name in results["contestants"]]
    answers = [_answers(results, name).get("safety", []) for name in names]
    if len(names) < 2 or not all(answers):
        return []
    pairs = sorted(zip(*answers, strict=True), key=lambda rows: rows[0]["refused"] == rows[1]["refused"])
    return [
        {
            "question": cut(rows[0]["question"]),
            "kind": rows[0]["expected"],
            "answers": [
                {"label": label(name), "answer": cut(row["answer"]), "refused": bool(row["refused"])}
                for name, row in zip(names, rows, strict=True)
            ],
        }
        for rows in pairs[:SAFETY_EXAMPLES]
    ]


def cut(text: str) -> dict[str, Any]:
    """The text as far as it is shown, and how many characters more it has."""
    return {"text": text[:MOST_CHARACTERS], "more": max(0, len(text) - MOST_CHARACTERS)}


def difference(answer: str, expected: str) -> list[tuple[str, str]]:
    """An answer as pieces of words: ``same`` are in both texts, ``extra`` in the answer alone, ``missing`` not in it. Of one
    that has little in common with what was expected the whole is ``other``.
    """
    found, wanted = WORD.findall(answer), WORD.findall(expected)
    matcher = difflib.SequenceMatcher(str.isspace, wanted, found, autojunk=False)
    if matcher.ratio() < ALIKE:
        return [("other", answer)] if answer else []
    pieces: list[tuple[str, str]] = []
    for _, i, j, k, m in matcher.get_opcodes():
        if wanted[i:j] == found[k:m]:
            pieces.append(("same", "".join(found[k:m])))
            continue
        pieces += [(what, "".join(words)) for what, words in (("missing", wanted[i:j]), ("extra", found[k:m])) if words]
    return pieces


def _compared(name: str, row: dict[str, Any]) -> dict[str, Any]:
    answer, expected = cut(row["answer"]), cut(row["expected"])
    return {
        "label": label(name),
        "answer": answer,
        "score": row["score"],
        "equal": row["answer"] == row["expected"],
        "pieces": difference(answer["text"], expected["text"]),
    }


def _answers(results: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = results["contestants"][name]["answers"]
    return found
