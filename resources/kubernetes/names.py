"""Names and labels of a materialization's objects: deterministic, valid, and distinct for distinct inputs."""

import hashlib
import re

from ft_assets.core.canonical import canonical_json

# A JobSet's pods are called NAME-n-0-INDEX-abcde, a Job's NAME-INDEX-abcde; 63 letters are the most for either.
MAX_NAME = 48
MAX_LABEL = 63
STEP_LETTERS, HASH_LETTERS = 16, 12
PORTS = range(20_000, 30_000)
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


def job_name(run_id: str, step: str, partition: str, attempt: int) -> str:
    """The name of a materialization's Job, which creating it twice finds again: a DNS label that starts with a letter.

    Step and partition are in it to be read; the hash of all four tells it from others (48 bits).
    """
    tail = f"{attempt % 10_000}-{_digest([run_id, step, partition, attempt])}"
    read = "-".join(part for part in (_slug(step)[:STEP_LETTERS], _slug(partition)) if part)
    room = MAX_NAME - len(f"ft--{tail}")
    return f"ft-{read[:room].rstrip('-')}-{tail}"


def label_value(text: str) -> str:
    """A text as the value of a label: itself where it may be one, else what may stand of it and a hash that tells it apart."""
    if LABEL_VALUE.fullmatch(text):
        return text
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[: MAX_LABEL - HASH_LETTERS - 1].strip("-_.")
    return "-".join(part for part in (kept, _digest(text)) if part)


def master_port(name: str) -> int:
    """The port of torchrun's rendezvous; two Jobs that share a node's network rarely share it, too."""
    return PORTS[int(_digest(name), 16) % len(PORTS)]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()[:HASH_LETTERS]
