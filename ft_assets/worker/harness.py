"""Tasks of lm-eval (EleutherAI's evaluation harness) by name, an optional extra: ``pip install 'ft-assets[lm-eval]'``.

Everything is lm-eval's own: prompts, few-shot examples, metrics. No chat template is put around a prompt, and no task that
runs code which a model wrote is started.
"""

import math
from pathlib import Path
from typing import Any

from ft_assets.core.errors import FineTuneError

WIDTH_95 = 1.96  # standard errors on either side
BOOTSTRAP_SAMPLES = 1000  # for metrics whose error has no formula

Scores = dict[str, dict[str, float]]


def task_scores(
    model: Any, tokenizer: Any, tasks: list[str], limit: int | None, batch_size: int, definitions: Path | None = None
) -> Scores:
    """``{"mean", "low", "high", "n"}`` of each metric, under ``lm_eval.TASK.METRIC``; the interval is the mean and 1.96 of
    lm-eval's standard errors on either side, the mean alone where it tells none. A filter other than ``none`` stands behind
    the metric's name. A gate's names have no dash: an underscore stands in its place.

    Args:
        tasks: names of tasks, groups or tags.
        limit: rows of a task at most.
        definitions: a folder with tasks (YAML) beside those that lm-eval brings along.

    Raises:
        FineTuneError: lm-eval is not installed, does not know a task, or cannot reach its data.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise FineTuneError(
            f"evaluation.lm_eval needs lm-eval, and {error.name} is not installed: pip install 'ft-assets[lm-eval]', or "
            "leave evaluation.lm_eval out"
        ) from error
    if getattr(model, "virtual_ids", []):
        raise FineTuneError("evaluation.lm_eval cannot read a model's virtual tokens; leave it out with prompt_tuning")
    manager = TaskManager(include_path=definitions)
    if unknown := sorted(set(tasks) - set(manager.all_tasks)):
        raise FineTuneError(f"lm-eval has no task {', '.join(unknown)}; `lm-eval ls tasks` lists all")
    for name in tasks:
        try:
            manager.load([name])
        except (OSError, ValueError) as error:  # among the first are no connection, and no such data set
            raise FineTuneError(
                f"the data of lm-eval's task {name} cannot be read: {error!s:.300}. Load it where there is a network and bring "
                "the cache along (HF_HOME), or take the task out of evaluation.lm_eval"
            ) from error
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    found = simple_evaluate(
        lm, tasks=tasks, limit=limit, bootstrap_iters=BOOTSTRAP_SAMPLES, task_manager=manager, log_samples=False
    )
    return flat(found["results"], found["n-samples"])


def flat(results: dict[str, dict[str, Any]], rows: dict[str, dict[str, int]]) -> Scores:
    """lm-eval's results (``{task: {"METRIC,FILTER": value, "METRIC_stderr,FILTER": error}}``), one number a key. A group counts
    the rows of its tasks, which stand in lm-eval's ``sample_len``.

    Raises:
        FineTuneError: a number is not finite, as the perplexity of a broken model may be; names task and metric.
    """
    found = {}
    for task, metrics in results.items():
        count = rows[task]["effective"] if task in rows else int(metrics.get("sample_len", 0))
        for key, value in metrics.items():
            metric, comma, by = key.partition(",")
            if not comma or metric.endswith("_stderr") or isinstance(value, str):
                continue
            error = metrics.get(f"{metric}_stderr,{by}")
            width = WIDTH_95 * error if isinstance(error, int | float) and math.isfinite(error) else 0.0
            name = ".".join(["lm_eval", task, metric, *([] if by == "none" else [by])]).replace("-", "_")
            mean = float(value)
            if not math.isfinite(mean):
                raise FineTuneError(
                    f"lm-eval's {key} of task {task} is {mean}, no finite number: the model is broken, or the task is none for "
                    "it. Look at its perplexity (evaluate without evaluation.lm_eval), or take the task out of there"
                )
            found[name] = {"mean": mean, "low": mean - width, "high": mean + width, "n": count}
    return found
