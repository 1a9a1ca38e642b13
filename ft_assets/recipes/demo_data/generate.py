"""Writes the demo's bundled sources from a seed; the same seed writes the same bytes.

The dirt is real in kind and planted on purpose: exact duplicates, an empty answer, broken JSON lines, an e-mail
address, an over-long row, a preference pair whose two answers are equal. :data:`PLANTED` counts it, and a test holds
the quarantine against these counts.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ft_assets.recipes.demo_data import vocabulary as v
from ft_assets.recipes.demo_data.knowledge import PROSE, questions
from ft_assets.recipes.demo_data.prose import HARMFUL, HARMLESS, PARAGRAPHS

SEED = 20260117
INSTRUCTION = "List the named entities as JSON."

PLANTED = {
    "demo_entities": {
        "malformed": 2,
        "exact_duplicate": 4,
        "empty": 2,
        "personal_data": 1,
        "too_long": 1,
        "missing_field": 1,
    },
    "demo_preferences": {"chosen_equals_rejected": 2, "exact_duplicate": 1},
    "demo_text": {"exact_duplicate": 2, "too_short": 1},
}

_SLOT = re.compile(r"\{(person|company|place|product)(2?)\}")


@dataclass(frozen=True)
class Names:
    """The pools one split draws its names from."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    company: tuple[str, ...]
    place: tuple[str, ...]
    product: tuple[str, ...]

    def draw(self, kind: str, rng: random.Random) -> str:
        if kind == "person":
            first = rng.choice(self.first)
            return f"{first} {rng.choice(self.last)}" if rng.random() < 0.6 else first
        return rng.choice(getattr(self, kind))


TRAIN = Names(v.TRAIN_FIRST, v.TRAIN_LAST, v.TRAIN_COMPANY, v.TRAIN_PLACE, v.TRAIN_PRODUCT)
TEST = Names(v.TEST_FIRST, v.TEST_LAST, v.TEST_COMPANY, v.TEST_PLACE, v.TEST_PRODUCT)


def fill(shape: str, names: Names, rng: random.Random) -> tuple[str, dict[str, str]]:
    """One sentence of a shape and its entities, name to type, in order of appearance."""
    entities: dict[str, str] = {}

    def name_for(match: re.Match[str]) -> str:
        kind = match.group(1)
        name = names.draw(kind, rng)
        while any(name in known or known in name for known in entities):
            name = names.draw(kind, rng)
        entities[name] = kind
        return name

    return _SLOT.sub(name_for, shape), entities


def rows(shapes: tuple[str, ...], names: Names, count: int, rng: random.Random) -> Iterator[tuple[str, dict[str, str]]]:
    """``count`` different sentences, the shapes taken in turn so that each is equally common."""
    seen: set[str] = set()
    produced = 0
    for index in range(count * 50):
        sentence, entities = fill(shapes[index % len(shapes)], names, rng)
        if sentence in seen:
            continue
        seen.add(sentence)
        yield sentence, entities
        produced += 1
        if produced == count:
            return
    raise ValueError(f"{len(shapes)} shapes give fewer than {count} different sentences")


def instruction_row(sentence: str, entities: dict[str, str]) -> dict[str, str]:
    return {"instruction": INSTRUCTION, "input": sentence, "output": json.dumps(entities, ensure_ascii=False)}


def corrupt(entities: dict[str, str], sentence: str, rng: random.Random) -> str:
    """A plausible wrong answer: a missing name, a wrong type, an invented entity, or talk around the JSON."""
    kinds: list[Callable[[], str]] = [
        lambda: "Here are the entities: " + json.dumps(entities) + " I hope this helps!",
        lambda: json.dumps({**entities, rng.choice(re.findall(r"\b[a-z]{4,}\b", sentence)): rng.choice(v.TYPES)}),
    ]
    if entities:
        name = rng.choice(list(entities))
        wrong = rng.choice([t for t in v.TYPES if t != entities[name]])
        kinds.append(lambda: json.dumps({**entities, name: wrong}))
        kinds.append(lambda: json.dumps({k: t for k, t in entities.items() if k != name}))
    return rng.choice(kinds)()


def entity_batches(rng: random.Random) -> dict[str, list[str]]:
    clean = [json.dumps(instruction_row(*row), ensure_ascii=False) for row in rows(v.TRAIN_SHAPES, TRAIN, 380, rng)]
    first, second = clean[:240], clean[240:]
    example = json.loads(first[7])
    long_input = " ".join(json.loads(line)["input"] for line in first[:120])
    first[40:40] = [first[3], first[3], json.dumps({**example, "output": ""})]
    first[90:90] = ['{"instruction": "List the named entities as JSON.", "input": "Cut off in the mid']
    first[150:150] = [
        json.dumps(
            {
                **example,
                "input": "Write to lena.keller@example.org about the delay in Oslo.",
                "output": '{"Oslo": "place"}',
            }
        )
    ]
    second[20:20] = [json.dumps({**example, "input": long_input}), second[5], "not json at all"]
    second[60:60] = [first[10], json.dumps({**example, "input": "Empty again.", "output": "   "})]
    second[90:90] = [json.dumps({"instruction": INSTRUCTION, "input": "Where is the answer?"})]
    return {"2026-01.jsonl": first, "2026-02.jsonl": second}


def preference_batches(rng: random.Random) -> dict[str, list[str]]:
    pairs = [
        {
            "prompt": f"{INSTRUCTION}\n\n{sentence}",
            "chosen": json.dumps(entities),
            "rejected": corrupt(entities, sentence, rng),
        }
        for sentence, entities in rows(v.TRAIN_SHAPES, TRAIN, 56, rng)
    ]
    lines = [json.dumps(pair, ensure_ascii=False) for pair in pairs]
    equal = [json.dumps({**pair, "rejected": pair["chosen"]}) for pair in pairs[:2]]
    return {"2026-01.jsonl": [*lines[:30], *equal, *lines[30:], lines[9]]}


def prompt_batches(rng: random.Random) -> dict[str, list[str]]:
    asked = [f"{INSTRUCTION}\n\n{sentence}" for sentence, _ in rows(v.TRAIN_SHAPES, TRAIN, 24, rng)]
    return {"2026-01.jsonl": [json.dumps({"prompt": text}, ensure_ascii=False) for text in asked]}


def text_batches(rng: random.Random) -> dict[str, list[str]]:
    documents = []
    for index in range(72):
        paragraph, _ = fill(PARAGRAPHS[index % len(PARAGRAPHS)], TRAIN, rng)
        documents.append(paragraph)
    documents[30:30] = [documents[2], documents[5], "See above."]
    return {"2026-01.jsonl": [json.dumps({"text": text}, ensure_ascii=False) for text in documents]}


def safety_batches(rng: random.Random) -> dict[str, list[str]]:
    labelled = [*((text, "harmful") for text in HARMFUL), *((text, "harmless") for text in HARMLESS)]
    rng.shuffle(labelled)
    return {"2026-01.jsonl": [json.dumps({"prompt": text, "label": label}) for text, label in labelled]}


def general_batches(rng: random.Random) -> dict[str, list[str]]:
    unique = {(row["question"], row["choices"][row["answer"]]): row for row in questions(rng)}
    return {"2026-01.jsonl": [json.dumps(row) for row in unique.values()]}


def general_text_batches(_: random.Random) -> dict[str, list[str]]:
    return {"2026-01.jsonl": [json.dumps({"text": text}) for text in PROSE]}


def held_out(shapes: tuple[str, ...], count: int) -> Callable[[random.Random], dict[str, list[str]]]:
    def batches(rng: random.Random) -> dict[str, list[str]]:
        drawn = rows(shapes, TEST, count, rng)
        return {"2026-01.jsonl": [json.dumps(instruction_row(*row), ensure_ascii=False) for row in drawn]}

    return batches


SOURCES: dict[str, Callable[[random.Random], dict[str, list[str]]]] = {
    "text": text_batches,
    "entities": entity_batches,
    "entities_test": held_out(v.TEST_SHAPES, 96),
    "preferences": preference_batches,
    "prompts": prompt_batches,
    "out_of_domain": held_out(v.OOD_SHAPES, 24),
    "safety": safety_batches,
    "general": general_batches,
    "general_text": general_text_batches,
}


def write(folder: Path, seed: int = SEED) -> list[Path]:
    """Writes every source below ``folder`` (one sub-folder each, one file a batch) and returns the files."""
    written = []
    for name, batches in SOURCES.items():
        for file_name, lines in batches(random.Random(f"{seed}:{name}")).items():
            path = folder / name / file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
            written.append(path)
    return written
