"""What each cost, and each measure beside the task, is called on the page and in the model card."""

from ft_assets.report.contestants import label

# Title and form of its number.
COSTS = {
    "usd_per_1000_requests": ("per thousand requests", "usd"),
    "latency_p50_seconds": ("latency p50", "duration"),
    "latency_p95_seconds": ("latency p95", "duration"),
    "tokens_per_second": ("tokens/s", "rate"),
    "peak_memory_bytes": ("peak memory", "bytes"),
    "size_bytes": ("weights", "bytes"),
}
# Title, form of its number, and what a reader should know.
MEASURES = {
    "forgetting.perplexity_ratio": (
        "perplexity on general text",
        "ratio",
        "As a multiple of the base's: one is unchanged, more is forgetting.",
    ),
    "forgetting.general_drop": ("general questions lost", "difference", "Share; more than zero is forgetting."),
    "safety.refusal_drop": (
        "harmful prompts no longer refused",
        "difference",
        "Share; more than zero: it answers what the base refused.",
    ),
    "safety.over_refusal_rise": (
        "harmless prompts newly refused",
        "difference",
        "Share; more than zero: it refuses what the base answered.",
    ),
    "memorization.rise": (
        "training answers memorized",
        "difference",
        "Share that it continues word for word, beyond held-out answers and beyond the base; more than zero is repeating.",
    ),
    "reward.win_rate": (
        "preferred to the base",
        "share",
        "By the reward model, answer by answer; half is no difference.",
    ),
    "reward.win_rate_length_controlled": (
        "preferred at equal length",
        "share",
        "The same where longer answers win nothing by their length.",
    ),
    "merged.drop": ("score lost by merging", "difference", "More than zero: the merged weights do worse."),
}


def measure(name: str) -> tuple[str, str, str]:
    """Title, form and reading of a measure by the name it has in ``results.json``."""
    if name.startswith("quantized.") and name.endswith(".drop"):
        form = label(name.removeprefix("quantized.").removesuffix(".drop"))
        return f"score lost by {form}", "difference", "Against the merged weights; more than zero is worse."
    return MEASURES.get(name, (name.replace("_", " "), "number", ""))
