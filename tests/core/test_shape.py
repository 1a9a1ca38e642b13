"""Laws of a model's shape: what is read of its files, and which files are refused."""

import json
import struct

import pytest

from ft_assets.core.adapted import lora_parameters
from ft_assets.core.errors import FineTuneError
from ft_assets.core.shape import read_safetensors_header, read_shape

TENSORS = {
    "model.embed_tokens.weight": [100, 8],
    "model.layers.0.self_attn.q_proj.weight": [8, 8],
    "model.layers.0.self_attn.v_proj.weight": [4, 8],
    "model.layers.0.mlp.up_proj.weight": [32, 8],
    "model.layers.0.mlp.down_proj.weight": [8, 32],
    "model.layers.0.input_layernorm.weight": [8],
    "model.norm.weight": [8],
}


def safetensors(tensors=TENSORS, **more):
    header, offset = dict(more), 0
    for name, shape in tensors.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(offset)


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 100}))
    (tmp_path / "model.safetensors").write_bytes(safetensors(__metadata__={"format": "pt"}))
    return tmp_path


def test_a_header_is_read(model):
    header = read_safetensors_header(model / "model.safetensors")
    assert {name: entry["shape"] for name, entry in header.items()} == TENSORS


GOOD = safetensors()
FAULTS = {
    "empty": b"",
    "seven bytes": GOOD[:7],
    "length only": GOOD[:8],
    "cut in the header": GOOD[:100],
    "cut in the data": GOOD[:-1],
    "length 0": struct.pack("<Q", 0) + GOOD[8:],
    "length of 2^63": struct.pack("<Q", 2**63) + GOOD[8:],
    "length past the end": struct.pack("<Q", len(GOOD)) + GOOD[8:],
    "not JSON": struct.pack("<Q", 5) + b"hello" + bytes(9),
    "not UTF-8": struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
    "a list": struct.pack("<Q", 2) + b"[]",
    "a number": struct.pack("<Q", 2) + b"12",
    "a deep nest": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00" + bytes(99),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_header_is_refused_by_name(tmp_path, fault):
    (tmp_path / "model.safetensors").write_bytes(FAULTS[fault])
    with pytest.raises(FineTuneError, match=r"model\.safetensors"):
        read_safetensors_header(tmp_path / "model.safetensors")


def test_a_shape_is_what_the_tensors_add_up_to(model):
    shape = read_shape(model)
    assert shape.parameters == 100 * 8 + 8 * 8 + 4 * 8 + 32 * 8 + 8 * 32 + 8 + 8
    assert (shape.hidden, shape.layers, shape.vocabulary) == (8, 1, 100)
    assert sorted(name.rsplit(".", 1)[-1] for name in shape.linear) == ["down_proj", "q_proj", "up_proj", "v_proj"]


def test_shards_count_once_each(model):
    names = list(TENSORS)
    whole = read_shape(model)
    (model / "model.safetensors").unlink()
    for number, part in enumerate((names[:4], names[3:])):
        (model / f"model-{number}.safetensors").write_bytes(safetensors({name: TENSORS[name] for name in part}))
    assert read_shape(model) == whole


@pytest.mark.parametrize(
    ("target", "count"),
    [
        ("all-linear", 3 * ((8 + 8) + (4 + 8) + (32 + 8) + (8 + 32))),
        (["q_proj"], 3 * (8 + 8)),
        (["q_proj", "v_proj"], 3 * (8 + 8) + 3 * (4 + 8)),
        (["self_attn.q_proj"], 3 * (8 + 8)),
        (r".*\.(q|v)_proj", 3 * (8 + 8) + 3 * (4 + 8)),
    ],
    ids=str,
)
def test_lora_parameters_by_hand(model, target, count):
    """PEFT's rule: a list holds names or endings after a dot, one text is a regular expression for the whole name."""
    assert lora_parameters(read_shape(model), 3, target) == count


@pytest.mark.parametrize("target", [["qproj"], ["proj"], [], "gate_up_proj", "q_proj_and_more"], ids=str)
def test_an_adapter_that_matches_nothing_is_refused(model, target):
    with pytest.raises(FineTuneError, match="target_modules") as raised:
        lora_parameters(read_shape(model), 3, target)
    assert "q_proj" in str(raised.value)


@pytest.mark.parametrize(
    ("names", "layer"),
    [
        ({"hidden_size": 8, "num_hidden_layers": 1}, "bert.encoder.layer.0.attention.self.query"),
        ({"dim": 8, "n_layers": 1}, "distilbert.transformer.layer.0.attention.q_lin"),
        ({"hidden_size": 8, "num_hidden_layers": 1}, "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn"),
        ({"hidden_size": 8, "num_hidden_layers": 1}, "layers.0.attn.Wqkv"),
    ],
)
def test_the_shape_of_an_encoder_is_read_under_its_own_names(tmp_path, names, layer):
    (tmp_path / "config.json").write_text(json.dumps({**names, "vocab_size": 100}))
    tensors = {"embeddings.word_embeddings.weight": [100, 8], f"{layer}.weight": [8, 8], f"{layer}.bias": [8]}
    (tmp_path / "model.safetensors").write_bytes(safetensors(tensors))
    shape = read_shape(tmp_path)
    assert (shape.hidden, shape.layers, shape.linear) == (8, 1, {layer: (8, 8)})


CONFIG = {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 100}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "cannot be read"),
        ("[1, 2]", "not a mapping"),
        (json.dumps({**CONFIG, "vocab_size": "many"}), "vocab_size is 'many'"),
        (json.dumps({**CONFIG, "vocab_size": None}), "vocab_size is not there"),
        (json.dumps({"text_config": CONFIG}), "hidden_size is not there"),
        (json.dumps({**CONFIG, "num_hidden_layers": 0}), "num_hidden_layers is 0"),
        (json.dumps({**CONFIG, "num_hidden_layers": float("nan")}), "num_hidden_layers is nan"),
        (json.dumps({**CONFIG, "num_attention_heads": -2}), "num_attention_heads is -2"),
        (json.dumps({**CONFIG, "num_key_value_heads": [4, 4]}), "num_key_value_heads is"),
        (json.dumps({**CONFIG, "hidden_size": 10**400}), "hidden_size is 1000"),
    ],
)
def test_a_config_that_says_no_shape_is_refused_by_file_and_field(model, text, named):
    (model / "config.json").write_text(text)
    with pytest.raises(FineTuneError, match=r"config\.json") as raised:
        read_shape(model)
    assert named in str(raised.value)


def test_what_a_config_leaves_open_or_null_is_what_transformers_takes(model):
    open_fields = ("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    plain = read_shape(model)
    (model / "config.json").write_text(json.dumps(CONFIG | dict.fromkeys(open_fields)))
    assert read_shape(model) == plain
    assert (plain.intermediate, plain.query, plain.key_value) == (32, 8, 8)


@pytest.mark.parametrize("shape", ["8", [8, -8], [8.5], None])
def test_a_tensor_of_no_shape_is_refused(tmp_path, shape):
    text = json.dumps({"a": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(FineTuneError, match=r"model\.safetensors"):
        read_safetensors_header(tmp_path / "model.safetensors")


def test_weights_without_a_tensor_are_refused(model):
    (model / "model.safetensors").write_bytes(safetensors({}))
    with pytest.raises(FineTuneError, match="no weights"):
        read_shape(model)


def test_layers_of_falcon_are_layers_too(model):
    """``transformer.h.0``, and all-linear adapts what is in them."""
    name = "transformer.h.0.self_attention.query_key_value"
    (model / "model.safetensors").write_bytes(safetensors({f"{name}.weight": [24, 8]}))
    assert read_shape(model).linear == {name: (24, 8)}


def test_a_head_that_is_the_embedding_counts_once_even_where_the_file_has_it_twice(model):
    (model / "model.safetensors").write_bytes(safetensors(TENSORS | {"lm_head.weight": [100, 8]}))
    apart = read_shape(model)
    assert apart.head == 800
    (model / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": True}))
    tied = read_shape(model)
    assert (tied.head, tied.parameters) == (0, apart.parameters - 800)
