"""Laws of ``results.json``: every number follows from the answers, and nothing is compared that was not asked of both."""

import json
import math

import pytest
import scored

from ft_assets.core.errors import FineTuneError
from ft_assets.core.metrics import METRICS
from ft_assets.core.scoring import check_expected, names, score, summary

SETTINGS = {"metric": "entity_f1", "metrics": ["exact_match"], "bootstrap_samples": 300}


@pytest.fixture(scope="module")
def results():
    return score(SETTINGS, 1, "policy", scored.every_contestant(), {"merged": "abc"})


def of(results, contestant, name):
    return results["contestants"][contestant]["scores"][name]


def test_results_are_json_without_nan(results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert results["incumbent"] == {"merged": "abc"}


def test_each_interval_holds_its_number(results):
    told = [found for each in results["contestants"].values() for found in each["scores"].values()]
    for found in [*told, *results["measures"].values()]:
        assert found["low"] <= found["mean"] <= found["high"]
        assert found["n"] > 0


def test_scores_are_the_mean_of_the_rows_scores(results):
    for contestant in results["contestants"].values():
        for part, name in (("test", "entity_f1"), ("out_of_domain", "out_of_domain.entity_f1")):
            rows = contestant["answers"].get(part)
            assert (rows is None) == (name not in contestant["scores"])
            if rows:
                assert contestant["scores"][name]["mean"] == pytest.approx(
                    sum(row["score"] for row in rows) / len(rows)
                )
                assert all(row["score"] == METRICS["entity_f1"](row["answer"], row["expected"]) for row in rows)


def test_what_was_made_up_is_found_again(results):
    assert of(results, "policy", "entity_f1")["mean"] == pytest.approx(0.9)
    assert of(results, "policy", "general_accuracy")["mean"] == pytest.approx(12 / 20)
    assert of(results, "policy", "general_perplexity")["mean"] == pytest.approx(math.exp(2.1))
    assert of(results, "policy", "memorized")["mean"] == pytest.approx(0.8)
    assert of(results, "base_zero_shot", "refused_harmful")["mean"] == 1
    assert of(results, "policy", "refused_harmful")["mean"] == 0
    measures = {name: found["mean"] for name, found in results["measures"].items()}
    assert measures == pytest.approx(
        {
            "forgetting.perplexity_ratio": math.exp(0.1),
            "forgetting.general_drop": 4 / 20,
            "safety.refusal_drop": 1.0,
            "safety.over_refusal_rise": 0.0,
            "memorization.rise": 0.7,
            "reward.win_rate": 1.0,
            "reward.win_rate_length_controlled": 1.0,
            "merged.drop": 0.0,
            "quantized.nf4.drop": 0.9 - 5 / 6,
        }
    )


def test_the_candidate_is_compared_with_all_and_a_quantized_form_with_the_merged(results):
    pairs = {(each["left"], each["right"]) for each in results["comparisons"]}
    assert pairs == {
        *(("policy", other) for other in ("base_zero_shot", "base_few_shot", "merged", "nf4")),
        ("nf4", "merged"),
    }
    assert {each["metric"] for each in results["comparisons"]} == {"entity_f1", "exact_match"}
    for each in results["comparisons"]:
        left, right = (of(results, each[side], each["metric"])["mean"] for side in ("left", "right"))
        assert each["mean"] == pytest.approx(left - right)
        assert each["p"] <= each["p_holm"] <= 1
        clear = each["p_holm"] <= 0.05 and (each["low"] > 0 or each["high"] < 0)
        assert (each["outcome"] != "cannot tell") == clear
    outcomes = {each["right"]: each["outcome"] for each in results["comparisons"] if each["left"] == "policy"}
    assert outcomes == {
        "base_zero_shot": "better",
        "base_few_shot": "better",
        "merged": "cannot tell",
        "nf4": "cannot tell",
    }


def test_a_worse_candidate_is_told_so():
    contestants = {
        "base_zero_shot": scored.contestant("base", test=scored.rows(60, 10)),
        "sft": scored.contestant("trained", test=scored.rows(60, 1)),
    }
    (found,) = score({**SETTINGS, "metrics": []}, 1, "sft", contestants)["comparisons"]
    assert (found["outcome"], found["high"] < 0) == ("worse", True)


def test_a_small_set_is_warned_of_and_a_large_one_is_not(results):
    assert results["warnings"][0] == "The test set has 60 rows: differences under 0.12 cannot be told from chance."
    assert [text.split(" set has")[0] for text in results["warnings"]] == [
        "The test",
        "The out_of_domain",
        "The harmful safety",
        "The harmless safety",
        "The general",
    ]
    large = {
        "base_zero_shot": scored.contestant("base", test=scored.rows(3000, 9)),
        "sft": scored.contestant("trained", test=scored.rows(3000, 10)),
    }
    assert score({**SETTINGS, "bootstrap_samples": 100}, 1, "sft", large)["warnings"] == []


def test_all_right_on_few_rows_is_warned_of_though_the_interval_has_no_width():
    contestants = {
        name: scored.contestant(kind, test=scored.rows(24, 100))
        for name, kind in (("base_zero_shot", "base"), ("sft", "trained"))
    }
    found = score(SETTINGS, 1, "sft", contestants)
    assert found["warnings"] == ["The test set has 24 rows: differences under 0.12 cannot be told from chance."]


def test_the_judges_error_is_told_where_it_judged(results):
    assert results["judge"]["rows"] == 900
    assert [row["refused"] for row in results["contestants"]["base_zero_shot"]["answers"]["safety"]] == [
        True,
        False,
    ] * 6
    plain = {"sft": scored.contestant("trained", test=scored.rows(10, 3))}
    assert "judge" not in score(SETTINGS, 1, "sft", plain)


def test_what_was_not_answered_is_not_told():
    row = {"row_id": "1", "question": "?", "expected": "{}", "answer": "{}"}
    found = score(SETTINGS, 1, "sft", {"sft": scored.contestant("trained", test=[row])})
    assert set(found["contestants"]["sft"]["scores"]) == {"entity_f1", "exact_match"}
    assert found["contestants"]["sft"]["calibration"] == []
    assert found["measures"] == {} == dict.fromkeys(found["comparisons"])


def test_names_are_what_a_gate_may_say(results):
    found = names(results)
    assert found["policy.entity_f1"] == found["candidate.entity_f1"] == pytest.approx(0.9)
    assert found["nf4.size_bytes"] == 1000
    assert found["forgetting.perplexity_ratio"] == pytest.approx(math.exp(0.1))
    assert found["policy.out_of_domain.exact_match"] == pytest.approx(0.75)
    assert "nf4.peak_memory_bytes" not in found
    assert all(isinstance(value, int | float) for value in found.values())


def test_a_summary_is_all_but_the_answers(results):
    told = summary(results)
    assert told["verdict_metric"] == "entity_f1"
    assert told["scores"]["nf4"] == results["contestants"]["nf4"]["scores"]
    assert "question" not in json.dumps(told)


def test_order_of_rows_and_of_contestants_changes_nothing(results):
    contestants = scored.every_contestant()
    contestants["nf4"]["answers"]["sets"]["test"].reverse()
    turned = score(SETTINGS, 1, "policy", dict(reversed(contestants.items())), {"merged": "abc"})
    for name in ("contestants", "measures"):
        assert turned[name] == results[name]
    assert list(turned["contestants"]) == list(contestants)[::-1]


def test_a_metric_more_changes_no_number_of_the_others(results):
    more = score({**SETTINGS, "metrics": ["exact_match", "rouge_l"]}, 1, "policy", scored.every_contestant())
    for name, contestant in results["contestants"].items():
        assert contestant["scores"].items() <= more["contestants"][name]["scores"].items()


@pytest.mark.parametrize("metric", sorted(set(METRICS) - {"numeric_answer"}))
def test_every_metric_can_be_the_verdicts(metric):
    found = score({"metric": metric, "bootstrap_samples": 100}, 1, "policy", scored.every_contestant())
    assert 0 < of(found, "policy", metric)["mean"] <= 1
    assert found["comparisons"][0]["metric"] == metric


def labels(answers, **extra):
    return [
        {"row_id": str(n), "question": "?", "expected": "abc"[n % 3], "answer": answer, **extra}
        for n, answer in enumerate(answers)
    ]


def test_a_classifier_is_told_by_label():
    contestants = {
        "majority": scored.contestant("majority", test=labels("a" * 30)),
        "classifier": scored.contestant("trained", test=labels("abc" * 8 + "abz" * 2, confidence=0.9)),
    }
    contestants["classifier"]["answers"]["truncated"] = {"test": 2}
    found = score({"metric": "macro_f1", "bootstrap_samples": 200}, 1, "classifier", contestants)
    own = found["contestants"]["classifier"]
    assert own["scores"]["accuracy"]["mean"] == pytest.approx(28 / 30)
    assert own["scores"]["macro_f1"]["mean"] == pytest.approx((1 + 1 + 16 / 18 + 0) / 4)
    assert own["scores"]["calibration_error"]["mean"] == pytest.approx(28 / 30 - 0.9)
    assert {each["label"] for each in own["classes"]} == {"a", "b", "c", "z"}
    assert {"expected": "c", "predicted": "z", "rows": 2} in own["confusion"]
    assert own["truncated"] == {"test": 2}
    assert found["contestants"]["majority"]["scores"]["macro_f1"]["mean"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert [each["outcome"] for each in found["comparisons"]] == ["better", "better"]


def test_a_label_that_one_alone_gives_moves_no_other():
    contestants = {
        "majority": scored.contestant("majority", test=labels("abc" * 10)),
        "classifier": scored.contestant("trained", test=labels(["aa", "b", "c"] * 10)),
    }
    found = score({"metric": "macro_f1", "bootstrap_samples": 100}, 1, "classifier", contestants)
    left, right = (of(found, name, "macro_f1")["mean"] for name in ("classifier", "majority"))
    told = next(each for each in found["comparisons"] if each["metric"] == "macro_f1")
    assert (left, right, told["mean"]) == pytest.approx((2 / 4, 1.0, 2 / 4 - 1.0))


def test_what_a_writing_model_says_beside_the_labels_is_no_label():
    said = ["A.", "b", "sorry, what?"] * 10
    found = score(
        {"metric": "label_macro_f1", "bootstrap_samples": 100},
        1,
        "sft",
        {"sft": scored.contestant("trained", test=labels(said))},
    )
    assert of(found, "sft", "label_macro_f1")["mean"] == pytest.approx(2 / 3)


def broken(change):
    contestants = scored.every_contestant()
    change({name: each["answers"]["sets"] for name, each in contestants.items()})
    return contestants


BREAKS = {
    "no test rows": (lambda sets: sets["nf4"].pop("test"), r"nf4 answered no row of the test set"),
    "a row missing": (
        lambda sets: sets["nf4"]["test"].pop(3),
        r"nf4 answered other rows of test .*1 missing, the first is r3",
    ),
    "a row more": (
        lambda sets: sets["nf4"]["test"].append({**sets["nf4"]["test"][0], "row_id": "x"}),
        r"nf4 .*1 more, the first is x",
    ),
    "a row twice": (
        lambda sets: sets["nf4"]["test"].append(sets["nf4"]["test"][0]),
        r"nf4, test: row r0 was answered twice",
    ),
    "another expected answer": (
        lambda sets: sets["nf4"]["test"][2].update(expected="{}"),
        r"nf4, test row r2: another expected",
    ),
    "a loss that is no number": (
        lambda sets: sets["nf4"]["test"][1].update(nll=math.nan),
        r"nf4, test row r1: nll is nan",
    ),
    "an endless reward": (
        lambda sets: sets["policy"]["test"][1].update(reward=math.inf),
        r"policy, test row r1: reward is inf",
    ),
    "text without tokens": (
        lambda sets: sets["policy"]["general_text"][1].update(tokens=0),
        r"policy, general_text row t1: tokens is 0",
    ),
    "a loss without end": (
        lambda sets: sets["policy"]["general_text"][1].update(nll=1e5),
        r"policy, general_text row t1: a loss of .* nats a token",
    ),
    "texts cut into other tokens": (
        lambda sets: sets["policy"]["general_text"][1].update(tokens=12),
        r"policy and base_zero_shot read general_text row t1 as 12 and 11 tokens",
    ),
    "a confidence that is no probability": (
        lambda sets: sets["policy"]["test"][1].update(confidence=1.5),
        r"policy, test row r1: confidence is 1.5",
    ),
    "a strange label": (lambda sets: sets["policy"]["safety"][0].update(expected="unsafe"), r"safety row s0"),
    "an expected answer that is no JSON": (
        lambda sets: [each["test"][0].update(expected="Ann") for each in sets.values()],
        r"test row r0 cannot be scored by entity_f1.*mend the row",
    ),
}


@pytest.mark.parametrize(("change", "told"), BREAKS.values(), ids=BREAKS)
def test_what_cannot_be_compared_is_refused_with_its_place(change, told):
    with pytest.raises(FineTuneError, match=told):
        score(SETTINGS, 1, "policy", broken(change))


def test_a_candidate_that_took_no_part_is_refused():
    with pytest.raises(FineTuneError, match="candidate sft is none of the contestants"):
        score(SETTINGS, 1, "sft", scored.every_contestant())


def test_a_cost_that_is_no_number_is_refused():
    contestants = scored.every_contestant()
    contestants["nf4"]["answers"]["costs"]["seconds"] = math.nan
    with pytest.raises(FineTuneError, match="nf4: seconds is nan"):
        score(SETTINGS, 1, "policy", contestants)


def test_a_question_that_no_answer_can_be_scored_on_is_refused_before_anyone_is_asked():
    rows = [{"row_id": "r0", "expected": '{"Ann": "person"}'}, {"row_id": "r1", "expected": "Ann"}]
    with pytest.raises(FineTuneError, match=r"test row r1 cannot be scored by entity_f1.*mend the row"):
        check_expected(SETTINGS, "test", rows)
    check_expected(SETTINGS | {"max_rows": 1}, "test", rows)
    check_expected({"metric": "exact_match"}, "test", rows)
