"""The number that an answer ends with."""

import re
from decimal import Decimal

# A sign or a digit that goes on a word or another number ("km2", "3-4") begins none.
_NUMBER = re.compile(
    r"(?:(?<![\w.)])([-+\u2212]))?[$\u20ac\u00a3\u00a5]?(?<![\w.])"
    r"((?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE]([-+]?[0-9]{1,3})(?![0-9]))?"
)
MARK = "####"


def read_number(text: str) -> Decimal | None:
    """The number after the last ``####``, where GSM8K puts the result, else the last number of the text; None without one.

    English numerals: commas part thousands, a point the fraction; a sign, a currency before and a unit or a full stop
    behind are no hindrance. A fraction such as 1/2 is read as its last number.
    """
    _, mark, after = text.rpartition(MARK)
    found = list(_NUMBER.finditer(after if mark else text))
    if not found:
        return None
    sign, digits, exponent = (found[0] if mark else found[-1]).groups()
    value = Decimal(f"{digits.replace(',', '')}e{exponent or 0}")
    return -value if sign in ("-", "\u2212") else value


def numeric_answer(answer: str, expected: str) -> float:
    """1 where the answer's number is the expected one, as numbers (72 is 72.0), else 0 (GSM8K, Cobbe et al., 2021, arXiv
    2110.14168).

    Raises:
        ValueError: the expected answer has no number.
    """
    wanted = read_number(expected)
    if wanted is None:
        raise ValueError(f"the expected answer has no number: {expected[:200]!r}")
    return float(read_number(answer) == wanted)
