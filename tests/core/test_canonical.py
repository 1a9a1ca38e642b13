"""Laws of canonical JSON and of the fingerprint."""

import datetime
import hashlib
import json
import re
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_assets.core import canonical
from ft_assets.core.canonical import canonical_json, fingerprint, sha256_file

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def shuffled(value):
    """The same value with every mapping's keys put in the opposite order."""
    if isinstance(value, dict):
        return {key: shuffled(inner) for key, inner in reversed(value.items())}
    return [shuffled(inner) for inner in value] if isinstance(value, list) else value


@given(VALUES)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_key_order_never_matters_and_the_text_reads_back(value):
    text = canonical_json(value)
    assert canonical_json(shuffled(value)) == text
    assert json.loads(text) == value


def test_one_value_one_text():
    assert canonical_json({"b": (1, 2), "a": "\u00fc"}) == '{"a":"\u00fc","b":[1,2]}'
    assert canonical_json(MappingProxyType({"b": 1, "a": 2})) == canonical_json({"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("different", "from_this"), [(1, True), (1, "1"), (None, "null"), ([], {}), ("e\u0301", "\u00e9"), (0, None)]
)
def test_different_values_have_different_texts(different, from_this):
    assert canonical_json(different) != canonical_json(from_this)


@pytest.mark.parametrize(
    "unknown",
    [Path("x"), datetime.date(2026, 1, 1), {1, 2}, b"bytes", Decimal("1"), object(), 1j],
    ids=lambda value: type(value).__name__,
)
def test_an_unknown_type_raises_and_says_where(unknown):
    with pytest.raises(TypeError, match=re.escape("$.stage.list[1]")):
        canonical_json({"stage": {"list": [0, unknown]}})


def test_a_key_that_is_no_text_raises():
    with pytest.raises(TypeError, match=r"\$\.inner has a key of type int"):
        canonical_json({"inner": {1: "one"}})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_raises_and_says_where(number):
    with pytest.raises(ValueError, match=r"\$\.rate"):
        canonical_json({"rate": number})


BASE = {
    "stage": "sft_adapter",
    "code_version": "1",
    "identity": {"seed": 1, "rate": 0.1},
    "upstream": {"base_model": "aa", "adapter": "bb"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "cpt_adapter"},
        {"code_version": "2"},
        {"identity": {"seed": 2, "rate": 0.1}},
        {"identity": {"seed": 1}},
        {"upstream": {"base_model": "aa", "adapter": "cc"}},
        {"upstream": {"base_model": "bb", "adapter": "aa"}},
        {"upstream": {}},
    ],
    ids=str,
)
def test_fingerprint_changes_with_each_input(change):
    assert fingerprint(**{**BASE, **change}) != fingerprint(**BASE)


def test_fingerprint_is_the_same_for_equal_inputs():
    again = {
        **BASE,
        "identity": {"rate": 0.1, "seed": 1},
        "upstream": MappingProxyType({"adapter": "bb", "base_model": "aa"}),
    }
    assert fingerprint(**again) == fingerprint(**BASE)
    assert re.fullmatch(r"[0-9a-f]{64}", fingerprint(**BASE))


def test_fingerprint_is_the_same_on_every_machine():
    """A new encoding would orphan every artifact ever made; change this value only with that in mind."""
    assert (
        fingerprint("sft_adapter", "1", {"seed": 17}, {"base_model": "aa"})
        == "c9eea3daf42ccf5afbf2708a756345b7486e5a182f651bca9c82397698bb8d9d"
    )


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 14, 20])
def test_a_file_hashes_the_same_in_pieces(tmp_path, monkeypatch, size):
    monkeypatch.setattr(canonical, "PIECE_BYTES", 7)
    content = bytes(range(size))
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_file_hash_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
