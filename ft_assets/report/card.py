"""The model card of a release, in the form the Hugging Face Hub reads."""

from typing import Any

import yaml

LIMITS = {
    "answers": "The refusal rates in `report.html` come from a keyword judge on a small set.",
    "classes": "A text of none of these kinds gets a label all the same.",
}


def model_card(facts: dict[str, Any], licences: dict[str, str]) -> str:
    """Markdown with the hub's metadata block.

    Args:
        facts: what :func:`ft_assets.report.facts.gather` made.
        licences: licence by source name.
    """
    classifies = "classes" in facts
    front = {
        "library_name": "transformers",
        "pipeline_tag": _task(facts),
        "tags": ["ft-assets", "classifier" if classifies else facts["policy_method"] or "sft"],
        "model-index": [
            {
                "name": facts["recipe"],
                "results": [_index_entry(facts, c) for c in facts["contestants"] if c["name"] == facts["best"]],
            }
        ],
    }
    data = "\n".join(
        f"- `{batch['key']}`: {batch['rows_kept']} rows kept, {batch['quarantined']} quarantined; licence "
        f"{licences[batch['key'].partition('@')[0]]}"
        for batch in facts["data"]
    )
    lineage = "\n".join(f"- {entry['stage']}: `{entry['fingerprint']}`" for entry in facts["lineage"])
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {facts["recipe"]}

{facts["description"]}

{facts["verdict"]}

## Scores

{facts["metric"]} on {facts["contestants"][0]["n"]} held-out rows, mean and 95% bootstrap interval.

{_scores(facts)}

## Data

{data}

## Use

{_use(facts)}

## Limits

Scores hold for rows like the held-out ones. {LIMITS["classes" if classifies else "answers"]}

## Lineage

{lineage}
"""


def _task(facts: dict[str, Any]) -> str:
    return "text-classification" if "classes" in facts else "text-generation"


def _scores(facts: dict[str, Any]) -> str:
    """The table of contestants, and of a classifier those of its labels and of what it takes for what."""

    def row(contestant: dict[str, Any], *more: str) -> list[str]:
        span = f"{contestant['low']:.3f} to {contestant['high']:.3f}"
        return [contestant["label"], f"{contestant['mean']:.3f}", span, *more, f"{contestant['size_bytes'] / 1e6:.0f}"]

    if "classes" not in facts:
        rows = [row(c, f"{c['perplexity']:.2f}") for c in facts["contestants"]]
        return _table(["contestant", "score", "95% interval", "perplexity", "weights (MB)"], rows)
    contestants = _table(
        ["contestant", "score", "95% interval", "weights (MB)"], [row(c) for c in facts["contestants"]]
    )
    labels = [
        [entry["label"], *(f"{entry[name]:.3f}" for name in ("precision", "recall", "f1")), str(entry["rows"])]
        for entry in facts["classes"]["labels"]
    ]
    tables = [contestants, _table(["label", "precision", "recall", "F1", "rows"], labels)]
    mistakes = [[pair["expected"], pair["predicted"], str(pair["rows"])] for pair in facts["classes"]["mistakes"]]
    if mistakes:
        tables.append(_table(["has the label", "was given", "rows"], mistakes))
    return "\n\n".join(tables)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, f"|{'---|' * len(columns)}", *body])


def _use(facts: dict[str, Any]) -> str:
    """How the release is loaded; what is trained decides what it holds."""
    if "classes" in facts:
        return """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
scores = model(**tokenizer(["A text."], truncation=True, return_tensors="pt")).logits
print(model.config.id2label[int(scores.argmax())])
```"""
    model = """from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({})
tokenizer = AutoTokenizer.from_pretrained(FOLDER)"""
    quantized = "`quantized/` holds the bitsandbytes forms, if any."
    if facts["adapter_method"] == "prompt_tuning":
        adapted = "from peft import PeftModel\nmodel = PeftModel.from_pretrained(model, FOLDER)"
        return f"```python\n{model.format('BASE')}\n{adapted}\n```\n\n`BASE` is the base model ({facts['base_model']})."
    whole = f"```python\n{model.format('FOLDER')}\n```\n\n"
    if facts["adapter_method"] == "full":
        return whole + quantized
    return f"{whole}`adapter/` holds the PEFT adapter for the base model ({facts['base_model']}), {quantized}"


def _index_entry(facts: dict[str, Any], contestant: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": {"type": _task(facts)},
        "dataset": {"name": "held-out rows of the recipe", "type": "private"},
        "metrics": [{"type": facts["metric"], "value": round(contestant["mean"], 4)}],
    }
