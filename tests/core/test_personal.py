"""Laws of personal data: what has a known form is found, look-alikes are not, and no text takes more than its length in time."""

import json
import re
import time
from collections import Counter
from itertools import pairwise

import batches as batch
import containers as box
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_assets.core import personal
from ft_assets.recipes.schema import Source

PEM = "-----BEGIN RSA PRIVATE KEY-----\n{}-----END RSA PRIVATE KEY-----"
BODY = ("MIIEowIBAAKCAQEAx" * 4 + "\n") * 5 + "abc=\n"
FOUND = [
    ("email", "ann@example.com"),
    ("email", "bob.o+list@mail.example.co.uk"),
    ("email", "j\u00fcrgen@b\u00fccher.example"),
    ("phone", "(415) 555-2671"),
    ("phone", "650-253-0000"),
    ("phone", "650\u2013253\u20130000"),
    ("phone", "+44 20 7946 0018"),
    ("phone", "+49 30 901820"),
    ("ip", "8.8.8.8"),
    ("ip", "2606:4700:4700::1111"),
    ("ip", "2001:4860:4860:0:0:0:0:8888"),
    ("card", "4111 1111 1111 1111"),
    ("card", "5555-5555-5555-4444"),
    ("card", "378282246310005"),
    ("card", "2223003122003222"),
    ("key", "AKIAIOSFODNN7EXAMPLE"),
    ("key", "ghp_" + "a1" * 18),
    ("key", "github_pat_" + "a1" * 20),
    ("key", "glpat-" + "a1" * 10),
    ("key", "hf_" + "aB" * 17),
    ("key", "xoxb-123456789012-abcdefghij"),
    ("key", "AIza" + "b" * 35),
    ("key", "sk-proj-" + "a1" * 12),
    ("key", "sk_live_" + "a1" * 12),
    ("key", "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeK"),
    ("key", PEM.format(BODY)),
    ("key", PEM.format(BODY).replace("\n", "\\n")),
    ("key", PEM.format("Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0A1B\n\n" + BODY)),
]
NOT_FOUND = [
    "4111 1111 1111 1112",  # Luhn says no.
    "20240101123456",
    "192.168.0.1",
    "127.0.0.1",
    "999.1.1.1",
    "fe80::1",
    "::1",
    "version 1.2.3.4.5",
    "at 10:30:15",
    "std::vector::iterator",
    "me @ home",
    "@decorator",
    "a@b",
    "1234567890123456789012345",
    "3.14159265358979",
    "2024-01-01 10:20:30",
    "sk-short",
    "risk-adjusted-returns-of-the-market",
    "-----BEGIN PUBLIC KEY-----",
    "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
]
AROUND = [("", ""), ("Look: ", "."), ("(", ")"), ('"', '"'), ("\n", "\n"), ("\u00e9 ", " \u00e9")]


@pytest.mark.parametrize(("kind", "text"), FOUND, ids=[f"{n}-{kind}" for n, (kind, _) in enumerate(FOUND)])
def test_what_has_a_known_form_is_taken_out_whole(kind, text):
    for before, after in AROUND:
        counts = Counter()
        assert personal.redact(before + text + after, "US", counts) == f"{before}[{kind.upper()}]{after}"
        assert counts == {kind: 1}


@pytest.mark.parametrize("text", NOT_FOUND)
def test_a_look_alike_is_left(text):
    for before, after in AROUND:
        assert personal.redact(before + text + after, "US", counts := Counter()) == before + text + after
        assert not counts


def test_of_a_key_whose_end_is_cut_off_no_line_is_left():
    text = "-----BEGIN PRIVATE KEY-----\n" + BODY.removesuffix("abc=\n")
    assert personal.redact(text + "The rest.", "US", Counter()) == "[KEY]\nThe rest."


def test_a_national_phone_number_is_one_in_its_country_alone():
    found = {region: [kind for kind, _, _ in personal.spans("Ruf 030 901820 an", region)] for region in ("DE", "US")}
    assert found == {"DE": ["phone"], "US": []}


@given(st.lists(st.sampled_from([text for _, text in FOUND] + NOT_FOUND) | st.text(max_size=8), max_size=6))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_finds_do_not_overlap_and_a_row_with_one_goes(parts):
    text = " ".join(parts)
    found = sorted((start, end) for _, start, end in personal.spans(text, "US"))
    assert all(end <= start for (_, end), (start, _) in pairwise(found))
    assert bool(personal.treat({7: {"text": text}}, "quarantine", "US", Counter())) == bool(found)


UNITS = [
    *("a", "1", "1 ", "1.", "a.", "ab:", "::", "a@", "+1", "\u00e9.", "1-2-3-", "1((((((( ", "12/34/56 "),
    *("a@b.co ", "8.8.8.8 ", "4111 ", "(415) 555-2671 ", "sk-", "eyJaaaaaaaaa-", "eyJaaaaaaaaa.eyJaaaaaaa"),
    *(
        "-----BEGIN PRIVATE KEY-----\nAAAA",
        "-----BEGIN PRIVATE KEY-----",
        "ghp_" + "a" * 30 + " ",
        "\\n",
        "AKIA",
        "5 " * 9,
    ),
    *("a" * 64 + "@", "a@" + "b" * 62, "-----BEGIN PRIVATE KEY-----\nProc-Type:\n"),
]
REGEXES = {"hint": personal.HINT, "phone hint": personal.PHONE_HINT, **personal.PATTERNS}


def seconds(pattern, text):
    began = time.process_time()
    for _ in pattern.finditer(text):
        pass
    return time.process_time() - began


@pytest.mark.parametrize("name", REGEXES)
def test_a_pattern_takes_time_in_proportion_to_the_text(name):
    """16 times the text, a megabyte, takes no more than about 16 times as long; in its square it would be 256 times."""
    for unit in UNITS:
        short, long = ((unit * size)[:size] for size in (2**16, 2**20))
        assert seconds(REGEXES[name], long) < 40 * seconds(REGEXES[name], short) + 0.1, unit


@pytest.mark.parametrize("unit", ["a@b.co ", "8.8.8.8 ", "(415) 555-2671 ", "4111 ", "\\n-----BEGIN PRIVATE KEY-----"])
def test_many_finds_in_one_text_take_time_in_proportion(unit):
    took = []
    for size in (2**13, 2**16):
        began = time.process_time()
        personal.redact((unit * size)[:size], "US", Counter())
        took.append(time.process_time() - began)
    assert took[1] < 20 * took[0] + 0.1


ROWS = [
    {"instruction": "Who?", "output": "Write to ann@example.com, or bob@example.com."},
    {"instruction": "Call (415) 555-2671", "output": "From 8.8.8.8."},
    {"instruction": "Nothing here", "output": "At all."},
]


@pytest.mark.parametrize(
    ("policy", "kept", "reasons", "redacted"),
    [
        ("keep", [0, 1, 2], {}, {}),
        ("quarantine", [2], {"personal_data": 2}, {}),
        ("redact", [0, 1, 2], {}, {"email": 2, "phone": 1, "ip": 1}),
    ],
)
def test_a_source_says_what_is_done_with_personal_data(tmp_path, policy, kept, reasons, redacted):
    source = Source(kind="instruction", location="x", format="alpaca", licence="MIT", personal_data=policy)
    found = batch.validate(source, box.written(tmp_path, "a.jsonl", box.json_lines(ROWS)))
    assert [position - 1 for position in found.rows["position"]] == kept
    assert (found.counts(), dict(found.found.redacted)) == (reasons, redacted)
    text = json.dumps(found.rows.to_dicts())
    assert ("@example.com" in text) == (policy == "keep")
    assert len(re.findall(r"\[(?:EMAIL|PHONE|IP)\]", text)) == sum(redacted.values())


def test_rows_that_are_the_same_once_redacted_are_kept_once(tmp_path):
    source = Source(kind="text", location="x", format="text", licence="MIT", personal_data="redact")
    rows = [{"text": f"Write to {name}@example.com today."} for name in ("ann", "bob")]
    found = batch.validate(source, box.written(tmp_path, "a.jsonl", box.json_lines(rows)))
    assert (found.rows["text"].to_list(), found.counts()) == (["Write to [EMAIL] today."], {"exact_duplicate": 1})
