"""How a number is written on the page and in the verdict; each form by name, so that a test can read it back."""

import math
from collections.abc import Callable

MINUS = "\u2212"
BYTES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
SECONDS = (("h", 3600.0, 100 * 60.0), ("min", 60.0, 100.0), ("s", 1.0, 1.0), ("ms", 1e-3, 0.0))


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", MINUS)


def _usd(value: float) -> str:
    """At least cents, and two digits that say something of less than that."""
    places = 2 if value == 0 else min(9, max(2, 1 - math.floor(math.log10(abs(value)))))
    return f"${value:,.{places}f}"


def _bytes(value: float) -> str:
    unit, size = next(((unit, size) for unit, size in BYTES if value >= size), BYTES[-1])
    return f"{_three_digits(value / size)} {unit}"


def _duration(seconds: float) -> str:
    unit, size, _ = next(entry for entry in SECONDS if seconds >= entry[2])
    return f"{_three_digits(seconds / size)} {unit}"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:,.1f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


FORMS: dict[str, Callable[[float], str]] = {
    "score": lambda value: f"{value:.3f}",
    "difference": _signed,
    "share": lambda value: f"{100 * value:.1f}%",
    "agreement": lambda value: f"{100 * value:.2f}%",
    "ratio": lambda value: f"{value:.3f}",
    "perplexity": lambda value: f"{value:,.2f}",
    "nats": lambda value: f"{value:.5f}",
    "count": lambda value: f"{value:,.0f}",
    "rate": lambda value: f"{value:,.1f}",
    "number": lambda value: f"{value:.4g}",
    "p": _p,
    "usd": _usd,
    "bytes": _bytes,
    "duration": _duration,
}
