"""What an evaluation found, as its artifact and its tracked run tell it; and the price of an answer."""

from typing import Any

from ft_assets.core.scoring import summary
from ft_assets.worker.job import Job
from ft_assets.worker.tracking import Tracker

SECONDS_PER_HOUR = 3600


def commit(job: Job, results: dict[str, Any], dtype: str) -> None:
    """Writes ``results.json`` and ends the evaluation."""
    tracker = Tracker(job, {"identity": job.identity})
    with job.commit() as staging:
        staging.write_json("results.json", results)
        staging.metrics = summary(results)
        staging.execution |= {"dtype": dtype}
    tracker.finish(
        {
            f"{name}/{metric}": found["mean"]
            for name, contestant in results["contestants"].items()
            for metric, found in contestant["scores"].items()
        }
    )


def usd_per_1000_requests(job: Job, rows_per_second: float) -> float:
    """In US dollars, at the recipe's price for an hour of this machine."""
    return 1000 / rows_per_second / SECONDS_PER_HOUR * float(job.execution.get("usd_per_hour", 0.0))
