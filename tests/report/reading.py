"""The evaluation page read back: what it shows of which fact, and what stands on it beside."""

import re
from html.parser import HTMLParser

SKIPPED = ("style", "svg", "title")
VOID = ("meta", "br")
UNITS = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1.0, "h": 3600.0, "min": 60.0, "s": 1.0, "ms": 1e-3}
NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?\d[\d,.]*%?")
OF_THE_METHOD = ("95%",)  # said of how it was measured, not of what was found


class Page(HTMLParser):
    """``marks``: fact, form (None of a text) and what is shown of it; ``beside``: every other text a reader sees."""

    def __init__(self, html: str):
        super().__init__()
        self.marks: list[tuple[str, str | None, str]] = []
        self.beside = ""
        self._open: list[tuple[str, dict]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"{self._open} was never closed"

    def handle_starttag(self, tag, attrs):
        if tag in VOID:
            return
        about = dict(attrs)
        self._open.append((tag, about))
        if "data-fact" in about:
            self.marks.append((about["data-fact"], about.get("data-form"), ""))

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        opened, _ = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data):
        if any(tag in SKIPPED for tag, _ in self._open):
            return
        if not any("data-fact" in about for _, about in self._open):
            self.beside += data
            return
        if self._open[-1][1].get("class") == "unseen":
            data = chr(int(data.removeprefix("U+"), 16))
        path, form, shown = self.marks[-1]
        self.marks[-1] = (path, form, shown + data)

    def numbers_beside(self) -> list[str]:
        """Numbers that say of no fact that they are it."""
        return [found for found in NUMBER.findall(self.beside) if found not in OF_THE_METHOD]


def read_back(shown: str) -> tuple[float, float]:
    """The least and the greatest number that would be shown so; knows nothing of how it is done."""
    if shown.startswith("< "):
        return 0.0, float(shown[2:])
    match = re.fullmatch(r"([+\u2212-]?)\$?(\d[\d,]*)(\.\d+)?(e[-+]\d+)?(%| [A-Za-z]+)?", shown)
    assert match, f"{shown!r} is no number"
    sign, whole, places, power, unit = match.groups()
    scale = 0.01 if unit == "%" else UNITS[unit.strip()] if unit else 1.0
    scale *= float(f"1{power}") if power else 1.0
    value = float(whole.replace(",", "") + (places or "")) * scale
    half = 0.5 * 10.0 ** -(len(places) - 1 if places else 0) * scale
    value = -value if sign in ("-", "\u2212") else value
    return value - half, value + half
