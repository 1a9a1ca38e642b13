"""Which language a row is written in, told by py3langid (97 languages, its model inside the package)."""

from typing import Any

from ft_assets.core.reasons import Reason, RowFault
from ft_assets.core.texts import texts

FEWEST_LETTERS = 20
MOST_CHARACTERS = 2000


def foreign(rows: dict[int, dict[str, Any]], wanted: list[str]) -> dict[int, RowFault]:
    """Rows that read as another language than those wanted (ISO 639-1 codes); none where nothing is wanted.

    A row with fewer than :data:`FEWEST_LETTERS` letters is too short to tell and passes; of a long one the beginning is
    read.
    """
    if not wanted:
        return {}
    import py3langid

    faults = {}
    for index, row in rows.items():
        text = "\n".join(texts(row))[:MOST_CHARACTERS]
        if sum(map(str.isalpha, text)) < FEWEST_LETTERS:
            continue
        found, _ = py3langid.classify(text)
        if found not in wanted:
            faults[index] = RowFault(Reason.LANGUAGE, f"reads as {found}; the source wants {', '.join(wanted)}")
    return faults
