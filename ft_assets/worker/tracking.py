"""Logging to Weights & Biases. A run's id is its fingerprint, so a resumed run continues the same W&B run."""

from typing import Any

from ft_assets.worker.job import Job


class Tracker:
    """One W&B run per artifact, on rank 0; does nothing where tracking is disabled. The trials of a sweep are a group."""

    def __init__(self, job: Job, config: dict[str, Any]):
        self.run: Any = None
        settings = job.execution["tracker"]
        if settings["mode"] == "disabled" or job.rank != 0:
            return
        import wandb

        self.run = wandb.init(
            project=settings["project"],
            dir=settings["folder"],
            mode=settings["mode"],
            id=job.fingerprint[:32],
            resume="allow",
            name=f"{job.execution['partition']} {job.execution.get('trial', job.stage)}",
            group=job.execution.get("group", job.execution["partition"]),
            job_type=job.stage,
            config={"fingerprint": job.fingerprint, **config},
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
        )

    def log(self, numbers: dict[str, Any], step: int | None = None) -> None:
        if self.run is not None:
            self.run.log({key: value for key, value in numbers.items() if isinstance(value, (int, float))}, step=step)

    def finish(self, summary: dict[str, Any]) -> None:
        if self.run is not None:
            self.run.summary.update(summary)
            self.run.finish()
