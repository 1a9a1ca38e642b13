"""The model card of a release, in the form the Hugging Face Hub reads."""

from typing import Any

import yaml


def model_card(facts: dict[str, Any], licences: dict[str, str]) -> str:
    """Markdown with the hub's metadata block.

    Args:
        facts: what :func:`ft_assets.report.facts.gather` made.
        licences: licence by source name.
    """
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["ft-assets", facts["policy_method"] or "sft"],
        "model-index": [
            {
                "name": facts["recipe"],
                "results": [_index_entry(facts, c) for c in facts["contestants"] if c["name"] == facts["best"]],
            }
        ],
    }
    scores = "\n".join(
        f"| {c['label']} | {c['mean']:.3f} | {c['low']:.3f} to {c['high']:.3f} | {c['perplexity']:.2f} | {c['size_bytes'] / 1e6:.0f} |"
        for c in facts["contestants"]
    )
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

| contestant | score | 95% interval | perplexity | weights (MB) |
|---|---|---|---|---|
{scores}

## Data

{data}

## Use

{_use(facts)}

## Limits

Scores hold for rows like the held-out ones. The refusal rates in `report.html` come from a keyword judge on a small set.

## Lineage

{lineage}
"""


def _use(facts: dict[str, Any]) -> str:
    """How the release is loaded; what is trained decides what it holds."""
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
        "task": {"type": "text-generation"},
        "dataset": {"name": "held-out rows of the recipe", "type": "private"},
        "metrics": [{"type": facts["metric"], "value": round(contestant["mean"], 4)}],
    }
