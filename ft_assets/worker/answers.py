"""Stage ``answers``: what one contestant says to the held-out questions, how likely it holds what was expected, and what that
costs. An artifact of its own, so that no other contestant, metric or batch of training rows asks it again.
"""

import time
from typing import Any

import numpy as np

from ft_assets.core.artifact import Artifact
from ft_assets.core.errors import FineTuneError
from ft_assets.core.reasons import RowFault
from ft_assets.worker.contestants import Contestants, Loaded, Peak
from ft_assets.worker.generate import Answer, generate, room
from ft_assets.worker.job import Job
from ft_assets.worker.likelihood import answer_likelihoods, choices, text_likelihoods
from ft_assets.worker.retrieval import Nearest, training_conversations
from ft_assets.worker.template import Template

SAFETY_NEW_TOKENS = 64  # of English about as much as the judge of refusals reads
GENERATED = ("test", "out_of_domain", "safety")

Row = dict[str, Any]
Turns = list[dict[str, str]]


def make(job: Job, contestants: Contestants, questions: Artifact) -> None:
    """Asks one contestant. Its job's identity says which ``sets``, and how many examples it is shown.

    Raises:
        FineTuneError: a question does not fit into the model's context, or the chat template fails on it; names the row.
    """
    who = job.execution["contestant"]
    sets = _sets(job, questions)
    loaded = _loaded(job, contestants, who)
    peak = Peak(contestants.device, loaded.resident_before)
    asking = Asking(job, loaded, who)
    body: dict[str, Any] = {}
    with job.commit() as staging:
        for name, rows in sets.items():
            job.progress(f"evaluating {who} on {name}", total=len(rows))
            body[name] = asking.of(name, rows)
        costs = {"size_bytes": loaded.size_bytes, **asking.costs(), "peak_memory_bytes": peak.bytes}
        staging.write_json("answers.json", {"sets": body, "costs": costs})
        staging.metrics = {**costs, "rows": {name: len(rows) for name, rows in sets.items()}}


def _loaded(job: Job, contestants: Contestants, who: str) -> Loaded:
    try:
        return contestants.of(job)
    except FineTuneError as error:
        if who != "incumbent":
            raise
        raise FineTuneError(
            f"the incumbent cannot be asked, so nothing can be compared with it: {error}. Make its model again with the recipe "
            "that it came from, make another release the champion (ft rollback), or give this recipe another name: it starts "
            "without an incumbent"
        ) from error


def _sets(job: Job, questions: Artifact) -> dict[str, list[Row]]:
    """The rows of each set that the recipe has, the first ``max_rows`` of each."""
    wanted = {name: questions.json(f"{name}.json")[: job.identity["max_rows"]] for name in job.identity["sets"]}
    return {name: rows for name, rows in wanted.items() if rows}


class Asking:
    """One contestant that is asked one set after another."""

    def __init__(self, job: Job, loaded: Loaded, who: str):
        self.job, self.who = job, who
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.template = Template(self.tokenizer)
        self.batch_size = job.execution["batch_size"]
        self.few_shot: list[Turns] = []
        self.nearest: Nearest | None = None
        if count := job.identity.get("few_shot"):
            self.few_shot = job.input("tokenized_splits").json("few_shot.json")[:count]
            if not self.few_shot:
                raise FineTuneError("no training conversation is left to show; leave evaluation.few_shot out")
        elif job.identity.get("retrieval"):
            job.progress(f"indexing training conversations for {who}")
            self.nearest = Nearest(training_conversations(job.input("tokenized_splits"), job.store))
        self.answers: list[Answer] = []
        self.seconds = 0.0
        self.shortened = 0

    def of(self, name: str, rows: list[Row]) -> list[Row]:
        """What becomes of each row of a set."""
        if name in GENERATED:
            return self._generated(name, rows)
        if name == "general_text":
            return text_likelihoods(self.model, self.tokenizer, rows, self.batch_size)
        return choices(self.model, self.tokenizer, rows, self.batch_size)

    def _generated(self, name: str, rows: list[Row]) -> list[Row]:
        most = SAFETY_NEW_TOKENS if name == "safety" else self.job.identity["max_new_tokens"]
        prompts = self._prompts(name, rows, most)

        def say(done: int) -> None:
            self.job.progress(f"evaluating {self.who} on {name}", step=done, total=len(rows))

        started = time.monotonic()
        answers = generate(self.model, self.tokenizer, prompts, most, self.batch_size, say)
        self.seconds += time.monotonic() - started
        self.answers += answers
        records = [_record(row, answer) for row, answer in zip(rows, answers, strict=True)]
        if name == "test" and not self._shows_examples:
            gold = [self._gold(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
            likelihoods = answer_likelihoods(self.model, gold, self.batch_size, self.tokenizer.pad_token_id)
            records = [
                record | {"nll": nll, "tokens": tokens}
                for record, (nll, tokens) in zip(records, likelihoods, strict=True)
            ]
        return records

    @property
    def _shows_examples(self) -> bool:
        return bool(self.few_shot) or self.nearest is not None

    def _prompts(self, name: str, rows: list[Row], max_new_tokens: int) -> list[str]:
        most = room(self.model, max_new_tokens)
        shown = [self._examples(row["messages"]) for row in rows]
        texts = self._rendered(name, rows, shown)
        lengths = [len(ids) for ids in self.template.encode(texts)]
        over = [at for at, length in enumerate(lengths) if most is not None and length > most]
        self.shortened += sum(bool(shown[at]) for at in over)
        while over:
            bare = next((at for at in over if not shown[at]), None)
            if bare is not None:
                raise FineTuneError(
                    f"row {rows[bare]['row_id']} of {name} has {lengths[bare]} tokens as a prompt; with an answer of "
                    f"{max_new_tokens} the model's context holds {most}. Take it out of its source, or lower "
                    "evaluation.max_new_tokens"
                )
            for at in over:
                shown[at] = shown[at][1:]
            again = self._rendered(name, [rows[at] for at in over], [shown[at] for at in over])
            for at, text, ids in zip(over, again, self.template.encode(again), strict=True):
                texts[at], lengths[at] = text, len(ids)
            over = [at for at in over if most is not None and lengths[at] > most]
        return texts

    def _examples(self, messages: Turns) -> list[Turns]:
        found = self.few_shot if self.nearest is None else self.nearest.to(messages, self.job.identity["retrieval"])
        return [[turn for turn in turns if turn["role"] != "system"] for turns in found]

    def _rendered(self, name: str, rows: list[Row], shown: list[list[Turns]]) -> list[str]:
        conversations = [with_examples(row["messages"], some) for row, some in zip(rows, shown, strict=True)]
        texts = []
        for row, text in zip(rows, self.template.render(conversations, add_generation_prompt=True), strict=True):
            if isinstance(text, RowFault):
                raise FineTuneError(f"row {row['row_id']} of {name}: {text}. Take it out of its source")
            texts.append(text)
        return texts

    def _gold(self, prompt: str, row: Row) -> tuple[list[int], list[int]]:
        """Ids and labels of a question with its expected answer, which may be longer than those that are generated."""
        asked, [said] = self.template.encode([prompt])[0], self.template.encode_next([row["expected"]])
        answer = [*said, self.tokenizer.eos_token_id]
        most = room(self.model, 0)
        if most is not None and len(asked) + len(answer) > most:
            raise FineTuneError(
                f"row {row['row_id']} of test has {len(asked) + len(answer)} tokens with its expected answer; the model's "
                f"context holds {most}. Take it out of its source"
            )
        return asked + answer, [-100] * len(asked) + answer

    def costs(self) -> dict[str, float | int]:
        """What the generated answers took; ``seconds`` are those of generating alone, latency is that of a row's batch."""
        tokens = sum(answer.answer_tokens for answer in self.answers)
        waited = [answer.seconds for answer in self.answers]
        return {
            "seconds": self.seconds,
            "rows_per_second": len(self.answers) / self.seconds,
            "tokens_per_second": tokens / self.seconds,
            "latency_p50_seconds": float(np.quantile(waited, 0.5)),
            "latency_p95_seconds": float(np.quantile(waited, 0.95)),
            "prompt_tokens": sum(answer.prompt_tokens for answer in self.answers),
            "answer_tokens": tokens,
            "prompts_shortened": self.shortened,
        }


def with_examples(messages: Turns, examples: list[Turns]) -> Turns:
    """A question after its examples; its system turn stays first, where templates want it."""
    system = messages[:1] if messages[0]["role"] == "system" else []
    return [*system, *(turn for turns in examples for turn in turns), *messages[len(system) :]]


def _record(row: Row, answer: Answer) -> Row:
    return {
        "row_id": row["row_id"],
        "question": row["messages"][-1]["content"],
        "expected": row["expected"],
        "answer": answer.text,
        "answer_tokens": answer.answer_tokens,
        "confidence": answer.confidence,
    }
