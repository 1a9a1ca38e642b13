"""Stage ``evaluation``: gathers what every contestant answered, and scores it.

Each contestant's answers are an artifact of their own (:mod:`ft_assets.worker.answers`), made here where it is missing: a
killed evaluation goes on with the contestant it was at.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

from ft_assets.core.artifact import Artifact
from ft_assets.core.scoring import ANSWERED, check_expected, score, summary
from ft_assets.recipes.evaluation import KIND_OF
from ft_assets.worker import answers, classify, questions
from ft_assets.worker.batches import opened
from ft_assets.worker.contestants import Contestants
from ft_assets.worker.hardware import dtype_name, pick_device, pick_dtype
from ft_assets.worker.harness import task_scores
from ft_assets.worker.job import Job
from ft_assets.worker.memorize import memorized, sampled
from ft_assets.worker.rewards import rewards
from ft_assets.worker.tokenizer import load_tokenizer
from ft_assets.worker.tracking import Tracker

SECONDS_PER_HOUR = 3600


def run(job: Job) -> None:
    if job.has("classifier"):
        commit(job, *classify.contestants(job))
        return
    device = pick_device(job.execution["device"])
    dtype = pick_dtype(device, job.execution["dtype"])
    names = [name for kind, _, name in map(_parted, job.execution["parts"]) if kind == "answers"]
    gathering = Gathering(job, Contestants(device, dtype))
    for part in ANSWERED:
        check_expected(job.identity["evaluation"], part, gathering.questions.json(f"{part}.json"))
    contestants = {}
    for index, name in enumerate(names):
        job.progress(f"evaluating {name}", step=index, total=len(names))
        contestants[name] = {"kind": KIND_OF.get(name, "quantized"), "answers": gathering.of(name)}
    commit(job, contestants, {"dtype": dtype_name(dtype)}, _incumbent(job))


def _parted(key: str) -> tuple[str, str, str]:
    return key.partition(":")


def _incumbent(job: Job) -> dict[str, Any] | None:
    found = job.execution["parts"].get("answers:incumbent")
    return found and {"merged": found["upstream"]["model"][1]}


def commit(
    job: Job, contestants: dict[str, Any], execution: dict[str, Any], incumbent: dict[str, Any] | None = None
) -> None:
    """Scores what contestants answered and writes ``results.json``."""
    job.progress("scoring")
    price = float(job.execution.get("usd_per_hour", 0.0))
    for contestant in contestants.values():
        costs = contestant["answers"]["costs"]
        if price and costs["rows_per_second"]:  # without a price there is no cost: one of nothing would meet any gate
            costs["usd_per_1000_requests"] = 1000 / costs["rows_per_second"] / SECONDS_PER_HOUR * price
    results = score(job.identity["evaluation"], job.identity["seed"], job.identity["candidate"], contestants, incumbent)
    tracker = Tracker(job, {"identity": job.identity})
    with job.commit() as staging:
        staging.write_json("results.json", results)
        staging.metrics = summary(results)
        staging.execution |= execution
    by_name = staging.metrics["scores"]
    told = {f"{name}/{key}": value["mean"] for name, found in by_name.items() for key, value in found.items()}
    tracker.finish(told)


class Gathering:
    """What contestants answered, from their artifacts; those that are missing are made."""

    def __init__(self, job: Job, contestants: Contestants):
        self.job, self.contestants = job, contestants
        self.parts = job.execution["parts"]
        self.questions = opened(job.part(self.parts["questions"]), questions.make)

    def of(self, name: str) -> dict[str, Any]:
        """The body of a contestant's ``answers.json``, with what was memorized and how its answers were rewarded."""
        asking = partial(answers.make, contestants=self.contestants, questions=self.questions)
        body: dict[str, Any] = self._part("answers", name, asking).json("answers.json")
        if f"memorized:{name}" in self.parts:
            going_on = partial(_memorized, contestants=self.contestants)
            body["sets"]["memorization"] = self._part("memorized", name, going_on).json("memorized.json")
        if f"rewarded:{name}" in self.parts:
            judging = partial(_rewarded, questions=self.questions)
            by_row = self._part("rewarded", name, judging).json("rewards.json")
            body["sets"]["test"] = [{**row, "reward": by_row[row["row_id"]]} for row in body["sets"]["test"]]
        if f"lm_eval:{name}" in self.parts:
            measuring = partial(_lm_eval, contestants=self.contestants)
            body["lm_eval"] = self._part("lm_eval", name, measuring).json("scores.json")
        return body

    def _part(self, kind: str, name: str, make: Callable[[Job], None]) -> Artifact:
        return opened(self.job.part(self.parts[f"{kind}:{name}"], contestant=name), make)


def _memorized(job: Job, contestants: Contestants) -> None:
    """Stage ``memorized``: how far a model goes on with answers it was trained on, and with others."""
    rows = sampled(job.input("tokenized_splits"), job.identity["rows"], job.identity["seed"])
    loaded = contestants.of(job)
    job.progress(f"asking {job.execution['contestant']} for training answers", total=len(rows))
    with job.commit() as staging:
        found = memorized(loaded.model, loaded.tokenizer, rows, job.execution["batch_size"])
        staging.write_json("memorized.json", found)
        staging.metrics = {"rows": len(rows)}


def _rewarded(job: Job, questions: Artifact) -> None:
    """Stage ``rewarded``: what the reward model thinks of a contestant's answers to the test set, by row."""
    asked = {row["row_id"]: row["messages"] for row in questions.json("test.json")}
    records = [
        {**row, "messages": asked[row["row_id"]]} for row in job.input("answers").json("answers.json")["sets"]["test"]
    ]
    tokenizer = load_tokenizer(job.input("reward_model").folder)
    with job.commit() as staging:
        found = rewards(job, tokenizer, records)
        staging.write_json("rewards.json", {row["row_id"]: reward for row, reward in zip(records, found, strict=True)})
        staging.metrics = {"rows": len(records)}


def _lm_eval(job: Job, contestants: Contestants) -> None:
    """Stage ``lm_eval``: what lm-eval makes of a model on tasks of its own."""
    loaded = contestants.of(job)
    job.progress(f"lm-eval asks {job.execution['contestant']}", total=len(job.identity["tasks"]))
    asked = job.identity["tasks"], job.identity["max_rows"], job.execution["batch_size"]
    found = task_scores(loaded.model, loaded.tokenizer, *asked)
    with job.commit() as staging:
        staging.write_json("scores.json", found)
        staging.metrics = {"tasks": len(job.identity["tasks"]), "lm_eval": version("lm_eval")}
