"""How far a merged or quantized model may be from the one it was made of. What lies beyond is a broken file, not a price paid."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

REMEDY = (
    "Nothing after it is made. Take its folder out of the store and run again; where it fails again, leave the form out, or report "
    "the numbers"
)


@dataclass(frozen=True)
class Limits:
    """The most of each measure of :mod:`ft_assets.worker.parity`; of ``token_agreement`` the least. ``perplexity_ratio`` is held
    in both directions: what makes the expected answers likelier is not what was merged or quantized either.
    """

    weight_error: float
    logit_error: float
    kl_nats: float
    token_agreement: float
    perplexity_ratio: float


# Each a few times what was measured of good files, and under what was measured of broken ones: docs/formats.md.
LIMITS = {
    "merged": Limits(0.01, 0.03, 0.01, 0.9, 1.03),
    "gguf_f16": Limits(0.002, 0.03, 0.01, 0.9, 1.03),
    "gguf_q8_0": Limits(0.02, 0.15, 0.03, 0.85, 1.05),
    "int8": Limits(0.1, 0.4, 0.3, 0.7, 1.3),
    "gguf_q4_0": Limits(0.15, 0.7, 1.5, 0.3, 2.5),
    "nf4": Limits(0.15, 0.7, 1.5, 0.3, 2.5),
    "auto_round": Limits(0.2, 0.7, 1.5, 0.3, 2.5),
}


def faults(form: str, measured: Mapping[str, Any]) -> list[str]:
    """What of a form's measures lies beyond its limits, each as a sentence's part; none where it is as it should be."""
    found = []
    for name, limit in asdict(LIMITS[form]).items():
        value = measured[name]
        good = value >= limit if name == "token_agreement" else value <= limit
        if name == "perplexity_ratio":
            good = 1 / limit <= value <= limit
        if not good:
            found.append(f"{name} {value:.4g} (limit {limit:g})")
    if found:
        found[-1] += f"; furthest off is {measured['worst_weight'] or 'no tensor'}"
    return found
