"""Laws of answers side by side."""

from hypothesis import given
from hypothesis import strategies as st

from ft_assets.report.examples import MOST_CHARACTERS, cut, difference

TEXTS = st.text(st.sampled_from("ab ,{}\n"), max_size=40)


@given(TEXTS, TEXTS)
def test_pieces_make_up_the_answer_and_what_was_expected(answer, expected):
    pieces = difference(answer, expected)
    assert "".join(text for what, text in pieces if what != "missing") == answer
    if pieces and pieces[0][0] != "other":
        assert "".join(text for what, text in pieces if what != "extra") == expected


def test_only_the_word_that_differs_is_marked():
    assert difference('{"Ada": "place"}', '{"Ada": "person"}') == [
        ("same", '{"Ada": "'),
        ("missing", "person"),
        ("extra", "place"),
        ("same", '"}'),
    ]


def test_an_answer_of_another_kind_is_not_marked_word_by_word():
    assert difference("I do not know.", '{"Ada": "person"}') == [("other", "I do not know.")]


@given(st.text(max_size=5), st.integers(0, 3 * MOST_CHARACTERS))
def test_a_text_is_cut_with_a_count_of_what_is_left_out(text, times):
    shown = cut(text * times)
    assert len(shown["text"]) + shown["more"] == len(text * times)
    assert len(shown["text"]) <= MOST_CHARACTERS
