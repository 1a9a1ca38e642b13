"""Personal data and secrets in rows: found, and then quarantined or redacted.

Patterns find candidates and a check decides: phone numbers are read by phonenumbers, card numbers must pass Luhn's check
(ISO/IEC 7812-1), addresses must be of the public internet. What has no form of its own (names, streets) is not found.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl

from ft_assets.core.reasons import Reason, RowFault
from ft_assets.core.texts import rewritten, texts

# A row without any of these holds none of the kinds below; most rows stop here.
BETWEEN_DIGITS = r"\d ().:/\u00a0\u2010-\u2015\u2212-"
HINT = re.compile(
    rf"@|\d[{BETWEEN_DIGITS}]{{5,}}\d|\d\.\d+\.\d|:[0-9a-fA-F]{{0,4}}:|[A-Za-z0-9_-]{{20}}|eyJ|PRIVATE KEY"
)
PHONE_HINT = re.compile(rf"\d[{BETWEEN_DIGITS}]{{5,}}\d")
BREAK = r"(?:\\[nr]|\s)*+"  # Between the lines of a key, which may stand in a JSON string.
KEYS = (
    r"A(?:KIA|SIA)[A-Z0-9]{16}\b",
    r"AIza[A-Za-z0-9_-]{35}",
    r"eyJ(?<![\w-]eyJ)[A-Za-z0-9_-]{8,4096}+\.eyJ[A-Za-z0-9_-]{8,4096}+\.[A-Za-z0-9_-]{8,4096}",
    r"gh[pousr]_[A-Za-z0-9]{36,255}\b",
    r"github_pat_[A-Za-z0-9_]{40,255}\b",
    r"glpat-[A-Za-z0-9_-]{20,64}",
    r"hf_[A-Za-z0-9]{30,64}\b",
    r"sk-[A-Za-z0-9_-]{20,255}",
    r"[rs]k_live_[A-Za-z0-9]{16,255}\b",
    r"xox[abeoprs]-[A-Za-z0-9-]{15,255}",
)
# The whole block; without its end, the lines that can only be of a key.
PRIVATE_KEY = (
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----"
    rf"(?:{BREAK}(?:Proc-Type|DEK-Info):[^\n\\]{{1,100}})*+(?:{BREAK}[A-Za-z0-9+/=]{{16,}}+)*+"
    rf"(?:(?:{BREAK}[A-Za-z0-9+/=]{{1,15}}+)?+{BREAK}-----END [A-Z ]{{0,20}}PRIVATE KEY-----)?"
)
# Each pattern starts at a border and is bounded, so that the time to search a text grows with its length alone.
PATTERNS = {
    "key": re.compile(rf"\b(?:{'|'.join(KEYS)})|{PRIVATE_KEY}"),
    "email": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"),
    "card": re.compile(r"(?<![\d.])(?:2[2-7]\d\d|[3-6]\d{3})(?:[ -]?\d){9,15}(?![\d.]?\d)"),
    "ip": re.compile(
        r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]?\d)|(?<![\w:])(?:[0-9a-fA-F]{1,4}::?){2,7}[0-9a-fA-F]{1,4}(?![\w:])"
    ),
}


def treat(rows: dict[int, dict[str, Any]], policy: str, region: str, redacted: Counter[str]) -> dict[int, RowFault]:
    """Applies a source's ``personal_data``: the faults of rows to quarantine; redacted rows are replaced in ``rows``.

    Args:
        policy: ``keep``, ``redact`` or ``quarantine``.
        region: the country (ISO 3166, two letters) whose national phone numbers are known as such.
        redacted: counts the pieces taken out, by kind.
    """
    if policy == "keep":
        return {}
    faults = {}
    everything = pl.Series(["\n".join(texts(row)) for row in rows.values()], dtype=pl.String)
    hinted = everything.str.contains(HINT.pattern)  # Several times as fast as a loop.
    for index in [index for index, hint in zip(rows, hinted, strict=True) if hint]:
        row = rows[index]
        if policy == "redact":
            rows[index] = rewritten(row, lambda text: redact(text, region, redacted))
            continue
        found = Counter(kind for text in texts(row) for kind, _, _ in spans(text, region))
        if found:
            detail = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
            faults[index] = RowFault(Reason.PERSONAL_DATA, f"holds personal data or a secret: {detail}")
    return faults


def redact(text: str, region: str, counts: Counter[str]) -> str:
    """The text with each find replaced by its kind: ``write to [EMAIL]``."""
    pieces, at = [], 0
    for kind, start, end in sorted(spans(text, region), key=lambda span: span[1]):
        pieces += [text[at:start], f"[{kind.upper()}]"]
        counts[kind] += 1
        at = end
    return "".join([*pieces, text[at:]])


def spans(text: str, region: str) -> Iterator[tuple[str, int, int]]:
    """Kind, start and end of each piece of personal data; no two of them overlap."""
    taken = bytearray(len(text))
    for kind, start, end in _candidates(text, region):
        if not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            yield kind, start, end


def _candidates(text: str, region: str) -> Iterator[tuple[str, int, int]]:
    for kind, pattern in PATTERNS.items():
        for match in pattern.finditer(text):
            if CHECKS.get(kind, bool)(match[0]):
                yield kind, match.start(), match.end()
    if PHONE_HINT.search(text):
        import phonenumbers

        tries = len(text) + 1  # By itself it gives up after 65,535 candidates.
        for phone in phonenumbers.PhoneNumberMatcher(text, region, max_tries=tries):
            alone = phone.raw_string.startswith("(") and ")" not in phone.raw_string
            yield "phone", phone.start + alone, phone.end


def luhn(number: str) -> bool:
    """Whether the digits' weighted sum is a multiple of ten, as on every payment card."""
    digits = [int(sign) for sign in number if sign.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _public_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


CHECKS: dict[str, Callable[[str], bool]] = {"card": luhn, "ip": _public_address}
