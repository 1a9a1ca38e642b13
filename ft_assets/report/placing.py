"""A stage's placement as one row of a table, on a terminal and in the Dagster UI."""

from ft_assets.core.memory import GIB
from ft_assets.core.plan import StagePlan


def plan_row(plan: StagePlan) -> dict[str, str]:
    """One stage as cells by column."""
    offloaded = [what for what, where in _offloaded(plan).items() if where != "none"]
    return {
        "stage": plan.stage,
        "on": f"{plan.processes} x {plan.gpu or 'process'}" + (f", {plan.nodes} nodes" if plan.nodes > 1 else ""),
        "offload": " and ".join(offloaded) or "none",
        "ZeRO": str(plan.zero_stage),
        "checkpointing": "yes" if plan.activation_checkpointing else "no",
        "micro batch": f"{plan.micro_batch} x {plan.gradient_accumulation_steps}",
        "steps": str(plan.steps),
        "peak GiB": gib(plan.peak_bytes),
        "host GiB": gib(plan.host_bytes),
        "shm GiB": gib(plan.shm_bytes),
        "disk GiB": gib(plan.disk_bytes),
        "time": duration(plan.seconds),
        "USD": f"{plan.cost_usd:,.4f}",
    }


def _offloaded(plan: StagePlan) -> dict[str, str]:
    return {"optimizer": plan.offload_optimizer, "weights": plan.offload_param}


def gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def duration(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
