"""Laws of the row forms: what each keeps of a row, in which shape, and what it refuses."""

import pytest
from pydantic import ValidationError

from ft_assets.core.forms import FORMS, shape
from ft_assets.core.reasons import Reason, RowFault
from ft_assets.recipes.schema import FIELDS, FORMATS, Source


def user(text="Q?"):
    return {"role": "user", "content": text}


def assistant(text="A."):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [user(), assistant(), user("Q2?"), assistant("A2.")]
PAIR = {"prompt": [user()], "chosen": "A.", "rejected": "B."}


def said(role, text, *replies, **more):
    return {"role": role, "text": text, "replies": list(replies), **more}


TREE = said(
    "prompter",
    "Q?",
    said("assistant", "worst", said("prompter", "no"), rank=2),
    said("assistant", "unranked"),
    said("assistant", "best", said("prompter", "Q2?", said("assistant", "A2.")), said("prompter", "why?"), rank=0),
    said("assistant", "middle", rank=1),
)
JUDGES = {"verdict": ["j1", "j2", "j3"]}
ANSWERS = {"instruction": "Q?", "response1": "one", "response2": "two"}


def judged(*verdicts):
    return ANSWERS | {f"j{number}": verdict for number, verdict in enumerate(verdicts, 1)}


def hh(*turns):
    return "".join(f"\n\n{who}: {text}" for who, text in turns)


SHAPED = [
    ("text", "text", {"text": " as it is\n"}, {}, {"text": " as it is\n"}),
    ("text", "text", {"a": "one", "b": "", "c": "two"}, {"text": ["a", "b", "c"]}, {"text": "one\n\ntwo"}),
    ("text", "text", {"a": "one", "b": None}, {"text": ["a", "b"]}, {"text": "one"}),
    ("instruction", "alpaca", {"instruction": "Q?", "output": "A."}, {}, {"messages": TURNS[:2]}),
    ("instruction", "alpaca", {"instruction": "Q?", "input": None, "output": "A."}, {}, {"messages": TURNS[:2]}),
    (
        "instruction",
        "alpaca",
        {"q": "Q?", "c": "Context.", "hint": "Hint.", "output": "A."},
        {"instruction": "q", "input": ["c", "hint"]},
        {"messages": [user("Q?\n\nContext.\n\nHint."), assistant()]},
    ),
    ("instruction", "messages", {"messages": [SYSTEM, *TURNS]}, {}, {"messages": [SYSTEM, *TURNS]}),
    ("instruction", "messages", {"chat": TURNS}, {"messages": "chat"}, {"messages": TURNS}),
    ("instruction", "messages", {"messages": [{**user(), "id": 1}, assistant()]}, {}, {"messages": TURNS[:2]}),
    (
        "instruction",
        "sharegpt",
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Q?"},
                {"from": "gpt", "value": "A."},
            ]
        },
        {},
        {"messages": [SYSTEM, *TURNS[:2]]},
    ),
    ("instruction", "prompt_completion", {"prompt": "Q?", "completion": "A."}, {}, {"messages": TURNS[:2]}),
    *(
        (
            "multiple_choice",
            "multiple_choice",
            {"question": "Q?", "choices": ["a", "b"], "answer": answer},
            {},
            {"question": "Q?", "choices": ["a", "b"], "answer": 1},
        )
        for answer in (1, "b")
    ),
    (
        "multiple_choice",
        "multiple_choice",
        {"context": "C.", "q": "Q?", "w": "a", "x": "b", "right": "a"},
        {"question": ["context", "q"], "choices": ["w", "x"], "answer": "right"},
        {"question": "C.\n\nQ?", "choices": ["a", "b"], "answer": 0},
    ),
    ("instruction", "question_answer", {"question": "Q?", "answer": "A."}, {}, {"messages": TURNS[:2]}),
    (
        "instruction",
        "oasst",
        {"prompt": TREE},
        {},
        {"messages": [user(), assistant("best"), user("Q2?"), assistant("A2.")]},
    ),
    (
        "instruction",
        "oasst",
        {"prompt": said("prompter", "Q?", said("assistant", "A.", said("prompter", "thanks")))},
        {},
        {"messages": TURNS[:2]},
    ),
    (
        "instruction",
        "oasst",
        {
            "prompt": said(
                "prompter",
                "Q?",
                said("assistant", "bad", rank=0, deleted=True),
                said("assistant", "A.", rank=5),
                said("assistant", "no"),
            )
        },
        {},
        {"messages": TURNS[:2]},
    ),
    ("preference", "oasst", {"prompt": TREE}, {}, {**PAIR, "chosen": "best", "rejected": "worst"}),
    ("preference", "preference", {"prompt": "Q?", "chosen": "A.", "rejected": "B."}, {}, PAIR),
    ("preference", "preference", {"prompt": [user()], "chosen": "A.", "rejected": "B."}, {}, PAIR),
    (
        "preference",
        "preference",
        {"prompt": [user()], "chosen": [assistant()], "rejected": [assistant("B.")]},
        {},
        PAIR,
    ),
    ("preference", "preference", {"prompt": "Q?", "chosen": [assistant()], "rejected": [assistant("B.")]}, {}, PAIR),
    ("preference", "preference", {"chosen": [user(), assistant()], "rejected": [user(), assistant("B.")]}, {}, PAIR),
    (
        "preference",
        "preference",
        {"prompt": "Q?", "chosen": [user(), assistant()], "rejected": [user(), assistant("B.")]},
        {},
        PAIR,
    ),
    (
        "preference",
        "preference",
        {"a": "Q?", "b": "", "good": "A.", "bad": "B."},
        {"prompt": ["a", "b"], "chosen": "good", "rejected": "bad"},
        PAIR,
    ),
    (
        "preference",
        "preference",
        {"chosen": [SYSTEM, *TURNS], "rejected": [SYSTEM, *TURNS[:3], assistant("B2.")]},
        {},
        {"prompt": [SYSTEM, *TURNS[:3]], "chosen": "A2.", "rejected": "B2."},
    ),
    (
        "preference",
        "hh_rlhf",
        {"chosen": hh(("Human", "Q?"), ("Assistant", "A.")), "rejected": hh(("Human", "Q?"), ("Assistant", "B."))},
        {},
        PAIR,
    ),
    *(
        (
            "preference",
            "comparison",
            judged(*verdicts),
            JUDGES,
            {"prompt": [user()], "chosen": first, "rejected": second},
        )
        for verdicts, first, second in [
            ((1, 1, 2), "one", "two"),
            ((2, 0, 2), "two", "one"),
            (("1", "tie", 1), "one", "two"),
            ((1.0, 1.0, 0.0), "one", "two"),
        ]
    ),
    (
        "preference",
        "comparison",
        {**ANSWERS, "verdict": "2"},
        {},
        {"prompt": [user()], "chosen": "two", "rejected": "one"},
    ),
    ("prompt", "prompt", {"prompt": "Q?"}, {}, {"prompt": [user()], "label": ""}),
    (
        "prompt",
        "prompt",
        {"prompt": [SYSTEM, user()], "kind": "safe"},
        {"label": "kind"},
        {"prompt": [SYSTEM, user()], "label": "safe"},
    ),
    ("classification", "classification", {"text": "T", "label": 3}, {}, {"text": "T", "label": "3"}),
    ("classification", "classification", {"text": "T", "l": "spam"}, {"label": "l"}, {"text": "T", "label": "spam"}),
]


@pytest.mark.parametrize(("kind", "form", "row", "columns", "wanted"), SHAPED)
def test_a_row_is_kept_in_the_shape_of_its_kind(kind, form, row, columns, wanted):
    Source(kind=kind, location="here", format=form, licence="MIT", columns=columns)
    assert shape(form, kind, row, columns) == wanted


REFUSED = [
    ("instruction", "alpaca", {"instruction": "Q?", "output": "A."}, {"input": "contxt"}, Reason.MISSING_FIELD),
    ("instruction", "alpaca", {"instruction": "Q?", "a": "A."}, {"output": ["a", "b"]}, Reason.MISSING_FIELD),
    ("instruction", "alpaca", {"instruction": "Q?", "a": "A.", "b": 3}, {"output": ["a", "b"]}, Reason.WRONG_TYPE),
    ("instruction", "alpaca", {"instruction": None, "output": "A."}, {}, Reason.WRONG_TYPE),
    ("instruction", "oasst", {"prompt": said("prompter", "Q?")}, {}, Reason.NO_ASSISTANT_TURN),
    ("instruction", "oasst", {"prompt": said("assistant", "A.")}, {}, Reason.BAD_ROLE_ORDER),
    ("instruction", "oasst", {"prompt": {**TREE, "replies": "none"}}, {}, Reason.WRONG_TYPE),
    ("instruction", "oasst", {"prompt": "Q?"}, {}, Reason.WRONG_TYPE),
    (
        "preference",
        "oasst",
        {"prompt": said("prompter", "Q?", said("assistant", "A.", rank=0))},
        {},
        Reason.MISSING_FIELD,
    ),
    (
        "preference",
        "preference",
        {"chosen": [user("1?"), assistant()], "rejected": TURNS[:2]},
        {},
        Reason.NO_SHARED_PROMPT,
    ),
    ("preference", "preference", {"prompt": "Q?", "chosen": [assistant()], "rejected": "B."}, {}, Reason.WRONG_TYPE),
    ("preference", "preference", {"prompt": "Q?", "chosen": [], "rejected": []}, {}, Reason.NO_ASSISTANT_TURN),
    ("preference", "preference", {"chosen": "A.", "rejected": "B."}, {}, Reason.MISSING_FIELD),
    (
        "preference",
        "preference",
        {"prompt": [assistant()], "chosen": "A.", "rejected": "B."},
        {},
        Reason.BAD_ROLE_ORDER,
    ),
    (
        "preference",
        "hh_rlhf",
        {"chosen": hh(("Human", "Q?")), "rejected": hh(("Human", "Q?"))},
        {},
        Reason.NO_ASSISTANT_TURN,
    ),
    ("preference", "hh_rlhf", {"chosen": "x" + hh(("Human", "Q?")), "rejected": "B."}, {}, Reason.MALFORMED),
    *(
        ("preference", "comparison", judged(*verdicts), JUDGES, Reason.TIE)
        for verdicts in [(0, 0, 1), (1, 2, 0), ("tie", 0, 2), (0, "0", 0.0), (0, 0, 0)]
    ),
    *(
        ("preference", "comparison", judged(1, 1, verdict), JUDGES, Reason.WRONG_TYPE)
        for verdict in (3, True, None, "first", [1], 1.5)
    ),
    ("preference", "comparison", judged(1, 1), JUDGES, Reason.MISSING_FIELD),
    ("preference", "comparison", {**judged(1, 1, 1), "response2": False}, JUDGES, Reason.WRONG_TYPE),
    ("classification", "classification", {"text": "T"}, {}, Reason.MISSING_FIELD),
    ("classification", "classification", {"text": "T", "label": 1.5}, {}, Reason.WRONG_TYPE),
    ("prompt", "prompt", {"prompt": "Q?", "label": 3}, {}, Reason.WRONG_TYPE),
]


@pytest.mark.parametrize(("kind", "form", "row", "columns", "reason"), REFUSED)
def test_a_row_of_another_form_is_refused_with_the_reason(kind, form, row, columns, reason):
    with pytest.raises(RowFault) as fault:
        shape(form, kind, row, columns)
    assert (fault.value.reason, bool(str(fault.value))) == (reason, True)


def test_the_detail_of_a_fault_is_short_whatever_the_row_holds():
    with pytest.raises(RowFault) as fault:
        shape("messages", "instruction", {"messages": [{"role": "x" * 10**6, "content": ""}]}, {})
    assert len(str(fault.value)) <= 300


def test_every_format_of_a_source_has_its_form_its_fields_and_its_tests():
    declared = {(kind, form) for kind, forms in FORMATS.items() for form in forms}
    assert declared == set(FORMS) == {case[:2] for case in SHAPED}
    assert {form for _, form in declared} == set(FIELDS)


@pytest.mark.parametrize(
    ("form", "columns"),
    [
        ("alpaca", {"inptu": "context"}),
        ("alpaca", {"output": []}),
        ("messages", {"messages": ["a", "b"]}),
        ("sharegpt", {"messages": "chat"}),
    ],
)
def test_a_mapping_that_would_do_nothing_is_refused(form, columns):
    with pytest.raises(ValidationError):
        Source(kind="instruction", location="here", format=form, licence="MIT", columns=columns)
