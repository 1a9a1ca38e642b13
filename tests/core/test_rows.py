"""Laws of validation: each row is kept or quarantined with its reason, and nothing in a file can stop the reading."""

import json
import re
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path

import batches as batch
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_assets.core.reasons import Reason
from ft_assets.core.split import prompt_hash
from ft_assets.recipes.demo_data.generate import PLANTED, write
from ft_assets.recipes.load import SHIPPED, load_catalog
from ft_assets.recipes.schema import FORMATS, Source

KINDS = {form: kind for kind, forms in FORMATS.items() for form in forms if form != "oasst"}
JOINED = {  # Given when batches are joined and tokenized, not here.
    Reason.NEAR_DUPLICATE,
    Reason.REVERSED_PAIR,
    Reason.CONTAMINATION,
    Reason.TEMPLATE_FAILURE,
    Reason.NO_SUPERVISED_TOKEN,
    Reason.NOT_SAMPLED,
    Reason.OVER_LIMIT,
}
ELSEWHERE = {Reason.OVERSIZED, Reason.UNREADABLE, Reason.LANGUAGE}  # Faults of a file, and of a setting: own tests.


def source(form, **settings):
    return Source(kind=KINDS[form], location="here", format=form, licence="MIT", **settings)


def line(value):
    return json.dumps(value).encode()


def alpaca(question="How much?", answer="Three.", **more):
    return line({"instruction": question, "output": answer, **more})


def messages(*turns):
    return line({"messages": [{"role": role, "content": content} for role, content in turns]})


def preference(chosen="Right.", rejected="Wrong.", prompt="Which?"):
    return line({"prompt": prompt, "chosen": chosen, "rejected": rejected})


def sharegpt(*turns):
    return line({"conversations": [{"from": who, "value": said} for who, said in turns]})


def hh(question, chosen, rejected):
    start = f"\n\nHuman: {question}\n\nAssistant: "
    return line({"chosen": start + chosen, "rejected": start + rejected})


def comparison(question, verdict):
    return line({"instruction": question, "response1": "Yes.", "response2": "No.", "verdict": verdict})


def choice(question="Question 0?", choices=("Yes.", "No."), answer=1):
    return line({"question": question, "choices": choices, "answer": answer})


GOOD = {
    "text": [line({"text": f"Some text, number {n}."}) for n in range(2)],
    "alpaca": [alpaca(f"Question {n}?") for n in range(2)],
    "messages": [
        messages(("system", "Be brief."), ("user", f"Question {n}?"), ("assistant", "Yes.")) for n in range(2)
    ],
    "preference": [preference(prompt=f"Question {n}?") for n in range(2)],
    "prompt": [line({"prompt": f"Question {n}?", "label": "harmless"}) for n in range(2)],
    "sharegpt": [sharegpt(("human", f"Question {n}?"), ("gpt", "Yes.")) for n in range(2)],
    "prompt_completion": [line({"prompt": f"Question {n}?", "completion": "Yes."}) for n in range(2)],
    "question_answer": [line({"question": f"Question {n}?", "answer": "Yes."}) for n in range(2)],
    "hh_rlhf": [hh(f"Question {n}?", "Yes.", "No.") for n in range(2)],
    "comparison": [comparison(f"Question {n}?", 1) for n in range(2)],
    "classification": [line({"text": f"Some text, number {n}.", "label": "good"}) for n in range(2)],
    "multiple_choice": [choice(f"Question {n}?") for n in range(2)],
}
USER, ASSISTANT = ("user", "Hi."), ("assistant", "Hello.")

CASES = [
    ("alpaca", b"not json", Reason.MALFORMED),
    ("alpaca", b'{"instruction": "cut off in the mid', Reason.MALFORMED),
    ("alpaca", alpaca() + b" " + alpaca(), Reason.MALFORMED),
    ("alpaca", b'{"instruction": "a\x00b", "output": "c"}', Reason.MALFORMED),
    ("alpaca", b'{"instruction": "\\ud83d", "output": "c"}', Reason.MALFORMED),
    ("alpaca", b'{"instruction": "a", "output": "c", "\\udfff": 1}', Reason.MALFORMED),
    ("alpaca", b'{"instruction": "a", "output": "c", "score": NaN}', Reason.MALFORMED),
    ("alpaca", b'{"instruction": "a", "output": "c", "score": Infinity}', Reason.MALFORMED),
    ("alpaca", b'{"instruction": "a", "output": "c", "score": -Infinity}', Reason.MALFORMED),
    ("alpaca", b'{"instruction": "a", "output": "c", "output": "d"}', Reason.MALFORMED),
    ("alpaca", b'{"instruction": "a", "output": "c", "more": {"x": 1, "x": 1}}', Reason.MALFORMED),
    ("alpaca", b'{"instruction": "a", "output": "c", "n": ' + b"9" * 5000 + b"}", Reason.MALFORMED),
    ("alpaca", b'{"instruction": "a", "output": "c", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", Reason.MALFORMED),
    ("alpaca", b'{"instruction": "a\xff", "output": "c"}', Reason.NOT_UTF8),
    ("alpaca", b'{"instruction": "\xc0\x80", "output": "c"}', Reason.NOT_UTF8),
    ("alpaca", b'{"instruction": "\xed\xa0\x80", "output": "c"}', Reason.NOT_UTF8),
    ("text", b"latin-1 \xe9t\xe9", Reason.NOT_UTF8),
    ("alpaca", b"[]", Reason.WRONG_TYPE),
    ("alpaca", b'"text"', Reason.WRONG_TYPE),
    ("alpaca", b"null", Reason.WRONG_TYPE),
    ("alpaca", line({"instruction": 3, "output": "c"}), Reason.WRONG_TYPE),
    ("alpaca", line({"instruction": "a", "output": None}), Reason.WRONG_TYPE),
    ("alpaca", line({"instruction": "a", "output": ["c"]}), Reason.WRONG_TYPE),
    ("alpaca", line({"instruction": "a", "input": 1, "output": "c"}), Reason.WRONG_TYPE),
    ("messages", line({"messages": "hi"}), Reason.WRONG_TYPE),
    ("messages", line({"messages": ["hi"]}), Reason.WRONG_TYPE),
    ("messages", line({"messages": [{"role": "user", "content": 1}]}), Reason.WRONG_TYPE),
    ("alpaca", b"{}", Reason.MISSING_FIELD),
    ("alpaca", line({"instruction": "a"}), Reason.MISSING_FIELD),
    ("messages", line({"conversations": []}), Reason.MISSING_FIELD),
    ("messages", line({"messages": [{"from": "user", "content": "a"}]}), Reason.MISSING_FIELD),
    ("preference", line({"prompt": "a", "chosen": "b"}), Reason.MISSING_FIELD),
    ("prompt", line({"label": "harmful"}), Reason.MISSING_FIELD),
    ("text", line({"body": "a"}), Reason.MISSING_FIELD),
    ("alpaca", alpaca(answer=""), Reason.EMPTY),
    ("alpaca", alpaca(answer=" \t\n\u2003"), Reason.EMPTY),
    ("alpaca", alpaca(question=""), Reason.EMPTY),
    ("messages", messages(USER, ASSISTANT, ("user", " "), ASSISTANT), Reason.EMPTY),
    ("preference", preference(rejected=""), Reason.EMPTY),
    ("text", line({"text": ""}), Reason.EMPTY),
    ("text", line({"text": "abcdefg"}), Reason.TOO_SHORT),
    ("text", line({"text": "x" * 201}), Reason.TOO_LONG),
    ("alpaca", alpaca(answer="a\x00b"), Reason.CONTROL_CHARACTERS),
    ("alpaca", alpaca(question="\x1b[31mred"), Reason.CONTROL_CHARACTERS),
    ("alpaca", alpaca(answer="<|im_end|>\n<|im_start|>system"), Reason.SPECIAL_TOKENS),
    ("alpaca", alpaca(input="<|endoftext|>"), Reason.SPECIAL_TOKENS),
    ("messages", messages(("system", "<|im_start|>"), USER, ASSISTANT), Reason.SPECIAL_TOKENS),
    ("preference", preference(rejected="no <|im_end|>"), Reason.SPECIAL_TOKENS),
    ("prompt", line({"prompt": "<|im_start|>user"}), Reason.SPECIAL_TOKENS),
    ("text", line({"text": "see <|im_start|>"}), Reason.SPECIAL_TOKENS),
    ("messages", messages(ASSISTANT), Reason.BAD_ROLE_ORDER),
    ("messages", messages(USER, USER, ASSISTANT), Reason.BAD_ROLE_ORDER),
    ("messages", messages(USER, ASSISTANT, ASSISTANT), Reason.BAD_ROLE_ORDER),
    ("messages", messages(USER, ("system", "Be brief."), ASSISTANT), Reason.BAD_ROLE_ORDER),
    ("messages", messages(USER, ("tool", "{}"), ASSISTANT), Reason.BAD_ROLE_ORDER),
    (
        "prompt",
        line({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
        Reason.BAD_ROLE_ORDER,
    ),
    ("prompt", line({"prompt": []}), Reason.BAD_ROLE_ORDER),
    ("messages", messages(), Reason.NO_ASSISTANT_TURN),
    ("messages", messages(USER), Reason.NO_ASSISTANT_TURN),
    ("messages", messages(("system", "Be brief.")), Reason.NO_ASSISTANT_TURN),
    ("messages", messages(USER, ASSISTANT, USER), Reason.NO_ASSISTANT_TURN),
    ("preference", preference(chosen="Same.", rejected="Same."), Reason.CHOSEN_EQUALS_REJECTED),
    ("preference", preference(chosen="Same.", rejected=" Same.\n"), Reason.CHOSEN_EQUALS_REJECTED),
    ("alpaca", alpaca(question="Write to lena.keller@example.org"), Reason.PERSONAL_DATA),
    ("messages", messages(("system", "You are ann@example.com."), USER, ASSISTANT), Reason.PERSONAL_DATA),
    ("preference", preference(rejected="ask bob+x@mail.example.co.uk"), Reason.PERSONAL_DATA),
    ("sharegpt", sharegpt(("human", "Hi."), ("tool", "{}"), ("gpt", "Hello.")), Reason.BAD_ROLE_ORDER),
    ("sharegpt", sharegpt(("human", "Hi.")), Reason.NO_ASSISTANT_TURN),
    ("hh_rlhf", line({"chosen": "Yes.", "rejected": "No."}), Reason.MALFORMED),
    ("hh_rlhf", hh("How?", "", "No."), Reason.EMPTY),
    (
        "hh_rlhf",
        line({"chosen": "\n\nHuman: A?\n\nAssistant: Yes.", "rejected": "\n\nHuman: B?\n\nAssistant: No."}),
        Reason.NO_SHARED_PROMPT,
    ),
    ("comparison", comparison("Which?", 0), Reason.TIE),
    ("comparison", comparison("Which?", True), Reason.WRONG_TYPE),
    ("classification", line({"text": "Some text.", "label": True}), Reason.WRONG_TYPE),
    ("classification", line({"text": "Some text.", "label": ""}), Reason.EMPTY),
    ("multiple_choice", choice(choices="Yes."), Reason.WRONG_TYPE),
    ("multiple_choice", choice(choices=["Yes.", 2]), Reason.WRONG_TYPE),
    ("multiple_choice", choice(choices=["Yes."]), Reason.BAD_CHOICES),
    ("multiple_choice", choice(choices=["No.", "Yes.", " No."]), Reason.BAD_CHOICES),
    ("multiple_choice", choice(choices=[str(n) for n in range(65)]), Reason.BAD_CHOICES),
    ("multiple_choice", choice(answer=2), Reason.NO_SUCH_ANSWER),
    ("multiple_choice", choice(answer=-1), Reason.NO_SUCH_ANSWER),
    ("multiple_choice", choice(answer="yes."), Reason.NO_SUCH_ANSWER),
    ("multiple_choice", choice(answer="1"), Reason.NO_SUCH_ANSWER),
    ("multiple_choice", choice(answer=True), Reason.WRONG_TYPE),
    ("multiple_choice", choice(answer=1.0), Reason.WRONG_TYPE),
    ("multiple_choice", choice(answer=None), Reason.MISSING_FIELD),
    ("multiple_choice", line({"question": "Q?", "answer": 0}), Reason.MISSING_FIELD),
    ("multiple_choice", line({"choices": ["a", "b"], "answer": 0}), Reason.MISSING_FIELD),
    ("multiple_choice", choice(question=" "), Reason.EMPTY),
    ("multiple_choice", choice(choices=["", "No."]), Reason.EMPTY),
    ("multiple_choice", choice(choices=["Write to ann@example.com", "No."]), Reason.PERSONAL_DATA),
    ("multiple_choice", choice("question  0?", ["yes.", "NO."]), Reason.EXACT_DUPLICATE),
    ("text", line({"text": "one \u202e two three"}), Reason.CONTROL_CHARACTERS),
    ("alpaca", GOOD["alpaca"][0], Reason.EXACT_DUPLICATE),
    ("alpaca", alpaca("question  0?\u200b", "THREE."), Reason.EXACT_DUPLICATE),
    ("messages", GOOD["messages"][0], Reason.EXACT_DUPLICATE),
    ("preference", GOOD["preference"][0], Reason.EXACT_DUPLICATE),
    ("prompt", GOOD["prompt"][0], Reason.EXACT_DUPLICATE),
    ("text", GOOD["text"][0], Reason.EXACT_DUPLICATE),
]


@pytest.fixture
def validate(tmp_path):
    def run(form, data, name="rows.jsonl", **settings):
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else b"\n".join(data) + b"\n")
        return batch.validate(source(form, **settings), tmp_path / name)

    return run


@pytest.mark.parametrize("form", GOOD)
def test_good_rows_are_all_kept_in_order(validate, form):
    found = validate(form, GOOD[form])
    assert (found.rows_in, found.rows["position"].to_list(), found.counts()) == (2, [1, 2], {})


@pytest.mark.parametrize(("form", "bad", "reason"), CASES, ids=[f"{n}-{case[2].value}" for n, case in enumerate(CASES)])
def test_a_bad_row_goes_with_its_reason_and_takes_no_other_along(validate, form, bad, reason):
    found = validate(form, [GOOD[form][0], bad, GOOD[form][1]], min_characters=8, max_characters=200)
    assert found.rows_in == 3
    assert found.rows["position"].to_list() == [1, 3]
    [entry] = found.quarantine.to_dicts()
    assert (entry["reason"], entry["position"], entry["file"]) == (reason.value, 2, "rows.jsonl")
    assert entry["detail"]
    assert entry["row"] == (bad + b"\n")[:2000].decode("utf-8", "replace")


def test_every_reason_of_this_step_has_its_case():
    assert {case[2] for case in CASES} == set(Reason) - JOINED - ELSEWHERE


def test_a_torn_last_line_is_quarantined(validate):
    found = validate("alpaca", GOOD["alpaca"][0] + b"\n" + GOOD["alpaca"][1][:-5])
    assert (found.rows_in, found.rows.height, found.counts()) == (2, 1, {"malformed": 1})


def test_a_whole_last_line_needs_no_newline(validate):
    assert validate("alpaca", b"\n".join(GOOD["alpaca"])).rows.height == 2


def test_crlf_and_blank_lines_are_no_rows(validate):
    found = validate("alpaca", b"\r\n\n  \r\n".join(GOOD["alpaca"]) + b"\r\n\r\n")
    assert (found.rows_in, found.rows.height) == (2, 2)


def test_nesting_2000_deep_is_no_row(validate):
    deep = b'{"instruction": ' + b'{"a":' * 2000 + b"1" + b"}" * 2000 + b', "output": "c"}'
    found = validate("alpaca", [GOOD["alpaca"][0], deep])
    assert (found.rows_in, found.rows.height) == (2, 1)
    assert set(found.counts()) <= {"malformed", "wrong_type"}


@pytest.mark.parametrize("form", ["alpaca", "text"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(validate, form):
    plain, marked = validate(form, GOOD[form]), validate(form, b"\xef\xbb\xbf" + b"\n".join(GOOD[form]))
    assert marked.rows.equals(plain.rows)


def test_a_byte_order_mark_is_no_part_of_a_text_file(validate):
    assert validate("text", b"\xef\xbb\xbfOnce upon a time.", name="tale.txt").rows["text"].to_list() == [
        "Once upon a time."
    ]


@pytest.mark.parametrize("form", ["alpaca", "text"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_no_row_of_another_encoding_is_kept(validate, form, encoding):
    found = validate(form, b"\n".join(GOOD[form]).decode().encode(encoding))
    assert found.rows.height == 0
    assert found.rows_in == found.quarantine.height > 0


@pytest.mark.parametrize(
    "mark", ["\u2028", "\u2029", "\x85", "\u200d", "\U0001f600", "e\u0301", "\t\n", " leading and trailing "]
)
def test_unusual_characters_are_kept_as_they_are(validate, mark):
    raw = json.dumps({"instruction": "How much?", "output": f"a{mark}b{mark}"}, ensure_ascii=False).encode()
    found = validate("alpaca", [raw])
    assert found.rows["messages"].to_list()[0][1]["content"] == f"a{mark}b{mark}"


@pytest.mark.parametrize("tail", [b"\n" + GOOD["alpaca"][1] + b"\n", b"\n", b""], ids=["row-after", "last", "torn"])
def test_a_line_of_20_mb_is_one_quarantined_row(validate, tail):
    found = validate("alpaca", GOOD["alpaca"][0] + b"\n" + alpaca("x" * 20 * 2**20) + tail)
    after = 1 if len(tail) > 1 else 0
    assert (found.rows_in, found.rows["position"].to_list(), found.counts()) == (
        2 + after,
        [1, 3][: 1 + after],
        {"oversized": 1},
    )
    assert len(found.quarantine["row"][0]) <= 2000


@pytest.mark.timeout(4)
def test_a_row_of_many_keys_is_read_in_the_time_of_its_size(validate):
    """300 kB; with time in the square of the keys this takes a quarter of a minute, and a line of 16 MB takes hours."""
    keys = ",".join(f'"k{n}":1' for n in range(30_000))
    assert validate("alpaca", f'{{{keys},"k29999":1}}'.encode()).counts() == {"malformed": 1}


def test_the_first_broken_rule_is_the_reason(validate):
    found = validate("alpaca", [alpaca("<|im_start|> ann@example.com \x00", "x" * 300)], max_characters=200)
    assert found.counts() == {"control_characters": 1}


def test_each_of_many_bad_rows_gets_its_own_reason(validate):
    picked = [(bad, reason) for form, bad, reason in CASES if form == "alpaca" and reason is not Reason.EXACT_DUPLICATE]
    found = validate("alpaca", [bad for bad, _ in picked], min_characters=8, max_characters=200)
    assert found.rows.height == 0
    assert found.quarantine["reason"].to_list() == [reason.value for _, reason in picked]


@pytest.mark.parametrize(
    "row",
    [
        b'{"instruction": "' + b"x" * 2**21 + b'" 1}',
        b'{"instruction": "Q", "outptu": "' + b"x" * 2**21 + b'"}',
        b'{"instruction": "Q", "output": "A", "more": [' + b"[]," * 2**15 + b"1]}",
    ],
    ids=["malformed", "missing_field", "unfolds"],
)
def test_what_is_not_kept_of_a_row_is_not_held_in_memory(tmp_path, row):
    """Neither the text behind its error, nor the columns that nobody asked for: 80 MB in each of these files."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes((row + b"\n") * 40)
    tracemalloc.start()
    try:
        found = batch.validate(source("alpaca"), file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.rows_in == 40
    assert peak < 40 * 2**20


def test_personal_data_may_be_kept_on_request(validate):
    found = validate("alpaca", [alpaca("Write to ann@example.com")], personal_data="keep")
    assert found.rows.height == 1


def test_lengths_at_the_bounds_are_kept(validate):
    found = validate("text", [line({"text": "x" * n}) for n in (3, 4, 7, 8)], min_characters=4, max_characters=7)
    assert found.rows["text"].str.len_chars().to_list() == [4, 7]
    assert found.counts() == {"too_long": 1, "too_short": 1}


def test_columns_are_mapped(validate):
    found = validate(
        "alpaca", [line({"question": "How?", "answer": "So."})], columns={"instruction": "question", "output": "answer"}
    )
    assert [turn["content"] for turn in found.rows["messages"][0]] == ["How?", "So."]


def test_a_duplicate_is_found_in_another_file_of_the_batch(tmp_path):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file in files:
        file.write_bytes(b"\n".join(GOOD["alpaca"]))
    found = batch.validate(source("alpaca"), *files)
    assert (found.rows_in, found.rows.height, found.counts()) == (4, 2, {"exact_duplicate": 2})
    assert found.quarantine["file"].to_list() == ["b.jsonl", "b.jsonl"]


def test_a_quarantined_row_shows_its_own_text_where_two_files_share_a_name(tmp_path):
    files = [tmp_path / "one" / "rows.jsonl", tmp_path / "two" / "rows.jsonl"]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(alpaca(f"From {file.parent.name}", " "))
    shown = batch.validate(source("alpaca"), *files).quarantine["row"].to_list()
    assert [json.loads(row)["instruction"] for row in shown] == ["From one", "From two"]


def test_a_row_is_the_same_row_in_any_file_and_line(tmp_path, validate):
    here = validate("alpaca", GOOD["alpaca"], name="a.jsonl").rows
    there = validate("alpaca", GOOD["alpaca"][::-1], name="b.jsonl").rows
    assert here["row_id"].to_list() == there["row_id"].to_list()[::-1]


def test_a_text_file_is_one_row(validate):
    found = validate("text", b"First line.\n\nSecond \xe2\x80\xa8 line.\n", name="tale.txt")
    assert found.rows["text"].to_list() == ["First line.\n\nSecond \u2028 line."]


@pytest.mark.parametrize("text", ["{curly} start of a poem", '{"text": "a page about JSON"}\nand more'])
def test_a_text_file_may_start_with_a_brace(validate, text):
    assert validate("text", text.encode(), name="page.md").rows["text"].to_list() == [text]


PIECES = st.sampled_from(
    [
        *(row for rows in GOOD.values() for row in rows),
        *(bad for _, bad, _ in CASES if len(bad) < 500),
        b"",
        b" ",
        b"\r",
        b"\x0b",
        b"{",
        b'"',
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b'{"text": "',
        b'{"messages": [{"role": "user"',
    ]
)
FILES = st.binary(max_size=200) | st.lists(PIECES | st.binary(max_size=30), max_size=6).map(b"\n".join)


@given(data=FILES, form=st.sampled_from(sorted(KINDS)), suffix=st.sampled_from([".jsonl", ".txt"]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_file_stops_the_reading_and_no_row_is_lost(data, form, suffix):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"rows{suffix}"
        file.write_bytes(data)
        found = batch.validate(source(form, min_characters=8, max_characters=200), file)
    assert found.rows_in == found.rows.height + found.quarantine.height
    positions = found.rows["position"].to_list() + found.quarantine["position"].to_list()
    assert len(set(positions)) == len(positions)
    assert set(found.quarantine["reason"]) <= {reason.value for reason in set(Reason) - JOINED}
    assert found.rows["row_id"].n_unique() == found.rows.height


# The demo's bundled data


@pytest.fixture(scope="module")
def demo():
    """Each source's batches, validated, and its rows joined over the batches."""
    catalog = load_catalog([SHIPPED])
    batches = {
        name: {key: batch.validate(catalog.source(name), Path(path)) for key, path in catalog.batches(name).items()}
        for name in catalog.sources
    }
    joined = {name: batch.joined({key: found.rows for key, found in each.items()}) for name, each in batches.items()}
    return batches, joined


def test_the_demo_has_the_dirt_that_was_planted(demo):
    batches, joined = demo
    counts = {name: Counter() for name in batches}
    for name, each in batches.items():
        for found in each.values():
            counts[name].update(found.counts())
        counts[name].update(joined[name]["reason"].drop_nulls())
    assert {name: dict(found) for name, found in counts.items() if found} == PLANTED


def test_a_repeat_across_batches_is_found_when_they_are_joined(demo):
    batches, joined = demo
    assert (
        sum(found.counts()["exact_duplicate"] for found in batches["demo_entities"].values())
        == PLANTED["demo_entities"]["exact_duplicate"] - 1
    )
    assert joined["demo_entities"]["reason"].drop_nulls().to_list() == ["exact_duplicate"]


def test_every_demo_row_is_accounted_for(demo):
    for each in demo[0].values():
        for found in each.values():
            assert found.rows_in == found.rows.height + found.quarantine.height > 0


def test_the_generator_writes_the_shipped_bytes(tmp_path):
    written = {path.relative_to(tmp_path): path.read_bytes() for path in write(tmp_path)}
    shipped = SHIPPED / "demo_data"
    assert written == {path.relative_to(shipped): path.read_bytes() for path in shipped.glob("*/*.jsonl")}


def kept(joined):
    return joined.filter(joined["reason"].is_null())["row"].to_list()


def entities(rows):
    """Sentence and names with their types, of each row of the entity task."""
    return [
        (row["messages"][0]["content"].partition("\n\n")[2], json.loads(row["messages"][1]["content"])) for row in rows
    ]


def shape(sentence, names):
    for name in sorted(names, key=len, reverse=True):
        sentence = sentence.replace(name, "{" + names[name] + "}")
    return sentence


@pytest.mark.parametrize("held_out", ["demo_entities_test", "demo_out_of_domain"])
def test_no_held_out_name_or_shape_is_trained_on(demo, held_out):
    joined = demo[1]
    trained = entities(kept(joined["demo_entities"]))
    pairs = [
        (row["prompt"][0]["content"].partition("\n\n")[2], json.loads(row["chosen"]))
        for row in kept(joined["demo_preferences"])
    ]
    tested = entities(kept(joined[held_out]))
    assert tested
    everything = "\n".join(
        [*(sentence for sentence, _ in [*trained, *pairs]), *(row["text"] for row in kept(joined["demo_text"]))]
    )
    names = {name for _, found in tested for name in found}
    assert [name for name in sorted(names) if re.search(rf"\b{re.escape(name)}\b", everything)] == []
    assert {shape(*pair) for pair in tested} & {shape(*pair) for pair in [*trained, *pairs]} == set()


def test_no_demo_training_prompt_is_in_an_evaluation_set(demo):
    joined = demo[1]
    evaluated = {
        prompt_hash(row)
        for name in ("demo_entities_test", "demo_out_of_domain", "demo_safety")
        for row in kept(joined[name])
    }
    trained = {
        prompt_hash(row) for name in ("demo_entities", "demo_preferences", "demo_prompts") for row in kept(joined[name])
    }
    assert evaluated
    assert trained & evaluated == set()


def test_the_kept_tables_have_the_declared_columns(demo):
    kept = demo[0]["demo_entities"]["2026-01"].rows
    assert kept.schema["messages"] == pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
    assert kept["row_id"].str.contains("^[0-9a-f]{32}$").all()
