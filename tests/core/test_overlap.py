"""Laws of decontamination: a run of words of an evaluation row is found wherever it stands, and its place is named."""

import pytest

from ft_assets.core.overlap import contaminated, evaluation_grams

N = 5
SECRET = "seven pale otters juggled nineteen copper kettles yesterday"


def grams(texts, name="test", n=N):
    return evaluation_grams([(name, texts, [f"t@1 row {at + 1}" for at in range(len(texts))])], n)


def rows(count, wording="please answer the following question in one short sentence:"):
    return [f"{wording} " + " ".join(f"fact{at}word{k}" for k in range(8)) for at in range(count)]


def test_a_run_of_words_in_the_middle_of_a_row_is_found_and_its_place_named():
    texts = ["nothing of it", f"It is said that {SECRET.upper()}, and that was that.", "nor here"]
    assert contaminated(texts, grams(["unlike any other text here", SECRET])) == {1: "test t@1 row 2"}


@pytest.mark.parametrize("shared", range(1, 9))
def test_as_many_words_as_an_ngram_has_are_found_and_one_less_is_not(shared):
    text = "before " + " ".join(SECRET.split()[:shared]) + " after"
    assert bool(contaminated([text], grams([SECRET]))) == (shared >= N)


def test_marks_case_and_width_hide_nothing():
    assert contaminated(["\u201cSeven\u201d pale\u2014Otters \uff4auggled\nnine\u200bteen!"], grams([SECRET]))


def test_words_in_another_order_are_not_found():
    assert not contaminated([" ".join(reversed(SECRET.split()))], grams([SECRET]))


def test_the_first_hit_of_a_row_names_the_place():
    evaluated = grams(["alpha beta gamma delta epsilon", SECRET])
    text = f"{SECRET} and alpha beta gamma delta epsilon"
    assert contaminated([text, "x"], evaluated) == {0: "test t@1 row 2"}


def test_the_first_row_that_holds_an_ngram_is_its_place():
    assert set(grams([SECRET, SECRET + " twice"]).places) == {"test t@1 row 1", "test t@1 row 2"}
    assert contaminated([SECRET], grams(["x", SECRET, SECRET + " twice"])) == {0: "test t@1 row 2"}


@pytest.mark.parametrize("count", [4, 20, 100])
def test_wording_that_the_set_repeats_contaminates_nothing(count):
    evaluated = grams(rows(count))
    wording = "Please answer the following question in one short sentence: who was it?"
    assert not contaminated([wording], evaluated)
    assert contaminated(["fact2word0 fact2word1 fact2word2 fact2word3 fact2word4"], evaluated)


def test_a_row_that_the_set_repeats_is_no_wording():
    written = [SECRET, SECRET.upper(), SECRET.title(), f" {SECRET}", SECRET.replace(" ", "  "), SECRET.capitalize()]
    assert contaminated([SECRET], grams([*written, *rows(20)]))


def test_wording_of_a_small_part_of_a_large_set_is_its_own():
    texts = rows(100)
    texts[10:14] = [f"{SECRET} {at}" for at in range(4)]
    assert contaminated([SECRET], grams(texts)), "4 of 100 rows on one passage"


def test_each_set_has_its_own_wording():
    wording = "please answer the following question"
    both = [("test", rows(8), list("abcdefgh")), ("safety", [wording + " now"], ["s@1 row 1"])]
    assert contaminated([wording], evaluation_grams(both, N)) == {0: "safety s@1 row 1"}


@pytest.mark.parametrize("text", ["", "?", "one two", "a b c d"])
def test_an_evaluation_text_shorter_than_an_ngram_contaminates_nothing(text):
    evaluated = grams([text])
    assert len(evaluated.hashes) == 0
    assert not contaminated([text, text + " and more words than that"], evaluated)


def test_a_text_of_exactly_one_ngram_is_found():
    assert contaminated(["x a b c d e y"], grams(["a b c d e"]))


def test_without_evaluation_rows_or_training_rows_nothing_is_found():
    assert contaminated([SECRET], evaluation_grams([], N)) == {}
    assert contaminated([], grams([SECRET])) == {}
    assert contaminated(["", "?"], grams([SECRET])) == {}


def test_chinese_which_has_no_spaces_is_searched_too():
    assert contaminated(
        ["\u6211\u542c\u8bf4\u4eca\u5929\u5929\u6c14\u5f88\u597d\u554a"],
        grams(["\u4eca\u5929\u5929\u6c14\u5f88\u597d"]),
    )
