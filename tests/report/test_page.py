"""The evaluation page: every number on it comes from the artifacts, and a person can read it anywhere."""

import json
import re

import pytest
from browsing import browser, console_errors
from conftest import Workshop

from ft_assets.core.metrics import entity_f1
from ft_assets.core.statistics import interval
from ft_assets.report.facts import verdict
from ft_assets.report.page import render

pytestmark = pytest.mark.graph


def page(made: Workshop) -> str:
    return (made.artifact("eval_report") / "report.html").read_text(encoding="utf-8")


def test_scores_on_the_page_are_those_of_the_answers(made: Workshop) -> None:
    results = json.loads((made.artifact("evaluation") / "results.json").read_text())
    html = page(made)
    for result in results.values():
        scores = [entity_f1(row["answer"], row["expected"]) for row in result["answers"]["test"]]
        again = interval(scores, samples=100, seed=5)
        assert result["test"] == {"mean": again.mean, "low": again.low, "high": again.high, "n": len(scores)}
        assert f"{again.low:.3f} to {again.high:.3f}" in html


def test_data_counts_on_the_page_are_those_of_the_files(made: Workshop) -> None:
    html = page(made)
    for name in ("rows", "text", "pairs", "test"):
        lines = (made.recipes / "data" / name / "one.jsonl").read_text().count("\n")
        assert re.search(rf"tiny_{name}@one</td><td class=\"n\">{lines}</td>", html)


def test_the_page_needs_no_network(made: Workshop) -> None:
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page(made))


def test_texts_of_models_are_escaped(made: Workshop) -> None:
    facts = json.loads((made.artifact("eval_report") / "report.json").read_text())
    facts["examples"][0]["answers"][0]["answer"] = "<script>alert(1)</script>"
    assert "<script>" not in render(facts)


def test_the_page_names_the_sweep_that_chose_the_settings(made: Workshop) -> None:
    facts = json.loads((made.artifact("eval_report") / "report.json").read_text())
    assert "The settings of SFT are those of" not in render(facts)
    states = {"trials": 20, "complete": 12, "pruned": 7, "diverged": 1}
    best = {"best_trial": 7, "best_loss": 1.234, "best_values": {"sft.learning_rate": 0.000125, "adapter.r": 8}}
    html = render({**facts, "sweep": {**states, **best}})
    assert "trial 7 of 20 (12 complete, 7 pruned, 1 diverged)" in html
    assert "1.234: sft.learning_rate 0.000125, adapter.r 8." in html


def test_the_verdict_follows_the_intervals() -> None:
    def result(low: float, high: float) -> dict:
        return {"test": {"mean": (low + high) / 2, "low": low, "high": high, "n": 10}}

    prompted = {"base_zero_shot": result(0.0, 0.1), "base_few_shot": result(0.4, 0.5)}
    assert verdict({**prompted, "sft": result(0.6, 0.7)}, "sft").startswith("Fine-tuning was needed")
    assert verdict({**prompted, "sft": result(0.45, 0.7)}, "sft").startswith("No difference")
    assert verdict({**prompted, "sft": result(0.1, 0.2)}, "sft").startswith("Fine-tuning made it worse")
    frequent = {"majority": result(0.4, 0.5)}
    assert verdict({**frequent, "classifier": result(0.6, 0.7)}, "classifier").startswith("The labels were learned")
    assert verdict({**frequent, "classifier": result(0.1, 0.2)}, "classifier").startswith("It is worse than no model")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1440, False), (390, True)])
def test_the_page_fits_and_shows_no_errors(made: Workshop, width: int, dark: bool) -> None:
    with browser(width, 900, dark) as window:
        window.get((made.artifact("eval_report") / "report.html").as_uri())
        overflow = window.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        background = window.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert overflow <= 0
        assert console_errors(window) == []
        assert (background != "rgb(255, 255, 255)") == dark
