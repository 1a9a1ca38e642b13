"""Stage ``evaluation`` of a recipe with a classifier: it, and the most frequent label, on the same held-out rows."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from ft_assets.core.labels import METRICS, by_label, confusion, interval, majority
from ft_assets.core.shape import weights_bytes
from ft_assets.worker.hardware import dtype_name, pick_device, pick_dtype
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_classifier
from ft_assets.worker.tokenizer import load_tokenizer, whole_texts
from ft_assets.worker.tracking import Tracker

SETS = ("test", "out_of_domain")

Result = dict[str, Any]


def run(job: Job) -> None:
    splits, trained = job.input("tokenized_splits"), job.input("classifier")
    device = pick_device(job.execution["device"])
    dtype = pick_dtype(device, job.execution["dtype"])
    sets = {name: splits.json(f"eval_{name}.json")[: job.identity["evaluation"]["max_rows"]] for name in SETS}
    sets = {name: rows for name, rows in sets.items() if rows}
    frequent = majority(splits.json("labels.json")["train"])
    results = {"majority": _result(job, sets, {name: [frequent] * len(rows) for name, rows in sets.items()})}

    model = load_classifier(trained.folder, dtype).to(device)
    tokenizer = load_tokenizer(trained.folder)
    predicted, truncated = {}, {}
    started = time.monotonic()
    for name, rows in sets.items():
        ids, truncated[name] = _ids(tokenizer, rows, splits.manifest.identity["data"]["max_length"])
        predicted[name] = classify(model, tokenizer, ids, job.execution["batch_size"], _saying(job, name, len(rows)))
    seconds = time.monotonic() - started
    results["classifier"] = _result(job, sets, predicted) | {
        "truncated": truncated,
        "seconds": seconds,
        "rows_per_second": sum(map(len, sets.values())) / seconds,
        "size_bytes": weights_bytes(trained.folder),
    }
    tracker = Tracker(job, {"identity": job.identity})
    with job.commit() as staging:
        staging.write_json("results.json", results)
        staging.metrics = {
            name: {key: value for key, value in result.items() if key != "answers"} for name, result in results.items()
        }
        staging.execution |= {"dtype": dtype_name(dtype)}
    tracker.finish(
        {f"{name}/{metric}": result[metric]["mean"] for name, result in results.items() for metric in METRICS}
    )


def _saying(job: Job, name: str, total: int) -> Callable[[int], None]:
    return lambda done: job.progress(f"classifying {name}", step=done, total=total)


def _ids(tokenizer: Any, rows: list[dict[str, Any]], max_length: int) -> tuple[list[list[int]], int]:
    """Tokens of each row, and how many rows are over-long. They are read as far as ``max_length`` goes, whatever
    ``data.overlong`` says: a classifier in use cannot leave a text out either.
    """
    texts = [row["text"] for row in rows]
    whole = whole_texts(tokenizer, texts)
    return whole_texts(tokenizer, texts, max_length), sum(len(ids) > max_length for ids in whole)


def classify(
    model: Any, tokenizer: Any, ids: list[list[int]], batch_size: int, say: Callable[[int], None]
) -> list[str]:
    """The label of each row. Rows of like length share a batch, so that little is padded."""
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    found = [""] * len(ids)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, padding_side="right", return_tensors="pt")
        batch = batch.to(model.device)
        with torch.inference_mode():
            best = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
        for row, number in zip(rows, best.tolist(), strict=True):
            found[row] = model.config.id2label[number]
        say(start + len(rows))
    return found


def _result(job: Job, sets: dict[str, list[dict[str, Any]]], predicted: dict[str, list[str]]) -> Result:
    """What the report tells of a contestant; of one that has no weights, and takes no time."""
    settings, seed = job.identity["evaluation"], job.identity["seed"]
    expected = {name: [row["expected"] for row in rows] for name, rows in sets.items()}

    def measured(metric: str, name: str) -> dict[str, Any]:
        return asdict(interval(metric, predicted[name], expected[name], settings["bootstrap_samples"], seed))

    scores = {metric: measured(metric, "test") for metric in METRICS}
    beyond = {"out_of_domain": measured(settings["metric"], "out_of_domain")} if "out_of_domain" in sets else {}
    return {
        "test": scores[settings["metric"]],
        **scores,
        **beyond,
        "classes": by_label(predicted["test"], expected["test"]),
        "confusion": confusion(predicted["test"], expected["test"]),
        "seconds": 0.0,
        "rows_per_second": 0.0,
        "size_bytes": 0,
        "answers": {name: _records(rows, predicted[name]) for name, rows in sets.items()},
    }


def _records(rows: list[dict[str, Any]], predicted: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "row_id": row["row_id"],
            "question": row["text"],
            "expected": row["expected"],
            "answer": label,
            "score": float(label == row["expected"]),
        }
        for row, label in zip(rows, predicted, strict=True)
    ]
