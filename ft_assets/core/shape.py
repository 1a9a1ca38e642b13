"""What a plan needs to know of a model, from its ``config.json`` and safetensors headers alone."""

import json
import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ft_assets.core.errors import FineTuneError

MAX_HEADER_BYTES = 100 * 2**20
OF_A_LAYER = re.compile(r"(^|\.)(layers?|albert_layers|h)\.\d+\.")
MOST = 2**40  # of any number in a config.json
# Its own names for what others call so.
DISTILBERT = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}
HEAD = re.compile(r"^(lm_head|embed_out|output)\.")


@dataclass(frozen=True)
class Linears:
    """Linear weights together: how many; over all of them the widths of what goes into and comes out of one, the numbers in one
    and the squares of the widths in; the numbers of the largest.
    """

    count: int
    into: int
    out: int
    numbers: int
    squares: int
    largest: int

    @classmethod
    def of(cls, sizes: Iterable[tuple[int, int]]) -> "Linears":
        """Of their (out, in)."""
        found = list(sizes)
        return cls(
            count=len(found),
            into=sum(into for _, into in found),
            out=sum(out for out, _ in found),
            numbers=sum(out * into for out, into in found),
            squares=sum(into * into for _, into in found),
            largest=max((out * into for out, into in found), default=0),
        )


@dataclass(frozen=True)
class Shape:
    """What the plan needs to know of a model.

    ``linear`` holds (out, in) of each linear weight of a layer by its name; ``query`` and ``key_value`` are the widths of all
    heads together; ``gated``: the feed-forward part multiplies two inner states of width ``intermediate`` (SwiGLU), and does
    not pass on one; ``head`` is the parameters of a language model's head that has its own; ``file_bytes`` are those on disk.
    """

    parameters: int
    hidden: int
    layers: int
    vocabulary: int
    linear: dict[str, tuple[int, int]] = field(hash=False)
    intermediate: int = 0
    heads: int = 1
    query: int = 0
    key_value: int = 0
    gated: bool = True
    head: int = 0
    file_bytes: int = 0

    @cached_property
    def linears(self) -> Linears:
        """All of the layers'; kept, as a plan asks for it of each of its many layouts."""
        return Linears.of(self.linear.values())


def read_safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype, shape and offsets by tensor name.

    Raises:
        FineTuneError: the file is cut, in its header or its data, or its header is absurd.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise FineTuneError(f"{path}: not a safetensors file (header of {length} bytes in a file of {size})")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            data = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
            if not all(isinstance(side, int) and side >= 0 for entry in header.values() for side in entry["shape"]):
                raise ValueError("a tensor's shape is no list of whole numbers")
        except (ValueError, RecursionError, TypeError, AttributeError, LookupError) as error:
            raise FineTuneError(f"{path}: safetensors header cannot be read: {error!r:.200}") from error
    if 8 + length + data != size:
        raise FineTuneError(f"{path}: {size} bytes, its header promises {8 + length + data}; fetch the file again")
    return header


def weights_bytes(folder: Path) -> int:
    """Size of a model's or adapter's weights on disk, whichever form they have."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf"))


def in_config(config: dict[str, Any], name: str) -> Any:
    """A field of a ``config.json``, under whichever name it has there; None where there is none."""
    return config.get(name, config.get(DISTILBERT.get(name, name)))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FineTuneError(f"{path} cannot be read: {error!r:.200}") from error
    if not isinstance(config, dict):
        raise FineTuneError(f"{path} is {config!r:.40}, not a mapping")
    return config


def read_shape(folder: Path) -> Shape:
    """A model's shape, of a folder with its ``config.json`` and weights.

    Raises:
        FineTuneError: one of its files cannot be read, or lacks what a plan needs; names the file and the field.
    """
    config = _read_config(folder / "config.json")
    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= read_safetensors_header(path)
    if not tensors:
        raise FineTuneError(f"{folder}: its .safetensors files hold no weights")
    file_bytes = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in tensors.values())
    if config.get("tie_word_embeddings"):  # then transformers passes over a head that a file has all the same
        tensors = {name: entry for name, entry in tensors.items() if not HEAD.match(name)}
    linear = {
        name.removesuffix(".weight"): (entry["shape"][0], entry["shape"][1])
        for name, entry in tensors.items()
        if len(entry["shape"]) == 2 and OF_A_LAYER.search(name)
    }

    def number(name: str, otherwise: int | None = None) -> int:
        found = in_config(config, name)
        if not found and otherwise is not None:
            return otherwise
        if not isinstance(found, int) or not 1 <= found <= MOST:
            said = "is not there" if found is None else f"is {found!r:.40}"
            raise FineTuneError(f"{folder}/config.json: {name} {said}; a plan wants a whole number")
        return found

    hidden, layers, vocabulary = (number(name) for name in ("hidden_size", "num_hidden_layers", "vocab_size"))
    inner, heads = number("intermediate_size", 4 * hidden), number("num_attention_heads", 1)
    width = number("head_dim", max(1, hidden // heads))
    widened = sum(out for out, given in linear.values() if given == hidden and out in (inner, 2 * inner))
    return Shape(
        parameters=sum(math.prod(entry["shape"]) for entry in tensors.values()),
        hidden=hidden,
        layers=layers,
        vocabulary=vocabulary,
        linear=linear,
        intermediate=inner,
        heads=heads,
        query=heads * width,
        key_value=number("num_key_value_heads", heads) * width,
        gated=widened >= 2 * inner * layers,
        head=sum(math.prod(entry["shape"]) for name, entry in tensors.items() if HEAD.match(name)),
        file_bytes=file_bytes,
    )
