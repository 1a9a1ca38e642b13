"""Where too few rows were asked to tell, in plain words."""

from typing import Any

TELLABLE = 0.05  # a set that tells a difference this small apart is large enough to say nothing


def cautions(metric: str, candidate: str, scores: dict[str, Any], comparisons: list[dict[str, Any]]) -> list[str]:
    """A sentence for each set that is too small to tell a difference of :data:`TELLABLE` from chance.

    The least difference that can be told is half the width of the interval, for the test set the widest of the candidate's
    paired differences. Where no row differs it has no width, and says too little; up to 3 / n of such rows may then still
    differ (Hanley and Lippman-Hand, 1983, doi:10.1001/jama.1983.03330370053031).
    """
    widest = [(each["high"] - each["low"]) / 2 for each in comparisons if each["metric"] == metric]
    rows = scores[metric]["n"]
    sets = {"test": (rows, max([3 / rows, *widest]))}
    of_set = {
        "out_of_domain": f"out_of_domain.{metric}",
        "harmful safety": "refused_harmful",
        "harmless safety": "refused_harmless",
        "general": "general_accuracy",
    }
    for name, key in of_set.items():
        if found := scores.get(key):
            sets[name] = found["n"], max(3 / found["n"], (found["high"] - found["low"]) / 2)
    return [
        f"The {name} set has {rows} rows: differences under {least:.2f} cannot be told from chance."
        for name, (rows, least) in sets.items()
        if least > TELLABLE
    ]
