"""From the bytes of a batch to validated rows and a quarantine: every row goes to exactly one of the two.

Reading finds what is malformed; the pandera schemas below say what a row of each kind must hold and are meant to be
read as its documentation. Texts are kept as they are: nothing is trimmed or repaired in silence.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from ft_assets.core.canonical import canonical_json
from ft_assets.recipes.schema import Source

MAX_LINE_BYTES = 16 * 2**20
ROLES = ("system", "user", "assistant")
SPECIAL_TOKEN = re.compile(r"<\|[a-zA-Z0-9_]{1,40}\|>")
EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")


class Reason(StrEnum):
    """Why a row was set aside."""

    MALFORMED = "malformed"
    NOT_UTF8 = "not_utf8"
    OVERSIZED = "oversized"
    WRONG_TYPE = "wrong_type"
    MISSING_FIELD = "missing_field"
    EMPTY = "empty"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    CONTROL_CHARACTERS = "control_characters"
    SPECIAL_TOKENS = "special_tokens"
    BAD_ROLE_ORDER = "bad_role_order"
    NO_ASSISTANT_TURN = "no_assistant_turn"
    CHOSEN_EQUALS_REJECTED = "chosen_equals_rejected"
    PERSONAL_DATA = "personal_data"
    EXACT_DUPLICATE = "exact_duplicate"
    CONTAMINATION = "contamination"
    NO_SUPERVISED_TOKEN = "no_supervised_token"
    OVER_LIMIT = "over_max_train_rows"


@dataclass(frozen=True)
class Rejected:
    """A row on its way to the quarantine. ``position`` is its line, from 1; ``file`` the path inside the batch."""

    position: int
    reason: Reason
    detail: str
    row: str
    file: str


@dataclass(frozen=True)
class Validated:
    """What became of a batch: kept rows, quarantined rows, and how many came in."""

    rows: pl.DataFrame
    quarantine: pl.DataFrame
    rows_in: int

    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(self.quarantine["reason"].to_list()).items()))


class RowFault(Exception):
    """One row cannot be used; carries the reason."""

    def __init__(self, reason: Reason, detail: str):
        self.reason = reason
        super().__init__(detail)


TURN = pl.Struct({"role": pl.String, "content": pl.String})
QUARANTINE_SCHEMA = {
    "position": pl.Int64,
    "reason": pl.String,
    "detail": pl.String,
    "row": pl.String,
    "file": pl.String,
}
KEPT_SCHEMAS: dict[str, dict[str, Any]] = {
    "text": {"row_id": pl.String, "position": pl.Int64, "text": pl.String},
    "instruction": {"row_id": pl.String, "position": pl.Int64, "messages": pl.List(TURN)},
    "preference": {
        "row_id": pl.String,
        "position": pl.Int64,
        "prompt": pl.List(TURN),
        "chosen": pl.String,
        "rejected": pl.String,
    },
    "prompt": {"row_id": pl.String, "position": pl.Int64, "prompt": pl.List(TURN), "label": pl.String},
}


def validate_batch(files: list[Path], source: Source) -> Validated:
    """Reads, checks and de-duplicates one batch of a source.

    Rows in = kept + quarantined, always; the caller's blocking check holds it against the manifest.
    """
    parsed: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    texts: dict[tuple[str, int], str] = {}
    rows_in = 0
    root = os.path.commonpath([file.parent for file in files]) if files else ""
    for file in files:
        name = file.relative_to(root).as_posix()
        document = source.format == "text" and file.suffix in (".txt", ".md")
        for position, raw in _records(file, document):
            rows_in += 1
            shown = raw[:2000].decode("utf-8", "replace")
            texts[name, position] = shown
            try:
                row = _FORMS[source.format](_decode(raw, source.format, document), source.columns)
            except RowFault as fault:
                rejected.append(Rejected(position, fault.reason, str(fault), shown, name))
                continue
            parsed.append({**row, "position": position, "file": name})
    kept, faults = _check(parsed, source)
    rejected += [
        Rejected(r["position"], reason, detail, texts[r["file"], r["position"]], r["file"])
        for r, reason, detail in faults
    ]
    rejected.sort(key=lambda entry: (entry.file, entry.position))
    schema = KEPT_SCHEMAS[source.kind]
    rows = pl.DataFrame([{name: row[name] for name in schema} for row in kept], schema=schema)
    quarantine = pl.DataFrame([vars(entry) for entry in rejected], schema=QUARANTINE_SCHEMA)
    return Validated(rows, quarantine, rows_in)


def _records(file: Path, document: bool) -> Iterator[tuple[int, bytes]]:
    """Lines of a JSONL file, or the whole of a document; a line over the limit comes cut to it, plus one byte."""
    with file.open("rb") as stream:
        if document:
            yield 1, stream.read(MAX_LINE_BYTES + 1)
            return
        position = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            position += 1
            while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                rest = stream.readline(MAX_LINE_BYTES)
                if not rest or rest.endswith(b"\n"):
                    break
            if position == 1 and len(line) <= MAX_LINE_BYTES:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield position, line


def _decode(raw: bytes, form: str, document: bool) -> Any:
    if len(raw) > MAX_LINE_BYTES:
        raise RowFault(Reason.OVERSIZED, f"longer than {MAX_LINE_BYTES} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowFault(Reason.NOT_UTF8, f"byte {error.start} is not UTF-8") from error
    if document:
        return {"text": text.removeprefix("\ufeff").rstrip("\r\n")}
    if form == "text" and not text.lstrip().startswith("{"):
        return {"text": text.rstrip("\r\n")}
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise RowFault(Reason.MALFORMED, "nested too deeply") from error
    except UnicodeEncodeError as error:
        raise RowFault(Reason.MALFORMED, "holds a lone surrogate, which is no character") from error
    except ValueError as error:
        raise RowFault(Reason.MALFORMED, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RowFault(Reason.WRONG_TYPE, f"a JSON object is wanted, found {type(value).__name__}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in pairs:
        if key in row:
            raise ValueError(f"key {key!r} given twice")
        row[key] = value
    return row


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _text_field(row: dict[str, Any], name: str, columns: dict[str, str], default: str | None = None) -> str:
    column = columns.get(name, name)
    if column not in row:
        if default is not None:
            return default
        raise RowFault(Reason.MISSING_FIELD, f"no column {column!r}; found {', '.join(map(str, row)) or 'none'}"[:300])
    if not isinstance(row[column], str):
        raise RowFault(Reason.WRONG_TYPE, f"column {column!r} holds {type(row[column]).__name__}, text is wanted")
    return str(row[column])


def _turns(value: Any, name: str) -> list[dict[str, str]]:
    if not isinstance(value, list) or not all(isinstance(t, dict) for t in value):
        raise RowFault(Reason.WRONG_TYPE, f"column {name!r} must be a list of messages")
    turns = [{"role": _text_field(turn, "role", {}), "content": _text_field(turn, "content", {})} for turn in value]
    body = turns[1:] if turns and turns[0]["role"] == "system" else turns
    wanted = ["user", "assistant"] * len(body)
    if [turn["role"] for turn in body] != wanted[: len(body)]:
        found = ", ".join(turn["role"] for turn in turns)
        raise RowFault(
            Reason.BAD_ROLE_ORDER, f"roles {found}; wanted: system (optional), then user and assistant in turn"[:300]
        )
    return turns


def _text(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    return {"text": _text_field(row, "text", columns)}


def _alpaca(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    instruction, context = _text_field(row, "instruction", columns), _text_field(row, "input", columns, default="")
    question = f"{instruction}\n\n{context}" if context else instruction
    answer = _text_field(row, "output", columns)
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _messages(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    column = columns.get("messages", "messages")
    if column not in row:
        raise RowFault(Reason.MISSING_FIELD, f"no column {column!r}")
    turns = _turns(row[column], column)
    if not turns or turns[-1]["role"] != "assistant":
        raise RowFault(Reason.NO_ASSISTANT_TURN, "the last turn is not the assistant's: nothing to learn")
    return {"messages": turns}


def _prompt_turns(row: dict[str, Any], columns: dict[str, str]) -> list[dict[str, str]]:
    column = columns.get("prompt", "prompt")
    if isinstance(row.get(column), list):
        turns = _turns(row[column], column)
        if not turns or turns[-1]["role"] != "user":
            raise RowFault(Reason.BAD_ROLE_ORDER, "a prompt ends with the user's turn")
        return turns
    return [{"role": "user", "content": _text_field(row, "prompt", columns)}]


def _preference(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    return {
        "prompt": _prompt_turns(row, columns),
        "chosen": _text_field(row, "chosen", columns),
        "rejected": _text_field(row, "rejected", columns),
    }


def _prompt(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    return {"prompt": _prompt_turns(row, columns), "label": _text_field(row, "label", columns, default="")}


_FORMS = {"text": _text, "alpaca": _alpaca, "messages": _messages, "preference": _preference, "prompt": _prompt}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The texts of a row as the schemas see them: what is asked, what is answered, and all of it together."""
    turns = row.get("messages") or row.get("prompt") or []
    answers = [t["content"] for t in row.get("messages", []) if t["role"] == "assistant"]
    answers += [row[name] for name in ("chosen", "rejected") if name in row]
    asked = [t["content"] for t in turns if t["role"] != "assistant"]
    everything = [row["text"]] if "text" in row else [*asked, *answers]
    return {
        "shortest": min(everything, key=lambda text: len(text.strip())),
        "everything": "\n".join(everything),
        "chosen": row.get("chosen"),
        "rejected": row.get("rejected"),
    }


def schema_for(source: Source) -> pa.DataFrameSchema:
    """The rules of a source's rows, in the order in which they are reported; a check's name is its reason."""

    def check(reason: Reason, expression: pl.Expr) -> pa.Check:
        return pa.Check(lambda data: data.lazyframe.select(expression), name=reason.value)

    everything, shortest = pl.col("everything"), pl.col("shortest").str.strip_chars()
    checks = [
        check(Reason.EMPTY, shortest.str.len_chars() > 0),
        check(Reason.CONTROL_CHARACTERS, ~everything.str.contains(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")),
        check(Reason.SPECIAL_TOKENS, ~everything.str.contains(SPECIAL_TOKEN.pattern)),
        check(Reason.TOO_SHORT, everything.str.len_chars() >= source.min_characters),
        check(Reason.TOO_LONG, everything.str.len_chars() <= source.max_characters),
    ]
    if source.personal_data == "quarantine":
        checks.append(check(Reason.PERSONAL_DATA, ~everything.str.contains(EMAIL.pattern)))
    if source.kind == "preference":
        checks.append(
            check(
                Reason.CHOSEN_EQUALS_REJECTED,
                pl.col("chosen").str.strip_chars() != pl.col("rejected").str.strip_chars(),
            )
        )
    columns = {
        "shortest": pa.Column(str),
        "everything": pa.Column(str),
        "chosen": pa.Column(str, nullable=True),
        "rejected": pa.Column(str, nullable=True),
    }
    return pa.DataFrameSchema(columns, checks=checks)


DETAILS = {
    Reason.EMPTY: "a text of this row is empty or blank",
    Reason.CONTROL_CHARACTERS: "holds a control character (NUL, escape, ...)",
    Reason.SPECIAL_TOKENS: "holds a chat template's special token, which would become one",
    Reason.TOO_SHORT: "shorter than the source's min_characters",
    Reason.TOO_LONG: "longer than the source's max_characters",
    Reason.PERSONAL_DATA: "holds an e-mail address",
    Reason.CHOSEN_EQUALS_REJECTED: "both answers are the same",
}


def _check(
    parsed: list[dict[str, Any]], source: Source
) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], Reason, str]]]:
    reasons = _schema_faults(parsed, source)
    kept: list[dict[str, Any]] = []
    faults: list[tuple[dict[str, Any], Reason, str]] = []
    first_seen: dict[str, int] = {}
    for index, row in enumerate(parsed):
        if index in reasons:
            faults.append((row, reasons[index], DETAILS[reasons[index]]))
            continue
        row_id = content_id({k: v for k, v in row.items() if k not in ("position", "file")})
        if row_id in first_seen:
            faults.append((row, Reason.EXACT_DUPLICATE, f"same content as line {first_seen[row_id]}"))
            continue
        first_seen[row_id] = row["position"]
        kept.append({**row, "row_id": row_id})
    return kept, faults


def _schema_faults(parsed: list[dict[str, Any]], source: Source) -> dict[int, Reason]:
    """The first broken rule of each row, by the row's index."""
    if not parsed:
        return {}
    columns = ("shortest", "everything", "chosen", "rejected")
    frame = pl.DataFrame([_flat(row) for row in parsed], schema=dict.fromkeys(columns, pl.String))
    try:
        schema_for(source).validate(frame, lazy=True)
    except SchemaErrors as error:
        failures = error.failure_cases.sort("check_number", descending=True)
        return {index: Reason(check) for index, check in zip(failures["index"], failures["check"], strict=True)}
    return {}


def content_id(row: dict[str, Any]) -> str:
    """A row's identity, 32 hex digits: the hash of its content, whatever file and line it stood in."""
    return hashlib.sha256(canonical_json(row).encode()).hexdigest()[:32]
