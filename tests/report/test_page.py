"""The evaluation page: every number on it comes from the artifacts, and a person can read it anywhere."""

import json
import math
import re
from copy import deepcopy
from pathlib import Path
from statistics import fmean

import pytest
from answered import classified, evaluated
from browsing import browser, console_errors
from conftest import Workshop
from reading import Page, read_back
from sample import NO_GATE, facts, gate
from sample import made as artifacts_of

from ft_assets.assets.eval_report import needed
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.metrics import METRICS
from ft_assets.report.marks import look_up
from ft_assets.report.page import render

HOSTILE = "<script>alert('x')</script>\u202e\x1b{{ 7 * 7 }} " + "unbroken" * 300
SAMPLES = ("passed", "failed", "classifier", "many")


@pytest.fixture(scope="session")
def samples(tmp_path_factory) -> dict[str, dict]:
    """The facts of made-up evaluations by what is particular about them."""
    alone = evaluated(rows=24, without=("incumbent", "merged", "nf4", "int8", "gguf_q8_0", "base_retrieval"))
    chosen = {
        "passed": (evaluated(), gate()),
        "failed": (alone, gate(failed=True)),
        "classifier": (classified(), NO_GATE),
        "many": (evaluated(more=20), gate(failed=True, overridden=True)),
    }
    found = {}
    for name, (body, judged) in chosen.items():
        told = facts(tmp_path_factory.mktemp("facts"), body, judged)
        found[name] = json.loads(json.dumps(told, allow_nan=False))
    for example in found["many"]["examples"]:
        example["question"]["text"] = example["answers"][0]["answer"]["text"] = HOSTILE
    found["many"]["contestants"][0]["label"] = HOSTILE
    found["many"]["gate"]["conditions"][0]["sentence"] = HOSTILE
    return found


@pytest.fixture(scope="session")
def pages(samples) -> dict[str, str]:
    return {name: render(body) for name, body in samples.items()}


def every_number_is_a_fact(html: str, body: dict) -> None:
    page = Page(html)
    assert len(page.marks) > 100
    for path, form, shown in page.marks:
        value = look_up(body, path)
        if form is None:
            assert shown == value
            continue
        low, high = read_back(shown)
        slack = 5e-4 * abs(value) if form == "number" else 1e-9 * max(1.0, abs(value))
        assert low - slack <= value <= high + slack, f"{path} is {value}, shown as {shown}"
    assert page.numbers_beside() == []


@pytest.mark.parametrize("name", SAMPLES)
def test_every_number_on_the_page_is_a_fact(samples, pages, name) -> None:
    every_number_is_a_fact(pages[name], samples[name])


def test_a_number_of_the_pages_own_or_a_wrong_one_is_found(samples, pages) -> None:
    html, body = pages["passed"], samples["passed"]
    with pytest.raises(AssertionError):
        every_number_is_a_fact(html.replace("</main>", "<p>scores 0.9</p></main>"), body)
    other = deepcopy(body)
    other["contestants"][0]["mean"] += 0.002
    with pytest.raises(AssertionError, match="/contestants/0/mean"):
        every_number_is_a_fact(html, other)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_page_is_one_file_without_scripts_or_network(pages, name) -> None:
    assert "<script" not in pages[name]
    assert not re.findall(r"(?:src|href)=\"(?!#)", pages[name])
    ids = re.findall(r"\sid=\"([^\"]+)\"", pages[name])
    assert len(ids) == len(set(ids))
    linked = re.findall(r"href=\"#([\w-]+)\"", pages[name])
    assert set(linked) <= set(ids)


def test_facts_are_those_of_the_artifacts(tmp_path) -> None:
    results, judged = evaluated(), gate(failed=True)
    body = facts(tmp_path, results, judged)
    _, artifacts, batches = artifacts_of(tmp_path, results)
    recomputed(body, results)
    assert body["gate"] == judged | {"total": 2, "failed": 1}
    assert [entry["fingerprint"] for entry in body["lineage"]] == [a.manifest.fingerprint for a in artifacts.values()]
    assert body["totals"]["seconds"] == pytest.approx(sum(a.manifest.seconds for a in artifacts.values()))
    assert {entry["key"]: entry["rows_kept"] for entry in body["data"]} == {
        key: batch.manifest.metrics["rows_kept"] for key, batch in batches.items()
    }
    for place in body["placements"]:
        assert place["peak_share"] == place["measured_peak_bytes"] / place["peak_bytes"]


def recomputed(body: dict, results: dict) -> None:
    """The facts of contestants, from each single answer."""
    metric = results["metric"]
    assert [one["name"] for one in body["contestants"]] == list(results["contestants"])
    for one in body["contestants"]:
        found = results["contestants"][one["name"]]
        scores = [METRICS[metric](row["answer"], row["expected"]) for row in found["answers"]["test"]]
        assert (one["mean"], one["n"]) == (pytest.approx(fmean(scores)), len(scores))
        assert {key: one[key] for key in ("mean", "low", "high", "n")} == found["scores"][metric]
        assert one["low"] <= one["mean"] <= one["high"]
        for name, wanted in (("refused_harmful", "harmful"), ("refused_harmless", "harmless")):
            refused = [row["refused"] for row in found["answers"].get("safety", []) if row["expected"] == wanted]
            assert one["scores"].get(name, {}).get("mean") == (pytest.approx(fmean(refused)) if refused else None)
        nll = [(row["nll"], row["tokens"]) for row in found["answers"]["test"] if "nll" in row]
        if nll:
            assert one["perplexity"] == pytest.approx(math.exp(sum(n for n, _ in nll) / sum(t for _, t in nll)))
        assert one["costs"] == found["costs"]
        assert one["seconds_per_1000_requests"] == pytest.approx(1000 / found["costs"]["rows_per_second"])
    by_name = {one["name"]: one for one in body["contestants"]}
    for entry in results["comparisons"]:
        if entry["left"] == body["best"] and entry["metric"] == metric:
            left, right = (by_name[entry[side]]["mean"] for side in ("left", "right"))
            assert entry["mean"] == pytest.approx(left - right)
            assert by_name[entry["right"]]["against"] == entry
    assert (body["measures"], body["warnings"]) == (results["measures"], results["warnings"])


def test_the_verdict_follows_the_paired_comparison_with_the_best_prompt(tmp_path) -> None:
    def told(outcome: str, results: dict) -> str:
        changed = deepcopy(results)
        for entry in changed["comparisons"]:
            entry["outcome"] = outcome
        return facts(tmp_path, changed, NO_GATE)["verdict"]

    results = evaluated(rows=24)
    assert told("better", results).startswith("Fine-tuning was needed: policy scores 0.")
    assert "the best prompt (base, retrieval)" in told("better", results)
    assert told("worse", results).startswith("Fine-tuning made it worse")
    assert told("cannot tell", results).startswith("No difference can be told")
    assert told("better", classified()).startswith("The labels were learned")
    assert told("worse", classified()).startswith("It is worse than no model")


def test_the_headline_says_what_the_gate_and_the_published_model_say(samples) -> None:
    told = {name: " ".join(body["told"]) for name, body in samples.items()}
    assert "The gate passed: each of its 2 conditions holds." in told["passed"]
    assert "what is published now" in told["passed"]
    assert "so that this model is not published: 1 of 2 conditions" in told["failed"]
    assert "safety.refusal_drop <= 0.02 (0.061 is more than 0.02.)" in told["failed"]
    assert "No other model of this recipe has been published" in told["failed"]
    assert "overridden by Rosa Okafor (The eight prompts were read by hand; none is harmful.)" in told["many"]
    assert "The recipe sets no gate" in told["classifier"]
    assert re.search(r"A thousand requests cost \$0\.00\d+, with base, retrieval \$0\.0\d+", told["passed"])
    assert "hardware.usd_per_hour gives no price" in told["classifier"]


@pytest.mark.parametrize("outcome", ["better", "cannot tell"])
def test_the_check_of_prompting_says_what_the_candidate_does_not_beat(samples, outcome) -> None:
    body = deepcopy(samples["passed"])
    for one in body["contestants"]:
        if one["against"]:
            one["against"]["outcome"] = outcome if one["name"] == "base_few_shot" else "better"
    found = needed(body)
    assert found.passed == (outcome == "better")
    assert ("(base, few-shot: cannot tell)" in (found.description or "")) != found.passed


def test_the_page_names_the_sweep_that_chose_the_settings(samples, pages) -> None:
    assert "The settings of SFT are those of" not in pages["passed"]
    states = {"trials": 20, "complete": 12, "pruned": 7, "diverged": 1}
    best = {"best_trial": 7, "best_loss": 1.234, "best_values": {"sft.learning_rate": 0.000125, "adapter.r": 8}}
    page = Page(render({**samples["passed"], "sweep": {**states, **best}}))
    shown = {path: text for path, _, text in page.marks if path.startswith("/sweep")}
    assert shown["/sweep/best_trial"] == "7"
    assert shown["/sweep/best_loss"] == "1.234"
    assert shown["/sweep/best_values/sft.learning_rate"] == "0.000125"


@pytest.mark.parametrize(("answer", "told"), [("", "nothing"), ("\n\n \n", "nothing but white space")])
def test_an_answer_of_which_nothing_is_seen_is_told_in_words(samples, answer, told) -> None:
    body = deepcopy(samples["passed"])
    shown = {"answer": {"text": answer, "more": 0}, "equal": False, "pieces": [["other", answer]] if answer else []}
    body["examples"][0]["answers"][0] |= shown
    body["safety_examples"][0]["answers"][0]["answer"] = {"text": answer, "more": 0}
    assert render(body).count(f'<span class="quiet">{told}</span>') == 2


OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_fits_and_shows_no_errors(pages, tmp_path: Path, width: int, dark: bool) -> None:
    with browser(width, 900, dark) as window:
        for name, html in pages.items():
            file = tmp_path / "report.html"
            file.write_text(html, encoding="utf-8")
            window.get(file.as_uri())
            assert window.execute_script(OVERFLOW) <= 0, name
            assert console_errors(window) == [], name
            background = window.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert (background != "rgb(255, 255, 255)") == dark
        window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert window.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert window.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"


@pytest.mark.graph
def test_the_page_of_a_run_shows_what_its_artifacts_say(made: Workshop) -> None:
    folder = made.artifact("eval_report")
    html, body = (folder / "report.html").read_text(encoding="utf-8"), json.loads((folder / "report.json").read_text())
    results = json.loads((made.artifact("evaluation") / "results.json").read_text())
    every_number_is_a_fact(html, body)
    recomputed(body, results)
    store = ArtifactStore(str(made.home / "store"))
    for entry in body["lineage"]:
        manifest = store.lookup(entry["stage"], entry["fingerprint"])
        assert (manifest.seconds, manifest.cost_usd) == (entry["seconds"], entry["cost_usd"])
    for entry in body["training"]:
        manifest = store.lookup(entry["stage"], look_up_lineage(body, entry["stage"]))
        assert manifest.metrics == entry["metrics"]
    assert json.loads((folder / "gate.json").read_text()).items() <= body["gate"].items()


def look_up_lineage(body: dict, stage: str) -> str:
    return next(entry["fingerprint"] for entry in body["lineage"] if entry["stage"] == stage)


@pytest.mark.graph
def test_data_counts_of_a_run_are_those_of_the_files(made: Workshop) -> None:
    body = json.loads((made.artifact("eval_report") / "report.json").read_text())
    rows = {entry["key"]: entry["rows_in"] for entry in body["data"]}
    for name in ("rows", "text", "pairs", "test"):
        assert rows[f"tiny_{name}@one"] == (made.recipes / "data" / name / "one.jsonl").read_text().count("\n")
