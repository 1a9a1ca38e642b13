"""Laws of the language filter: rows in another language than the source wants go, short ones stay."""

import batches as batch
import containers as box
import pytest

from ft_assets.recipes.schema import Source

TEXTS = {
    "en": "The quick brown fox jumps over the lazy dog and runs into the forest behind the old house.",
    "de": "Der schnelle braune Fuchs springt \u00fcber den faulen Hund und l\u00e4uft in den Wald hinter dem Haus.",
    "fr": "Le renard brun et rapide saute par-dessus le chien paresseux et court vers la for\u00eat derri\u00e8re la maison.",
    "zh": "\u654f\u6377\u7684\u68d5\u8272\u72d0\u72f8\u8df3\u8fc7\u4e86\u61d2\u72d7\uff0c\u7136\u540e\u8dd1\u8fdb\u4e86\u8001\u623f\u5b50\u540e\u9762\u7684\u68ee\u6797\u3002",
}
SHORT = "Oui."


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [([], [*TEXTS]), (["en"], ["en"]), (["de", "zh"], ["de", "zh"])],
)
def test_rows_in_a_language_that_is_not_wanted_go(tmp_path, wanted, kept):
    source = Source(kind="text", location="x", format="text", licence="MIT", languages=wanted)
    rows = [{"text": text} for text in [*TEXTS.values(), SHORT, "1 + 1 = 2, 2 + 2 = 4, 3 + 3 = 6, 4 + 4 = 8"]]
    found = batch.validate(source, box.written(tmp_path, "a.jsonl", box.json_lines(rows)))
    assert found.rows["text"].to_list() == [*(TEXTS[name] for name in kept), *(row["text"] for row in rows[-2:])]
    assert found.counts() == ({"language": len(TEXTS) - len(kept)} if wanted else {})
    assert all(f"wants {', '.join(wanted)}" in detail for detail in found.quarantine["detail"])
