"""Weights & Biases settings as a Dagster resource; the worker does the logging."""

import dagster as dg


class TrackerResource(dg.ConfigurableResource):
    """``mode`` is W&B's own: offline, online or disabled. The key stays in the environment (``WANDB_API_KEY``)."""

    mode: str
    folder: str
    project: str

    def request(self) -> dict[str, str]:
        return {"mode": self.mode, "folder": self.folder, "project": self.project}
