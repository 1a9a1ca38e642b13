"""How a number is written on the page and in the verdict; each form by name, so that a test can read it back."""

import math
import re
from collections.abc import Callable
from functools import partial

MINUS = "\u2212"
BYTES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
SECONDS = (("h", 3600.0, 100 * 60.0), ("min", 60.0, 100.0), ("s", 1.0, 1.0), ("ms", 1e-3, 0.0))


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", MINUS)


def _fixed(places: int, value: float) -> str:
    """With so many places; what they make nothing has no sign."""
    text = f"{value:,.{places}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", MINUS)


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
    "score": partial(_fixed, 3),
    "difference": _signed,
    "share": lambda value: f"{_fixed(1, 100 * value)}%",
    "agreement": lambda value: f"{_fixed(2, 100 * value)}%",
    "ratio": partial(_fixed, 3),
    "perplexity": partial(_fixed, 2),
    "nats": partial(_fixed, 5),
    "count": partial(_fixed, 0),
    "rate": partial(_fixed, 1),
    "number": lambda value: re.sub("^-", MINUS, f"{value or 0:.4g}"),
    "p": _p,
    "usd": _usd,
    "bytes": _bytes,
    "duration": _duration,
}
