"""Metrics agree to 1e-6 with what others wrote, on fixed outputs, plain and odd."""

import json
import re
import warnings
from decimal import Decimal

import pytest
from pydantic_core import from_json
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer
from torchmetrics.functional.text import squad

from ft_assets.core.metrics.entities import entity_f1
from ft_assets.core.metrics.fields import json_field_f1, json_valid
from ft_assets.core.metrics.given_labels import label_accuracy, read_label
from ft_assets.core.metrics.numbers import numeric_answer, read_number
from ft_assets.core.metrics.texts import common_subsequence, exact_match, rouge_l, token_f1

CLOSE = 1e-6
TEXTS = [
    "",
    " ",
    "the",
    "The cat sat on the mat.",
    "the cat sat on a mat",
    "A cat, an owl; the dog!",
    "cat cat cat dog",
    "dog cat cat",
    "state-of-the-art isn't co_operative",
    "U.S. GDP rose 2.5% in 2024",
    "\tmany\n\nlines  and   spaces ",
    "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m",
    "cafe\u0301 combining",
    "\u041c\u043e\u0441\u043a\u0432\u0430 \u0441\u0442\u043e\u043b\u0438\u0446\u0430",
    "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd",
    "\U0001f600 smile \U0001f600",
    "\u0130stanbul \u00dfTRASSE",
    "zero\u200bwidth and\u00a0no-break",
    "\u2028line\u2029paragraph",
    '{"json": ["as", "text"]}',
    "!!! ... ,,,",
    "the a an",
    "a b c d e f g h " * 40,
    "h g f e d c b a " * 40,
]
PAIRS = [(answer, expected) for answer in TEXTS for expected in TEXTS]


def theirs_of_squad(answer, expected, key):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = squad(
            {"prediction_text": answer, "id": "1"}, {"answers": {"text": [expected], "answer_start": [0]}, "id": "1"}
        )
    return float(found[key]) / 100


def test_token_f1_is_that_of_squad():
    for answer, expected in PAIRS:
        assert token_f1(answer, expected) == pytest.approx(theirs_of_squad(answer, expected, "f1"), abs=CLOSE), (
            answer,
            expected,
        )


class Words(Tokenizer):
    """Runs of letters and digits of any script, character by character."""

    def tokenize(self, text):
        return "".join(each if each.isalnum() else " " for each in text.lower()).split()


@pytest.mark.parametrize("tokenizer", [None, Words()], ids=["as it is", "any script"])
def test_rouge_l_is_that_of_rouge_score(tokenizer):
    scorer = RougeScorer(["rougeL"], tokenizer=tokenizer)
    compared = 0
    for answer, expected in PAIRS:
        if tokenizer or (answer + expected).isascii():
            theirs = scorer.score(expected, answer)["rougeL"].fmeasure
            assert rouge_l(answer, expected) == pytest.approx(theirs, abs=CLOSE), (answer, expected)
            compared += 1
    assert compared > 100


def test_a_common_subsequence_by_hand():
    assert common_subsequence(list("ABCBDAB"), list("BDCABA")) == 4
    assert common_subsequence([], list("AB")) == common_subsequence(list("AB"), []) == 0


def test_exact_match_is_the_accuracy_of_scikit_learn():
    for answer, expected in PAIRS:
        assert exact_match(answer, expected) == accuracy_score([expected.strip()], [answer.strip()])


def f1_of_sets(found, wanted):
    """scikit-learn's F1 of two sets of pairs as labels of one sample."""
    unused = [("neither", "has"), ("nor", "this")]  # a sample of one column would be taken for a number
    rows = MultiLabelBinarizer(classes=[*sorted(found | wanted), *unused]).fit_transform([wanted, found])
    return f1_score(rows[:1], rows[1:], average="samples", zero_division=1)


ENTITIES = [
    {},
    {"Ann": "person"},
    {"Ann": "place"},
    {"Ann": "person", "Oslo": "place"},
    {"\u00c5se": "person", "\u6771\u4eac": "place", "\U0001f600": "other"},
    {"Ann": "person", "Oslo": "place", "Shell": "company", "": "person"},
]


def test_entity_f1_is_that_of_scikit_learn():
    for found in ENTITIES:
        for wanted in ENTITIES:
            theirs = f1_of_sets(set(found.items()), set(wanted.items()))
            assert entity_f1(json.dumps(found), json.dumps(wanted)) == pytest.approx(theirs, abs=CLOSE)


FIELDS = [  # a value, and its fields written out
    ({}, {("", "{}")}),
    ([], {("", "[]")}),
    (None, {("", "null")}),
    (1, {("", "1")}),
    (True, {("", "true")}),
    ("1", {("", '"1"')}),
    ({"a": 1, "b": {"c": "x"}}, {("/a", "1"), ("/b/c", '"x"')}),
    ({"a": "1", "b": {"c": "x", "d": None}}, {("/a", '"1"'), ("/b/c", '"x"'), ("/b/d", "null")}),
    ({"a": True, "b": {}}, {("/a", "true"), ("/b", "{}")}),
    ({"a": [1, 2, 2]}, {("/a/0", "1"), ("/a/1", "2"), ("/a/2", "2")}),
    ({"a": [2, 1, 2]}, {("/a/0", "2"), ("/a/1", "1"), ("/a/2", "2")}),
    ([{"n": 1, "t": "x"}, {"n": 2, "t": "y"}], {("/0/n", "1"), ("/0/t", '"x"'), ("/1/n", "2"), ("/1/t", '"y"')}),
    ([{"n": 1, "t": "y"}, {"n": 2, "t": "x"}], {("/0/n", "1"), ("/0/t", '"y"'), ("/1/n", "2"), ("/1/t", '"x"')}),
    ({"\u00e5": "\u6771\u4eac", "": ""}, {("/\u00e5", '"\u6771\u4eac"'), ("/", '""')}),
]


def test_json_field_f1_is_that_of_scikit_learn_on_fields_by_hand():
    for found, ours in FIELDS:
        for wanted, theirs in FIELDS:
            score = json_field_f1(json.dumps(found), json.dumps(wanted))
            assert score == pytest.approx(f1_of_sets(ours, theirs), abs=CLOSE), (found, wanted)


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        ('{"a": 1.0}', '{"a": 1}', 1),
        ('{"a": 1, "a": 2}', '{"a": 2}', 1),
        (' {"a":1}\n', '{"a": 1}', 1),
        ('{"a": 1', '{"a": 1}', 0),
        ('```json\n{"a": 1}\n```', '{"a": 1}', 0),
        ('{"a": NaN}', '{"a": 1}', 0),
        ("[" * 100_000, "[]", 0),
        ("9" * 5000, "9", 0),
        ("", "{}", 0),
        ('{"a": [[[[[1]]]]]}', '{"a": [[[[[1]]]]]}', 1),
    ],
)
def test_odd_json(answer, expected, score):
    assert json_field_f1(answer, expected) == score


def test_json_is_what_another_parser_takes():
    for text in (
        *TEXTS,
        *(json.dumps(value) for value, _ in FIELDS),
        "NaN",
        "[1,]",
        "{'a': 1}",
        '{"a": 01}',
        '"\\ud83d\\ude00"',
    ):
        try:
            from_json(text, allow_inf_nan=False)
            theirs = 1
        except ValueError:
            theirs = 0
        assert json_valid(text, "") == theirs, text


@pytest.mark.parametrize("answer", ["{}", "[]", "null", '"\u6771"', " 1e5 ", '{"a": [1, {"b": null}]}', "\n[]\t"])
def test_json_is_seen(answer):
    assert json_valid(answer, "") == 1


@pytest.mark.parametrize(
    "answer", ["", " ", "{", "{'a': 1}", "[1,]", "NaN", "-Infinity", "[] []", "Sure: {}", "[" * 9999]
)
def test_what_is_no_json_is_seen(answer):
    assert json_valid(answer, "{}") == 0


# gsm8k of lm-evaluation-harness: the last of these in the answer ("flexible-extract"), and what is left out of both.
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
IGNORED = re.compile(r",|\$|(?s:.*#### )|\.$")


def of_lm_eval(answer, expected):
    found = FLEXIBLE.findall(answer)
    last = next((each for each in found[-1] if each), "") if found else "[invalid]"
    return float(IGNORED.sub("", last).lower() == IGNORED.sub("", expected).lower())


SOLUTIONS = [
    "She sells 9 * 2 = 18 dollars.\n#### 18",
    "#### 18",
    "The total is $1,234.",
    "so 12,345,678 people",
    "That makes 18",
    "It is 18.50",
    "a loss of -7",
    "She pays $18.50 in all.",
    "no number at all",
    "",
    "17 or 18",
    "18 or 17",
    "0",
    "Answer: 18 apples",
    "99%",
    "\u7b54\u6848\u662f 18",
]


@pytest.mark.parametrize(
    "expected", ["Two steps.\n#### 18", "#### 1,234", "#### 12345678", "#### -7", "#### 99", "#### 0"]
)
def test_the_last_number_is_that_of_lm_eval(expected):
    for answer in SOLUTIONS:
        assert numeric_answer(answer, expected) == of_lm_eval(answer, expected), answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72.0", "72"),
        ("+5", "5"),
        ("\u22125 degrees", "-5"),
        ("-$5", "-5"),
        ("$ 5", "5"),
        ("10 - 5", "5"),
        ("x = -5", "-5"),
        ("pages 3-4", "4"),
        ("50 km2", "50"),
        ("H2O at 99.5%", "99.5"),
        ("1.5e3 volts", "1500"),
        (".5", "0.5"),
        ("12,34", "34"),
        ("1,234,567.89", "1234567.89"),
        ("#### 7 because 8", "7"),
        ("#### 7\nNo: #### 9", "9"),
        ("####", None),
        ("none", None),
        ("7" * 5000, "7" * 5000),
        ("\u0663", None),
    ],
)
def test_a_number_in_its_dress(text, number):
    assert read_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        ("Positive.", "positive", 1),
        (' "positive"\n', "positive", 1),
        ("**positive**", "positive", 1),
        ("positive sentiment", "positive", 0),
        ("", "positive", 0),
        ("STRASSE", "stra\u00dfe", 1),
        ("\uff50\uff4f\uff53\uff49\uff54\uff49\uff56\uff45", "positive", 1),
    ],
)
def test_a_label_in_its_dress(answer, expected, score):
    assert label_accuracy(answer, expected) == score
    assert read_label(read_label(answer)) == read_label(answer)


@pytest.mark.parametrize("metric", [json_field_f1, numeric_answer])
def test_an_expected_answer_that_cannot_be_read_raises(metric):
    with pytest.raises(ValueError, match="no use at all"):
        metric("1", "no use at all")
