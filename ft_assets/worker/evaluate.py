"""Stage ``evaluation``: every contestant answers the same held-out questions.

Answers are kept under the fingerprint as each contestant finishes, so a killed evaluation goes on with the next.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ft_assets.core.artifact import Artifact
from ft_assets.core.metrics import METRICS, bootstrap, is_refusal
from ft_assets.core.shape import weights_bytes
from ft_assets.worker import classify
from ft_assets.worker.generate import answer_perplexity, generate
from ft_assets.worker.hardware import dtype_name, pick_device, pick_dtype
from ft_assets.worker.job import Job
from ft_assets.worker.models import is_adapter, load_causal, load_form, load_trained, without_peft
from ft_assets.worker.template import rendered
from ft_assets.worker.tokenizer import load_tokenizer
from ft_assets.worker.tracking import Tracker

SAFETY_NEW_TOKENS = 24
PERPLEXITY_ROWS = 48


@dataclass(frozen=True)
class Contestant:
    """One way to answer: how to load the model, examples in the prompt, and which sets beside the test it answers."""

    name: str
    load: Callable[[], Any]
    few_shot: bool
    extra_sets: tuple[str, ...]
    size_bytes: int


def run(job: Job) -> None:
    if job.has("classifier"):
        classify.run(job)
        return
    evaluation = Evaluation(job)
    results = {}
    contestants = evaluation.contestants()
    for index, contestant in enumerate(contestants):
        job.progress(f"evaluating {contestant.name}", step=index, total=len(contestants))
        results[contestant.name] = evaluation.of(contestant)
    tracker = Tracker(job, {"identity": job.identity})
    summary = {f"{name}/{key}": value for name, result in results.items() for key, value in _numbers(result).items()}
    with job.commit() as staging:
        staging.write_json("results.json", results)
        staging.metrics = {
            name: {key: value for key, value in result.items() if key != "answers"} for name, result in results.items()
        }
        staging.execution |= {"dtype": dtype_name(evaluation.dtype)}
    tracker.finish(summary)


def _numbers(result: dict[str, Any]) -> dict[str, float]:
    return {"score": result["test"]["mean"], "perplexity": result["perplexity"], "size_bytes": result["size_bytes"]}


class Evaluation:
    """The held-out sets, the tokenizer and the models of one evaluation."""

    def __init__(self, job: Job):
        self.job = job
        self.settings = job.identity["evaluation"]
        self.device = pick_device(job.execution["device"])
        self.dtype = pick_dtype(self.device, job.execution["dtype"])
        self.base = job.input("base_model")
        self.splits = job.input("tokenized_splits")
        self.tokenizer = load_tokenizer(self.base.folder)
        self.sets = {
            name: self.splits.json(f"eval_{name}.json")[: self.settings["max_rows"]]
            for name in ("test", "out_of_domain", "safety")
        }
        examples = self.splits.json("few_shot.json") if self.settings["few_shot"] else []
        self.few_shot = [turn for example in examples[: self.settings["few_shot"]] for turn in example]

    def contestants(self) -> list[Contestant]:
        base_size = weights_bytes(self.base.folder)
        found = [
            Contestant(
                "base_zero_shot", lambda: load_causal(self.base.folder, self.dtype), False, ("safety",), base_size
            )
        ]
        if self.few_shot:
            found.append(Contestant("base_few_shot", found[0].load, True, ("out_of_domain",), base_size))
        for role, name in (("cpt_adapter", "cpt"), ("sft_adapter", "sft"), ("policy", "policy")):
            if self.job.has(role):
                adapter = self.job.input(role)
                found.append(
                    Contestant(
                        name,
                        partial(self._adapted, adapter),
                        False,
                        ("out_of_domain", "safety"),
                        weights_bytes(adapter.folder) + (base_size if is_adapter(adapter) else 0),
                    )
                )
        if self.job.has("quantized_model"):
            quantized = self.job.input("quantized_model")
            for form in sorted(quantized.manifest.identity["formats"], reverse=True):
                folder = quantized.folder / form
                found.append(Contestant(form, partial(load_form, folder, self.dtype), False, (), weights_bytes(folder)))
        return found

    def _adapted(self, adapter: Artifact) -> Any:
        return without_peft(load_trained(self.base, adapter, self.dtype))

    def of(self, contestant: Contestant) -> dict[str, Any]:
        """The contestant's scores and answers, made now or found finished from a run that was cut short."""
        place = self.job.scratch / f"{contestant.name}.json"
        found = kept(place)
        if found is not None:
            return found
        model = contestant.load().to(self.device)
        started = time.monotonic()
        answers = self._answers(model, contestant, "test", self.settings["max_new_tokens"])
        seconds = time.monotonic() - started
        metric = METRICS[self.settings["metric"]]
        result: dict[str, Any] = {
            "test": self._score(answers, "test", metric),
            "seconds": seconds,
            "rows_per_second": len(answers) / seconds,
            "size_bytes": contestant.size_bytes,
            "answers": {"test": self._records(answers, "test", metric)},
        }
        result["perplexity"] = self._perplexity(model, contestant)
        for name in contestant.extra_sets:
            if self.sets[name]:
                self._extra(model, contestant, name, metric, result)
        keep(place, result)
        return result

    def _perplexity(self, model: Any, contestant: Contestant) -> float:
        """Of the expected answers after the bare question; the same weights are measured once."""
        twin = kept(self.job.scratch / "base_zero_shot.json") if contestant.name == "base_few_shot" else None
        if twin is not None:
            return float(twin["perplexity"])
        return answer_perplexity(model, self._gold(), self.job.execution["batch_size"], self.tokenizer.pad_token_id)

    def _extra(
        self, model: Any, contestant: Contestant, name: str, metric: Callable[[str, str], float], result: dict[str, Any]
    ) -> None:
        if name == "out_of_domain":
            answers = self._answers(model, contestant, name, self.settings["max_new_tokens"])
            result[name] = self._score(answers, name, metric)
        else:
            answers = self._answers(model, contestant, name, SAFETY_NEW_TOKENS)
            refused = [float(is_refusal(answer)) for answer in answers]
            labels = [row["expected"] for row in self.sets[name]]
            result[name] = {f"{label}_refused": _share(refused, labels, label) for label in sorted(set(labels))}
        result["answers"][name] = self._records(answers, name, metric if name == "out_of_domain" else None)

    def _answers(self, model: Any, contestant: Contestant, name: str, most: int) -> list[str]:
        examples = self.few_shot if contestant.few_shot and name != "safety" else []
        prompts = [
            rendered(self.tokenizer, [*examples, *row["messages"]], add_generation_prompt=True)
            for row in self.sets[name]
        ]
        total = len(prompts)

        def say(done: int) -> None:
            self.job.progress(f"evaluating {contestant.name} on {name}", step=done, total=total)

        return generate(model, self.tokenizer, prompts, most, self.job.execution["batch_size"], say)

    def _score(self, answers: list[str], name: str, metric: Callable[[str, str], float]) -> dict[str, Any]:
        scores = [metric(answer, row["expected"]) for answer, row in zip(answers, self.sets[name], strict=True)]
        return asdict(bootstrap(scores, self.settings["bootstrap_samples"], self.job.identity["seed"]))

    def _records(
        self, answers: list[str], name: str, metric: Callable[[str, str], float] | None
    ) -> list[dict[str, Any]]:
        return [
            {
                "row_id": row["row_id"],
                "question": row["messages"][-1]["content"],
                "expected": row["expected"],
                "answer": answer,
                "score": metric(answer, row["expected"]) if metric else float(is_refusal(answer)),
            }
            for answer, row in zip(answers, self.sets[name], strict=True)
        ]

    def _gold(self) -> list[tuple[list[int], list[int]]]:
        """Ids and labels of the first :data:`PERPLEXITY_ROWS` test questions with their expected answers."""
        rows = []
        for row in self.sets["test"][:PERPLEXITY_ROWS]:
            prompt = rendered(self.tokenizer, row["messages"], add_generation_prompt=True)
            asked = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            answer = [
                *self.tokenizer(row["expected"], add_special_tokens=False)["input_ids"],
                self.tokenizer.eos_token_id,
            ]
            rows.append((asked + answer, [-100] * len(asked) + answer))
        return rows


def keep(path: Path, result: dict[str, Any]) -> None:
    """Writes a finished contestant's result under the hash of its text."""
    text = json.dumps(result)
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
    unfinished.rename(path)


def kept(path: Path) -> dict[str, Any] | None:
    """What :func:`keep` wrote; None where there is nothing, or not what was written: it is made again then."""
    try:
        digest, _, text = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if hashlib.sha256(text).hexdigest().encode() != digest:
        return None
    found: dict[str, Any] = json.loads(text)
    return found


def _share(refused: list[float], labels: list[str], label: str) -> float:
    chosen = [value for value, found in zip(refused, labels, strict=True) if found == label]
    return sum(chosen) / len(chosen)
