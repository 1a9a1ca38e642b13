"""What a row means: one function for each ``format``, from a row's fields to the shape its kind is kept in.

============== ==============================================================================================
kind           kept as
============== ==============================================================================================
text           ``text``
instruction    ``messages``: turns of system (optional), user, assistant, user, assistant, ...
preference     ``prompt`` (turns, the user's last), ``chosen`` and ``rejected`` (the assistant's next turn)
prompt         ``prompt`` and ``label`` (what is expected; may be empty)
classification ``text`` and ``label``
multiple       ``question``, ``choices`` (two or more texts, no two alike) and ``answer`` (index into them, from 0)
choice
============== ==============================================================================================

Texts are kept as they are: nothing is trimmed or repaired in silence.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from ft_assets.core.reasons import Reason, RowFault

Fields = dict[str, Any]
Columns = dict[str, str | list[str]]
Turn = dict[str, str]
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
OASST_ROLES = {"prompter": "user", "assistant": "assistant"}
TIE = "tie"
UNRANKED = math.inf
MOST_CHOICES = 64
HH_SPEAKER = re.compile(r"\n\n(Human|Assistant):[ ]?")


def shape(form: str, kind: str, row: Fields, columns: Columns) -> Fields:
    """A row as its kind is kept.

    Raises:
        RowFault: the row does not have this form; says what was found.
    """
    return FORMS[kind, form](row, columns)


def _field(row: Fields, name: str, columns: Columns, optional: bool = False) -> str:
    """The text of a field; several columns that the source maps to it are joined by a blank line, empty ones left out.

    A column that the source names must be there. Null, as a table writes what is absent, is the same as absent.
    """
    wanted = columns.get(name)
    if isinstance(wanted, list):
        texts = [_column(row, column, optional=column in row) for column in wanted]
        return "\n\n".join(text for text in texts if text)
    return _column(row, wanted or name, optional and (wanted is None or wanted in row))


def _column(row: Fields, column: str, optional: bool = False) -> str:
    value = row.get(column)
    if isinstance(value, str):
        return value
    if value is None and optional:
        return ""
    if column not in row:
        raise RowFault(Reason.MISSING_FIELD, f"no column {column!r}; found {', '.join(map(str, row)) or 'none'}")
    raise RowFault(Reason.WRONG_TYPE, f"column {column!r} holds {type(value).__name__}, text is wanted")


def _raw(row: Fields, name: str, columns: Columns) -> Any:
    column = columns.get(name, name)
    return row.get(column) if isinstance(column, str) else None


def _turns(value: Any, name: str, role: str = "role", content: str = "content") -> list[Turn]:
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise RowFault(Reason.WRONG_TYPE, f"column {name!r} must be a list of messages")
    return [{"role": _column(turn, role), "content": _column(turn, content)} for turn in value]


def _in_order(turns: list[Turn]) -> list[Turn]:
    body = turns[1:] if turns and turns[0]["role"] == "system" else turns
    if any(turn["role"] != ("assistant" if index % 2 else "user") for index, turn in enumerate(body)):
        found = ", ".join(turn["role"] for turn in turns)
        raise RowFault(
            Reason.BAD_ROLE_ORDER, f"roles {found}; wanted: system (optional), then user and assistant in turn"
        )
    return turns


def _conversation(turns: list[Turn]) -> Fields:
    if not turns or turns[-1]["role"] != "assistant":
        raise RowFault(Reason.NO_ASSISTANT_TURN, "the last turn is not the assistant's: nothing to learn")
    return {"messages": turns}


def _asked(question: str, answer: str) -> Fields:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _question(row: Fields, columns: Columns) -> str:
    """Alpaca's instruction, and its input under a blank line where there is one."""
    instruction, context = _field(row, "instruction", columns), _field(row, "input", columns, optional=True)
    return f"{instruction}\n\n{context}" if context else instruction


def _text(row: Fields, columns: Columns) -> Fields:
    return {"text": _field(row, "text", columns)}


def _alpaca(row: Fields, columns: Columns) -> Fields:
    return _asked(_question(row, columns), _field(row, "output", columns))


def _prompt_completion(row: Fields, columns: Columns) -> Fields:
    return _asked(_field(row, "prompt", columns), _field(row, "completion", columns))


def _question_answer(row: Fields, columns: Columns) -> Fields:
    return _asked(_field(row, "question", columns), _field(row, "answer", columns))


def _listed(row: Fields, name: str, columns: Columns) -> Any:
    value = _raw(row, name, columns)
    if value is None:
        raise RowFault(Reason.MISSING_FIELD, f"no column {columns.get(name, name)!r}")
    return value


def _messages(row: Fields, columns: Columns) -> Fields:
    return _conversation(_in_order(_turns(_listed(row, "messages", columns), "messages")))


def _sharegpt(row: Fields, columns: Columns) -> Fields:
    turns = _turns(_listed(row, "conversations", columns), "conversations", "from", "value")
    return _conversation(
        _in_order([{**turn, "role": SHAREGPT_ROLES.get(turn["role"], turn["role"])} for turn in turns])
    )


def _prompt_turns(row: Fields, columns: Columns) -> list[Turn]:
    value = _raw(row, "prompt", columns)
    if not isinstance(value, list):
        return [{"role": "user", "content": _field(row, "prompt", columns)}]
    turns = _in_order(_turns(value, "prompt"))
    if not turns or turns[-1]["role"] != "user":
        raise RowFault(Reason.BAD_ROLE_ORDER, "a prompt ends with the user's turn")
    return turns


def _preference(row: Fields, columns: Columns) -> Fields:
    """Prompt, chosen and rejected, each as text or as messages; answers as messages may begin with their prompt."""
    answers = {name: _raw(row, name, columns) for name in ("chosen", "rejected")}
    if not any(isinstance(value, list) for value in answers.values()):
        texts = {name: _field(row, name, columns) for name in answers}
        return {"prompt": _prompt_turns(row, columns), **texts}
    turns = [_turns(value, name) for name, value in answers.items()]
    if "prompt" in columns or _raw(row, "prompt", columns) is not None:
        prompt = _prompt_turns(row, columns)
        turns = [answer if answer[: len(prompt)] == prompt else [*prompt, *answer] for answer in turns]
    return _pair(*map(_in_order, turns))


def _pair(chosen: list[Turn], rejected: list[Turn]) -> Fields:
    for turns in (chosen, rejected):
        _conversation(turns)
    if chosen[:-1] != rejected[:-1]:
        raise RowFault(Reason.NO_SHARED_PROMPT, "chosen and rejected differ before their last turn")
    return {"prompt": chosen[:-1], "chosen": chosen[-1]["content"], "rejected": rejected[-1]["content"]}


def _hh_rlhf(row: Fields, columns: Columns) -> Fields:
    """Two transcripts of ``Human:`` and ``Assistant:`` turns, which part at the assistant's last."""
    return _pair(*(_transcript(_field(row, name, columns), name) for name in ("chosen", "rejected")))


def _transcript(text: str, name: str) -> list[Turn]:
    before, *rest = HH_SPEAKER.split(text)
    if before.strip() or not rest:
        raise RowFault(Reason.MALFORMED, f"{name} does not begin with '\\n\\nHuman:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    return _in_order([{"role": roles[who], "content": said} for who, said in zip(rest[::2], rest[1::2], strict=True)])


def _comparison(row: Fields, columns: Columns) -> Fields:
    """Two answers and the verdicts of one or more judges; what most of them say decides which is chosen."""
    wanted = columns.get("verdict", "verdict")
    verdicts = Counter(_verdict(row, name) for name in (wanted if isinstance(wanted, list) else [wanted]))
    answers = [_field(row, name, columns) for name in ("response1", "response2")]
    (first, most), *others = verdicts.most_common()
    if first == TIE or (others and others[0][1] == most):
        raise RowFault(Reason.TIE, f"the judges prefer neither answer: {dict(verdicts)}")
    chosen, rejected = answers if first == "1" else answers[::-1]
    prompt = [{"role": "user", "content": _question(row, columns)}]
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _verdict(row: Fields, column: str) -> str:
    """``1`` or ``2``, the better answer, or :data:`TIE`; tables may hold them as whole numbers, floats or text."""
    if column not in row:
        raise RowFault(Reason.MISSING_FIELD, f"no column {column!r}")
    value = row[column]
    if isinstance(value, bool) or value not in (0, 1, 2, "0", "1", "2", TIE):
        raise RowFault(Reason.WRONG_TYPE, f"column {column!r} holds {value!r:.100}; a verdict is 0, 1, 2 or tie")
    return TIE if value in (0, "0", TIE) else str(int(value))


def _oasst(row: Fields, columns: Columns) -> Fields:
    """The conversation of an OpenAssistant tree that follows the best-ranked reply at every turn."""
    turns: list[Turn] = []
    node: Fields | None = _tree(row, columns)
    while node is not None:
        turns.append({"role": _oasst_role(node), "content": _column(node, "text")})
        replies = _replies(node)
        node = replies[0] if replies else None
    if turns[-1]["role"] == "user":
        turns.pop()
    return _conversation(_in_order(turns))


def _oasst_pair(row: Fields, columns: Columns) -> Fields:
    """The best-ranked and the worst-ranked answer to the prompt of an OpenAssistant tree."""
    root = _tree(row, columns)
    ranked = [reply for reply in _replies(root) if _rank(reply) < UNRANKED]
    if len(ranked) < 2:
        raise RowFault(Reason.MISSING_FIELD, "fewer than two ranked replies to the prompt")
    prompt = [{"role": _oasst_role(root), "content": _column(root, "text")}]
    return {
        "prompt": _in_order(prompt),
        "chosen": _column(ranked[0], "text"),
        "rejected": _column(ranked[-1], "text"),
    }


def _tree(row: Fields, columns: Columns) -> Fields:
    root = _listed(row, "prompt", columns)
    if not isinstance(root, dict):
        raise RowFault(Reason.WRONG_TYPE, f"column 'prompt' holds {type(root).__name__}, a message tree is wanted")
    return root


def _oasst_role(node: Fields) -> str:
    role = _column(node, "role")
    return OASST_ROLES.get(role, role)


def _replies(node: Fields) -> list[Fields]:
    """Replies by rank, 0 the best; those without a rank come last, in the order of the file; deleted ones are left out."""
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise RowFault(Reason.WRONG_TYPE, "column 'replies' must be a list of messages")
    return sorted((reply for reply in replies if not reply.get("deleted")), key=_rank)


def _rank(reply: Fields) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, int | float) and not isinstance(rank, bool) else UNRANKED


def _prompt(row: Fields, columns: Columns) -> Fields:
    return {"prompt": _prompt_turns(row, columns), "label": _field(row, "label", columns, optional=True)}


def _classification(row: Fields, columns: Columns) -> Fields:
    label = _raw(row, "label", columns)
    if isinstance(label, int) and not isinstance(label, bool):
        return {"text": _field(row, "text", columns), "label": str(label)}
    return {"text": _field(row, "text", columns), "label": _field(row, "label", columns)}


def _multiple_choice(row: Fields, columns: Columns) -> Fields:
    """Question, choices and answer. Choices are one column with a list, or each the text of a column of its own."""
    named = columns.get("choices")
    if isinstance(named, list):
        choices: Any = [_column(row, column) for column in named]
    else:
        choices = _listed(row, "choices", columns)
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise RowFault(Reason.WRONG_TYPE, f"column {named or 'choices'!r} must be a list of texts")
    if not 2 <= len(choices) <= MOST_CHOICES:
        raise RowFault(Reason.BAD_CHOICES, f"{len(choices)} choices; wanted: 2 to {MOST_CHOICES}")
    if len({choice.strip() for choice in choices}) < len(choices):
        raise RowFault(Reason.BAD_CHOICES, "two choices are alike, so the answer cannot be told")
    answer = _choice(_listed(row, "answer", columns), choices)
    return {"question": _field(row, "question", columns), "choices": choices, "answer": answer}


def _choice(answer: Any, choices: list[str]) -> int:
    """The index of the right choice, which a row gives as such (a whole number from 0) or as the choice's own text."""
    if isinstance(answer, str):
        if answer not in choices:
            raise RowFault(Reason.NO_SUCH_ANSWER, f"answer {answer!r:.100} is none of the choices")
        return choices.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int):
        found = type(answer).__name__
        raise RowFault(Reason.WRONG_TYPE, f"answer is {found}; wanted: the index of a choice, or its text")
    if not 0 <= answer < len(choices):
        raise RowFault(Reason.NO_SUCH_ANSWER, f"answer {answer} is no index of {len(choices)} choices, from 0")
    return answer


FORMS: dict[tuple[str, str], Callable[[Fields, Columns], Fields]] = {
    ("text", "text"): _text,
    ("instruction", "alpaca"): _alpaca,
    ("instruction", "messages"): _messages,
    ("instruction", "oasst"): _oasst,
    ("instruction", "prompt_completion"): _prompt_completion,
    ("instruction", "question_answer"): _question_answer,
    ("instruction", "sharegpt"): _sharegpt,
    ("preference", "comparison"): _comparison,
    ("preference", "hh_rlhf"): _hh_rlhf,
    ("preference", "oasst"): _oasst_pair,
    ("preference", "preference"): _preference,
    ("prompt", "prompt"): _prompt,
    ("classification", "classification"): _classification,
    ("multiple_choice", "multiple_choice"): _multiple_choice,
}
