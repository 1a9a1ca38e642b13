"""What was predicted of finished trainings beside what was measured."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ft_assets.core.artifact import Manifest
from ft_assets.core.memory import WORKER_BYTES

STAGES = ("cpt_adapter", "sft_adapter", "reward_model", "policy", "classifier")


@dataclass(frozen=True)
class Compared:
    """One training. Memory in bytes of one process at its peak, on a CPU what is above an idle worker's; ``peak_error`` is predicted
    over measured, less one. Seconds are of the training loop; None where it was resumed, as then the measured ones are of the
    last attempt.
    """

    stage: str
    recipe: str
    fingerprint: str
    device: str
    predicted_peak_bytes: int
    measured_peak_bytes: int
    predicted_seconds: float
    measured_seconds: float | None

    @property
    def peak_error(self) -> float:
        return self.predicted_peak_bytes / self.measured_peak_bytes - 1


def compared(manifests: Iterable[Manifest]) -> list[Compared]:
    """Those of a training that a plan placed and whose memory was measured."""
    found = []
    for manifest in manifests:
        execution, metrics = manifest.execution, manifest.metrics
        placement, measured = execution.get("placement") or {}, int(metrics.get("measured_peak_bytes") or 0)
        if not placement.keys() >= {"peak_bytes", "seconds"}:
            continue  # made by a version whose plan said less
        predicted = placement["peak_bytes"]
        if not placement.get("gpu_resource"):
            predicted, measured = predicted - WORKER_BYTES, measured - int(metrics.get("measured_idle_bytes", 0))
        if predicted > 0 and measured > 0:
            whole = not execution.get("resumed_from_step", 0)
            found.append(
                Compared(
                    stage=manifest.stage,
                    recipe=execution.get("partition", ""),
                    fingerprint=manifest.fingerprint,
                    device=placement.get("gpu") or execution.get("device", ""),
                    predicted_peak_bytes=predicted,
                    measured_peak_bytes=measured,
                    predicted_seconds=placement["seconds"],
                    measured_seconds=metrics.get("train_seconds") if whole else None,
                )
            )
    return found


def summary(found: list[Compared]) -> dict[str, Any]:
    """Of the errors of the peak: their mean size, the largest over and the largest under (0 where none is)."""
    errors = [entry.peak_error for entry in found]
    if not errors:
        return {"runs": 0}
    return {
        "runs": len(errors),
        "mean_error": sum(map(abs, errors)) / len(errors),
        "worst_over": max(0.0, *errors),
        "worst_under": min(0.0, *errors),
    }
