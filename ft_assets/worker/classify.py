"""Stage ``evaluation`` of a recipe with a classifier: it, and the most frequent label, on the same held-out rows."""

import time
from collections.abc import Callable
from typing import Any

import torch

from ft_assets.core.labels import majority
from ft_assets.core.scoring import OF_A_CLASSIFIER, score
from ft_assets.core.shape import weights_bytes
from ft_assets.worker.hardware import dtype_name, pick_device, pick_dtype
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_classifier
from ft_assets.worker.results import commit, usd_per_1000_requests
from ft_assets.worker.tokenizer import load_tokenizer, whole_texts

SETS = ("test", "out_of_domain")

Row = dict[str, Any]
Label = tuple[str, float]  # and how sure the classifier is of it, 0 to 1


def run(job: Job) -> None:
    splits, trained = job.input("tokenized_splits"), job.input("classifier")
    settings = job.identity["evaluation"]
    device = pick_device(job.execution["device"])
    dtype = pick_dtype(device, job.execution["dtype"])
    sets = {name: splits.json(f"eval_{name}.json")[: settings.get("max_rows")] for name in SETS}
    sets = {name: rows for name, rows in sets.items() if rows}
    model = load_classifier(trained.folder, dtype).to(device)
    tokenizer = load_tokenizer(trained.folder)
    given, truncated = {}, {}
    started = time.monotonic()
    for name, rows in sets.items():
        ids, truncated[name] = _ids(tokenizer, rows, splits.manifest.identity["data"]["max_length"])
        found = classify(model, tokenizer, ids, job.execution["batch_size"], _saying(job, name, len(rows)))
        given[name] = [
            {**_record(row, label), "confidence": sure} for row, (label, sure) in zip(rows, found, strict=True)
        ]
    seconds = time.monotonic() - started
    costs = {
        "size_bytes": weights_bytes(trained.folder),
        "seconds": seconds,
        "rows_per_second": (rate := sum(map(len, sets.values())) / seconds),
        "usd_per_1000_requests": usd_per_1000_requests(job, rate),
    }
    frequent = majority(splits.json("labels.json")["train"])
    always = {name: [_record(row, frequent) for row in rows] for name, rows in sets.items()}
    nothing = dict.fromkeys(costs, 0.0)  # it has no weights and takes no time
    contestants = {
        "majority": {"kind": "majority", "answers": {"sets": always, "costs": nothing}},
        "classifier": {"kind": "trained", "answers": {"sets": given, "costs": costs, "truncated": truncated}},
    }
    results = score(_both(settings), job.identity["seed"], "classifier", contestants)
    commit(job, results, dtype_name(dtype))


def _both(settings: dict[str, Any]) -> dict[str, Any]:
    """Both metrics of labels are told of a classifier, whichever is the verdict's."""
    return {**settings, "metrics": list(OF_A_CLASSIFIER)}


def _record(row: Row, label: str) -> Row:
    return {"row_id": row["row_id"], "question": row["text"], "expected": row["expected"], "answer": label}


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
) -> list[Label]:
    """The label of each row, with its probability. Rows of like length share a batch, so that little is padded."""
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    found: list[Label] = [("", 0.0)] * len(ids)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, padding_side="right", return_tensors="pt")
        batch = batch.to(model.device)
        with torch.inference_mode():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        sure, best = logits.float().softmax(-1).max(-1)
        for row, number, chance in zip(rows, best.tolist(), sure.tolist(), strict=True):
            found[row] = model.config.id2label[number], chance
        say(start + len(rows))
    return found
