"""What was made for an evaluation: rows, trainings, what was planned and what it came to, and what stands on what."""

from typing import Any

from ft_assets.core.artifact import Artifact
from ft_assets.core.recipe_run import TRAINED_BY


def training(name: str, artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "stage": name,
        "metrics": manifest.metrics,
        "history": artifact.json("history.json"),
        "seconds": manifest.seconds,
        "cost_usd": manifest.cost_usd,
        "resumed_from_step": manifest.execution.get("resumed_from_step", 0),
        "dtype": manifest.execution["dtype"],
    }


def batch(key: str, artifact: Artifact) -> dict[str, Any]:
    wanted = ("rows_in", "rows_kept", "quarantined", "reasons", "samples")
    return {"key": key, **{name: artifact.manifest.metrics[name] for name in wanted}}


def placements(plan: list[dict[str, Any]], trained: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each planned stage with what was measured; nothing is measured of a sweep, whose trials are artifacts of their own.

    ``peak_share`` is the measured peak as a share of the planned one.
    """
    by_stage = {TRAINED_BY[entry["stage"]]: entry for entry in trained}
    found = []
    for planned in plan:
        entry = by_stage.get(planned["stage"])
        metrics = entry["metrics"] if entry else {}
        peak = metrics.get("measured_peak_bytes")
        found.append(
            {
                **planned,
                "measured_peak_bytes": peak,
                "peak_share": peak / planned["peak_bytes"] if peak else None,
                "measured_seconds": metrics.get("train_seconds"),
                "measured_cost_usd": entry["cost_usd"] if entry else None,
            }
        )
    return found


def lineage(artifacts: dict[str, Artifact]) -> list[dict[str, Any]]:
    """Each artifact with the stages it was made from, of those that are told of here."""
    stages = {artifact.manifest.fingerprint: name for name, artifact in artifacts.items()}
    return [
        {
            "stage": name,
            "fingerprint": artifact.manifest.fingerprint,
            "made_from": sorted({stages[above] for above in artifact.manifest.upstream.values() if above in stages}),
            "seconds": artifact.manifest.seconds,
            "cost_usd": artifact.manifest.cost_usd,
            "versions": artifact.manifest.versions,
        }
        for name, artifact in artifacts.items()
    ]


def totals(entries: list[dict[str, Any]]) -> dict[str, float]:
    return {name: sum(entry[name] for entry in entries) for name in ("seconds", "cost_usd")}
