"""What a plan needs to know of a model, from its ``config.json`` and safetensors headers alone."""

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_assets.core.errors import FineTuneError

MAX_HEADER_BYTES = 100 * 2**20
OF_A_LAYER = re.compile(r"(^|\.)(layers?|albert_layers)\.\d+\.")
DISTILBERT = {"hidden_size": "dim", "num_hidden_layers": "n_layers"}  # its own names for what others call so


@dataclass(frozen=True)
class Shape:
    """What the plan needs to know of a model. ``linear`` holds (out, in) of each linear weight by its name."""

    parameters: int
    hidden: int
    layers: int
    vocabulary: int
    linear: dict[str, tuple[int, int]]


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
        except (ValueError, RecursionError, TypeError, AttributeError, LookupError) as error:
            raise FineTuneError(f"{path}: safetensors header cannot be read: {error!r:.200}") from error
    if 8 + length + data != size:
        raise FineTuneError(f"{path}: {size} bytes, its header promises {8 + length + data}; fetch the file again")
    return header


def weights_bytes(folder: Path) -> int:
    """Size of a model's or adapter's weights on disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def in_config(config: dict[str, Any], name: str) -> Any:
    """A field of a ``config.json``, under whichever name it has there; None where there is none."""
    return config.get(name, config.get(DISTILBERT.get(name, name)))


def read_shape(folder: Path) -> Shape:
    config = json.loads((folder / "config.json").read_text())
    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= read_safetensors_header(path)
    linear = {
        name.removesuffix(".weight"): (entry["shape"][0], entry["shape"][1])
        for name, entry in tensors.items()
        if len(entry["shape"]) == 2 and OF_A_LAYER.search(name)
    }
    return Shape(
        sum(math.prod(entry["shape"]) for entry in tensors.values()),
        int(in_config(config, "hidden_size")),
        int(in_config(config, "num_hidden_layers")),
        int(config["vocab_size"]),
        linear,
    )
