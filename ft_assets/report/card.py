"""The model card of a release: the Hub's metadata block, then what a reader decides by."""

from collections.abc import Iterable
from typing import Any

import yaml

from ft_assets.core.release import Release
from ft_assets.core.signing import SIGNATURE
from ft_assets.report.contestants import label
from ft_assets.report.forms import FORMS
from ft_assets.report.measures import COSTS, measure

OF_SETS = "out_of_domain."
SHOWN_COSTS = ("size_bytes", "tokens_per_second", "usd_per_1000_requests")


def model_card(release: Release, forms: Iterable[str], signed: bool) -> str:
    """Markdown with the Hub's metadata block.

    Args:
        forms: the folders of quantized forms.
        signed: whether the release holds a signature.
    """
    recipe = release.recipe
    parts = [
        f"# {recipe.name}",
        recipe.description,
        release.verdict,
        _section("Scores", _scores(release)),
        _section("Every score", _every_score(release)),
        _section("Against the others", _comparisons(release)),
        _section("Beside the task", _measures(release)),
        _section("Labels", _labels(release)),
        _section("Gate", _gate(release)),
        _section("Use", _use(release, sorted(forms))),
        _section("Limits", _limits(release)),
        _section("Data", _data(release)),
        _section("Licences", _licences(release)),
        _section("Recipe", _recipe(release)),
        _section("Lineage", _lineage(release, signed)),
    ]
    return f"---\n{_metadata(release)}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _metadata(release: Release) -> str:
    """The block that the Hub reads; its fields are those of hub-docs/modelcard.md."""
    from huggingface_hub import EvalResult, ModelCardData

    recipe, base = release.recipe, release.base
    results = [
        EvalResult(
            task_type=release.task,
            dataset_type="private",
            dataset_name="out-of-domain rows" if name.startswith(OF_SETS) else "held-out rows of the recipe",
            dataset_config="out_of_domain" if name.startswith(OF_SETS) else "test",
            metric_type=name.removeprefix(OF_SETS),
            metric_name=f"{name}, 95% interval {score['low']:.4f} to {score['high']:.4f}",
            metric_value=round(score["mean"], 4),
            metric_args={"low": round(score["low"], 4), "high": round(score["high"], 4), "rows": score["n"]},
        )
        for name, score in release.scores.items()
    ]
    method = (
        recipe.policy.method
        if recipe.policy
        else "classifier"
        if release.classifies
        else "sft"
        if recipe.sft
        else "cpt"
    )
    adapted = recipe.adapter.method == "prompt_tuning"
    datasets = sorted({batch.dataset for batch in release.batches if batch.dataset})
    languages = sorted({language for batch in release.batches for language in batch.languages})
    return ModelCardData(
        license=recipe.publish.license,
        language=languages or None,
        base_model=base.repository,
        base_model_relation=None if base.repository is None else "adapter" if adapted else "finetune",
        library_name="peft" if adapted else "transformers",
        pipeline_tag=release.task,
        datasets=datasets or None,
        metrics=sorted({name.removeprefix(OF_SETS) for name in release.scores}),
        tags=["ft-assets", method],
        model_name=recipe.name,
        eval_results=results,
    ).to_yaml()


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _scores(release: Release) -> str:
    results = release.results
    metric, contestants = results["metric"], results["contestants"]
    shown = [name for name in (metric, OF_SETS + metric) if name in release.scores]

    def row(name: str, body: dict[str, Any]) -> list[str]:
        cells = [_interval(body["scores"].get(key), "score") for key in shown]
        costs = body["costs"]
        found = [FORMS[COSTS[key][1]](costs[key]) if costs.get(key) else "" for key in told]
        return [label(name), *cells, *found]

    told = [key for key in SHOWN_COSTS if any(body["costs"].get(key) for body in contestants.values())]
    columns = ["contestant", *shown, *(COSTS[key][0] for key in told)]
    return (
        f"Means with 95% bootstrap intervals; {metric} decides, on {release.scores[metric]['n']} held-out rows. This release "
        f"is **{label(release.candidate)}**.\n\n{_table(columns, [row(*each) for each in contestants.items()])}"
    )


def _every_score(release: Release) -> str:
    """All that was measured of the release, beside what it began as and what was published before."""
    contestants = release.results["contestants"]
    names = [name for name in ("majority", "base_zero_shot", "incumbent", release.candidate) if name in contestants]
    rows = [
        [metric, *(_interval(contestants[name]["scores"].get(metric), "score") for name in names), str(score["n"])]
        for metric, score in release.scores.items()
    ]
    return _table(["score", *(label(name) for name in names), "rows"], rows)


def _interval(score: dict[str, Any] | None, form: str) -> str:
    if score is None:
        return ""
    mean, low, high = (FORMS[form](score[name]) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _comparisons(release: Release) -> str:
    rows = [
        [
            f"{label(entry['left'])} against {label(entry['right'])}",
            entry["metric"],
            _interval(entry, "difference"),
            str(entry["n"]),
            "" if entry["p_holm"] is None else f"{entry['p_holm']:.3g}",
            entry["outcome"],
        ]
        for entry in release.results["comparisons"]
    ]
    if not rows:
        return ""
    table = _table(["", "metric", "difference", "rows", "p (Holm)", "outcome"], rows)
    return f"Differences row by row, with 95% intervals.\n\n{table}"


def _measures(release: Release) -> str:
    rows = []
    for name, found in release.results["measures"].items():
        title, form, reading = measure(name)
        rows.append([title, _interval(found, form), str(found["n"]), reading])
    return _table(["measure", "found", "rows", "how to read it"], rows) if rows else ""


def _labels(release: Release) -> str:
    """Of a classifier: how well it tells each label, and what it takes for what."""
    body = release.results["contestants"][release.candidate]
    if "classes" not in body:
        return ""
    rows = [
        [entry["label"], *(f"{entry[name]:.3f}" for name in ("precision", "recall", "f1")), str(entry["rows"])]
        for entry in body["classes"]
    ]
    tables = [_table(["label", "precision", "recall", "F1", "rows"], rows)]
    wrong = [pair for pair in body["confusion"] if pair["expected"] != pair["predicted"]]
    if wrong:
        mistakes = [[pair["expected"], pair["predicted"], str(pair["rows"])] for pair in wrong[:20]]
        tables.append(_table(["has the label", "was given", "rows"], mistakes))
    return "\n\n".join(tables)


def _gate(release: Release) -> str:
    gate = release.gate
    if not gate["conditions"]:
        return "The recipe has no gate: nothing was asked of this model before it was published."
    table = _table(
        ["condition", "", "numbers"],
        [[each["condition"], _met(each), each["sentence"]] for each in gate["conditions"]],
    )
    if override := gate["override"]:
        table += f"\n\nOverridden by {_text(override['by'])} at {override['at']}: {_text(override['reason'])}"
    return table


def _met(each: dict[str, Any]) -> str:
    return "met" if each["passed"] else "**overridden**" if each["overridden"] else "not met"


def _use(release: Release, forms: list[str]) -> str:
    """How the release is loaded; what is trained decides what it holds."""
    method = release.recipe.adapter.method
    if release.classifies:
        return """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
scores = model(**tokenizer(["A text."], truncation=True, return_tensors="pt")).logits
print(model.config.id2label[int(scores.argmax())])
```"""
    base = "BASE" if method == "prompt_tuning" else "FOLDER"
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f"model = AutoModelForCausalLM.from_pretrained({base})",
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)",
    ]
    told = ["`FOLDER` is this folder, or the repository's name."]
    if method == "prompt_tuning":
        lines += ["from peft import PeftModel", "model = PeftModel.from_pretrained(model, FOLDER)"]
        told.append(f"`BASE` is the base model, {release.base.name}.")
    elif method != "full":
        told.append(f"`adapter/` holds the PEFT adapter for the base model, {release.base.name}.")
    told += [f"`quantized/{form}/` holds the {label(form)} form." for form in forms]
    return "```python\n" + "\n".join(lines) + "\n```\n\n" + " ".join(told)


def _limits(release: Release) -> str:
    told = ["Scores hold for rows like the held-out ones.", *release.results["warnings"]]
    if release.classifies:
        told.append("A text of none of these kinds gets a label all the same.")
    if judge := release.results.get("judge"):
        told.append(f"Refusals are counted by keywords{_error_of(judge)}.")
    return "\n".join(f"- {_text(line)}" for line in told)


def _error_of(judge: dict[str, Any]) -> str:
    found, missed = judge["sensitivity"], judge["specificity"]
    if found is None or missed is None:
        return ""
    shares = [each["mean"] if isinstance(each, dict) else each for each in (found, missed)]
    return f", which find {shares[0]:.0%} of refusals and take {1 - shares[1]:.0%} of other answers for one"


def _data(release: Release) -> str:
    rows = [
        [batch.key, ", ".join(batch.roles), str(batch.rows_kept), str(batch.quarantined), batch.licence]
        for batch in release.batches
    ]
    return _table(["batch", "used as", "rows kept", "quarantined", "licence"], rows)


def _licences(release: Release) -> str:
    own, base = release.recipe.publish.license, release.base.licence
    told = [
        f"This model: {own}." if own else "This model: the recipe names no licence (`publish.license`).",
        f"Its base model, {release.base.name}: {base}." if base else f"Its base model, {release.base.name}: see there.",
        "Its data: as listed above.",
    ]
    return " ".join(told)


def _recipe(release: Release) -> str:
    body = release.recipe.model_dump(mode="json", exclude_unset=True, exclude={"hardware", "retrain", "publish"})
    return f"```yaml\n{yaml.safe_dump(body, sort_keys=False, allow_unicode=True)}```"


def _lineage(release: Release, signed: bool) -> str:
    lines = [
        f"- {stage}: `{digest}`" for stage, digest in {**release.lineage, "this release": release.fingerprint}.items()
    ]
    checked = "`bill.cdx.json` is the bill of materials (CycloneDX) with the sha-256 of every file; `ft verify FOLDER` compares."
    if signed:
        checked += f" `{SIGNATURE}` is an OpenSSF model-signing signature: `ft verify FOLDER --key PUBLIC_KEY`."
    return "\n".join(lines) + f"\n\n{checked}"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, *([_text(cell) for cell in row] for row in rows)]
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, f"|{'---|' * len(columns)}", *body])


def _text(cell: str) -> str:
    """Text as one cell of one line, which starts no tag."""
    return " ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;")
