"""Kubernetes quantities: ``500m``, ``16Gi``, ``1e3``."""

import re
from fractions import Fraction

_FORM = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|(m|u|n|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei))?$")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def quantity(text: str) -> Fraction:
    """Exact; ValueError with the server's words when it is none."""
    found = _FORM.match(text)
    if not found:
        raise ValueError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    number = Fraction(found[1])
    if found[2]:
        return number * Fraction(10) ** int(found[2][1:])
    if found[3] in _BINARY:
        return number * 1024 ** _BINARY[found[3]]
    return number * Fraction(10) ** _DECIMAL.get(found[3] or "", 0)


def milli(text: str) -> int:
    """In thousandths, rounded up, as the scheduler counts."""
    return -((-quantity(text) * 1000) // 1)


def shown(amount: Fraction) -> str:
    """In the fewest signs: a whole number with the largest binary suffix that fits, else milli-units."""
    if amount.denominator != 1:
        return f"{int(amount * 1000)}m"
    whole = amount.numerator
    for suffix, power in reversed(_BINARY.items()):
        if whole and whole % 1024**power == 0:
            return f"{whole // 1024**power}{suffix}"
    return str(whole)
