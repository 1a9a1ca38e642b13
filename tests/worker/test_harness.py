"""lm-eval's tasks are run by lm-eval itself, on a model that is in memory; what cannot be run is refused in plain words."""

import json
import sys

import pytest
import torch

from ft_assets.core.errors import FineTuneError
from ft_assets.worker.harness import flat, task_scores
from ft_assets.worker.likelihood import choices
from ft_assets.worker.models import load_causal
from ft_assets.worker.tokenizer import load_tokenizer

ROWS = [
    {"question": f"Which is number {n}?", "choices": ["one of them", "two", f"{n}"], "answer": n % 3} for n in range(9)
]
TASK = """
task: own_task
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture
def loaded(tiny_base):
    return load_causal(tiny_base, torch.float32), load_tokenizer(tiny_base)


@pytest.mark.slow
def test_a_task_is_scored_as_our_own_choices_are(tmp_path, loaded, monkeypatch):
    pytest.importorskip("lm_eval", reason="extra lm-eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "own.yaml").write_text(TASK.format(file=tmp_path / "rows.jsonl"))
    found = task_scores(*loaded, ["own_task"], None, 4, tmp_path)
    own = choices(*loaded, [{**row, "row_id": "", "expected": row["answer"]} for row in ROWS], 4)
    right = sum(row["choice"] == row["expected"] for row in own) / len(ROWS)
    norm = found["lm_eval.own_task.acc_norm"]
    assert (norm["mean"], norm["n"]) == (pytest.approx(right), 9)
    assert norm["low"] <= norm["mean"] <= norm["high"]
    assert set(found) == {"lm_eval.own_task.acc", "lm_eval.own_task.acc_norm"}
    assert task_scores(*loaded, ["own_task"], 5, 4, tmp_path)["lm_eval.own_task.acc"]["n"] == 5
    with pytest.raises(FineTuneError, match="has no task no_such_task"):
        task_scores(*loaded, ["own_task", "no_such_task"], None, 4, tmp_path)
    (tmp_path / "own.yaml").write_text(TASK.format(file=tmp_path / "gone.jsonl"))
    with pytest.raises(FineTuneError, match=r"the data of lm-eval's task own_task cannot be read.*HF_HOME"):
        task_scores(*loaded, ["own_task"], None, 4, tmp_path)


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(FineTuneError, match=r"pip install 'ft-assets\[lm-eval\]'"):
        task_scores(None, None, ["arc_easy"], None, 1)


def test_each_metric_is_a_number_with_its_interval():
    results = {
        "t": {
            "alias": "t",
            "sample_len": 4,
            "acc,none": 0.5,
            "acc_stderr,none": 0.1,
            "em,strict-match": 1,
            "em_stderr,strict-match": "N/A",
        },
        "group": {"alias": "group", "sample_len": 8, "acc,none": 0.25, "acc_stderr,none": 0.1},
    }
    assert flat(results, {"t": {"original": 9, "effective": 4}}) == {
        "lm_eval.t.acc": {"mean": 0.5, "low": pytest.approx(0.304), "high": pytest.approx(0.696), "n": 4},
        "lm_eval.t.em.strict_match": {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 4},
        "lm_eval.group.acc": {"mean": 0.25, "low": pytest.approx(0.054), "high": pytest.approx(0.446), "n": 8},
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_stops_before_anything_is_written(value):
    with pytest.raises(FineTuneError, match=r"perplexity,none of task t is (nan|inf|-inf), no finite number"):
        flat({"t": {"acc,none": 0.5, "perplexity,none": value}}, {"t": {"effective": 4}})
