"""Where too few rows were asked to tell, in plain words."""

from typing import Any

TELLABLE = 0.05  # a set that tells a difference this small apart is large enough to say nothing


def least_told(low: float, high: float, rows: int) -> float:
    """The least difference that can be told from chance by a 95% interval over ``rows``: half its width. Where no row differs
    it has none, and says too little; up to 3 / rows of such rows may then still differ (Hanley and Lippman-Hand, 1983,
    doi:10.1001/jama.1983.03330370053031).
    """
    return max(3 / rows, (high - low) / 2)


def cautions(metric: str, candidate: str, scores: dict[str, Any], comparisons: list[dict[str, Any]]) -> list[str]:
    """A sentence for each set that is too small to tell a difference of :data:`TELLABLE` from chance; of the test set the
    widest of the candidate's paired differences counts.
    """
    rows = scores[metric]["n"]
    own = [each for each in comparisons if (each["left"], each["metric"]) == (candidate, metric)]
    paired = [least_told(each["low"], each["high"], rows) for each in own]
    sets = {"test": (rows, max(paired, default=least_told(0, 0, rows)))}
    of_set = {
        "out_of_domain": f"out_of_domain.{metric}",
        "harmful safety": "refused_harmful",
        "harmless safety": "refused_harmless",
        "general": "general_accuracy",
    }
    for name, key in of_set.items():
        if found := scores.get(key):
            sets[name] = found["n"], least_told(found["low"], found["high"], found["n"])
    return [
        f"The {name} set has {rows} rows: differences under {least:.2f} cannot be told from chance."
        for name, (rows, least) in sets.items()
        if least > TELLABLE
    ]
