"""Laws of what is printed of a fact."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import Markup
from reading import Page, read_back

from ft_assets.report.forms import FORMS
from ft_assets.report.marks import Fact, at, look_up, marked, number, plain, visible

TEXTS = st.text(st.characters(codec=None, categories=None), max_size=60)


@pytest.mark.parametrize("form", FORMS)
@given(st.floats(0, 1e13) | st.floats(0, 1) | st.integers(0, 10**9))
def test_a_number_read_back_from_the_page_is_the_fact(form, value):
    low, high = read_back(FORMS[form](value))
    if form == "number":  # four significant digits
        low, high = min(low, value * 0.9995), max(high, value * 1.0005)
    slack = 1e-9 * max(1.0, abs(value))
    assert low - slack <= value <= high + slack


@pytest.mark.parametrize("form", ["score", "share", "nats", "perplexity", "count", "number"])
@given(st.floats(-1e6, 0) | st.floats(-1e-3, 0))
def test_a_number_below_nothing_has_a_minus_and_none_that_shows_as_nothing_has(form, value):
    shown = FORMS[form](value)
    low, high = read_back(shown)
    slack = 5e-4 * abs(value) + 1e-9
    assert low - slack <= value <= high + slack
    assert shown.startswith("\u2212") == any(digit in "123456789" for digit in shown.partition("e")[0])


@given(st.floats(-1, 1))
def test_a_difference_has_its_sign(value):
    shown = FORMS["difference"](value)
    assert shown[0] in "+\u2212"
    assert read_back(shown)[0] - 1e-12 <= value <= read_back(shown)[1] + 1e-12


@given(TEXTS.filter(lambda text: "\r" not in text))
@example("\ud800 \u202eevil\x1b[31m <script>alert(1)</script> &amp; \u200d\u2028\U000e0041")
def test_a_text_is_shown_whole_and_can_neither_act_nor_hide(text):
    html = Fact({"a": text})["a"].__html__()
    assert Page(f"<p>{html}</p>").marks == [("/a", None, text)]
    shown = str(visible(text))
    assert not any(
        0x202A <= ord(char) <= 0x202E or 0x2066 <= ord(char) <= 0x2069 or char in "\x00\x1b\u200b" for char in shown
    )
    shown.encode("utf-8")


def test_a_number_without_a_form_is_an_error():
    with pytest.raises(TypeError, match="/a/0 is no text"):
        Fact({"a": [0.5]})["a"][0].__html__()


def test_what_was_not_measured_is_a_dash():
    assert "not measured" in number(Fact({"a": None})["a"], "score")
    assert "not measured" in number(at(Fact({"a": {}}), "a/b/c"), "score")


@given(st.text(min_size=1, max_size=10))
def test_a_path_is_a_json_pointer(key):
    fact = Fact({key: [{"x": 1.5}]})[key][0]["x"]
    assert look_up({key: [{"x": 1.5}]}, fact._path) == 1.5


def test_a_sentence_says_the_same_on_the_page_and_in_plain_text():
    facts = {"a": 0.25, "b": "<b>\u202e", "told": ["{/b} scores {/a|score}, it's \u2265 0"]}
    html = marked(Fact(facts)["told"][0], Fact(facts))
    assert isinstance(html, Markup)
    page = Page(f"<p>{html}</p>")
    assert page.marks == [("/b", None, "<b>\u202e"), ("/a", "score", "0.250")]
    assert plain(facts["told"][0], facts) == "<b>\u202e scores 0.250, it's \u2265 0"
    assert math.isclose(read_back(page.marks[1][2])[0], 0.2495)
