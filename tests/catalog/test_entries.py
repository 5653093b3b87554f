import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Gqa, Linear
from afdsim.errors import CatalogError

CONFIGS = Path(__file__).parent.parent / "data/huggingface"


@pytest.fixture
def config(tmp_path):
    """Write the keys of a published config, changed, and return its path."""

    def write(name, **changes):
        keys = json.loads((CONFIGS / f"{name}.json").read_text()) | changes
        path = tmp_path / "config.json"
        path.write_text(json.dumps({key: value for key, value in keys.items() if value is not ...}))
        return path

    return write


def test_names_are_found_in_any_case():
    assert catalog.gpu("h20") == catalog.gpu("H20")
    assert catalog.llm("STEP3") == catalog.llm("step3")


def test_every_entry_loads_and_names_its_source():
    assert all(catalog.gpu(name).source for name in catalog.gpus())
    assert all(catalog.llm(name).source for name in catalog.llms())


def test_an_unknown_gpu_is_answered_with_the_nearest():
    with pytest.raises(CatalogError, match="unknown GPU 'H2O'; did you mean 'H20'\\? afdsim list gpus"):
        catalog.gpu("H2O")


def test_an_unknown_model_is_answered_with_the_nearest():
    with pytest.raises(
        CatalogError, match="unknown model 'deepseekv3'; did you mean 'deepseek-v3'\\? afdsim list models"
    ):
        catalog.llm("deepseekv3")


def test_a_name_like_no_other_gets_the_list_command_alone():
    with pytest.raises(CatalogError, match="unknown GPU 'zzz'; afdsim list gpus"):
        catalog.gpu("zzz")


@pytest.mark.parametrize("source", [None, "", "  "])
def test_an_entry_without_a_source_is_an_error(source):
    entry = {"hidden": 8, "vocab": 8, "parts": {}, "layers": []} | ({} if source is None else {"source": source})
    with pytest.raises(CatalogError, match="'mine' states no source"):
        catalog.read_llm("mine", entry)
    with pytest.raises(CatalogError, match="'mine' states no source"):
        catalog.read_gpu("mine", entry)


def test_step3_has_five_dense_layers():
    dense = [index for index, layer in enumerate(catalog.llm("step3").layers) if not hasattr(layer.ffn, "experts")]

    assert dense == [0, 1, 2, 3, 60]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("deepseek_v3", "deepseek-v3"),
        ("kimi_k2", "kimi-k2"),
        ("qwen3_235b", "qwen3-235b"),
        ("qwen3_32b", "qwen3-32b"),
        ("step3_text", "step3"),
        ("mixtral_8x22b", "mixtral-8x22b"),
        ("minimax_m2", "minimax-m2.5"),
    ],
)
def test_a_published_config_gives_the_layers_of_the_catalog(file, name):
    read, known = catalog.llm(CONFIGS / f"{file}.json"), catalog.llm(name)

    assert read.layers == known.layers
    assert (read.hidden, read.vocab) == (known.hidden, known.vocab)


@pytest.mark.parametrize(("file", "name"), [("llama4_maverick", "llama4-maverick"), ("minimax_m1", "minimax-m1")])
def test_hybrid_configs_differ_from_the_catalog_in_the_kv_dtype_alone(file, name):
    read, known = catalog.llm(CONFIGS / f"{file}.json"), catalog.llm(name)

    assert [layer.ffn for layer in read.layers] == [layer.ffn for layer in known.layers]
    for mine, theirs in zip(read.layers, known.layers, strict=True):
        assert _shape(mine.attention) == _shape(theirs.attention)


def _shape(attention):
    if isinstance(attention, Linear):
        return attention
    return Gqa(
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        window=attention.window,
    )


def test_the_language_part_of_a_vision_config_is_taken(tmp_path):
    text = json.loads((CONFIGS / "step3_text.json").read_text())
    path = tmp_path / "step3.json"
    path.write_text(json.dumps({"model_type": "step3_vl", "text_config": text, "vision_config": {}}))

    assert catalog.llm(path).layers == catalog.llm("step3").layers


def test_a_text_config_without_a_type_follows_the_outer_one(tmp_path):
    text = json.loads((CONFIGS / "step3_text.json").read_text())
    del text["model_type"]
    path = tmp_path / "step3.json"
    path.write_text(json.dumps({"model_type": "step3_vl", "text_config": text}))

    assert catalog.llm(path).layers == catalog.llm("step3").layers


def test_a_folder_means_its_config(config):
    path = config("qwen3_32b")
    model = catalog.llm(path.parent)

    assert model.layers == catalog.llm("qwen3-32b").layers
    assert model.name == path.parent.name
    assert str(path) in model.source


def test_moe_layers_may_be_a_list_as_well(config):
    assert catalog.llm(config("step3_text", moe_layers_enum=list(range(4, 60)))).layers == catalog.llm("step3").layers


def test_defaults_of_transformers_apply(config):
    assert catalog.llm(config("qwen3_32b", head_dim=..., num_key_value_heads=...)).layers[0].attention == Gqa(
        heads=64, kv_heads=32, head_dim=128
    )
    assert catalog.llm(config("qwen3_32b", head_dim=None, num_key_value_heads=None)).layers[0].attention == Gqa(
        heads=64, kv_heads=64, head_dim=80
    )
    assert catalog.llm(config("deepseek_v3", q_lora_rank=None)).layers[0].attention.q_rank is None
    assert catalog.llm(config("deepseek_v3", n_shared_experts=None)).layers[9].ffn.shared == 0
    assert catalog.llm(config("mixtral_8x22b", sliding_window=4096)).layers[0].attention.window == 4096


def test_sparse_steps_and_dense_layers_of_qwen(config):
    model = catalog.llm(config("qwen3_235b", num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[3]))

    assert [hasattr(layer.ffn, "experts") for layer in model.layers] == [False, True, False, False, False, True]


def test_llama4_interleaves_when_it_lists_nothing():
    keys = json.loads((CONFIGS / "llama4_maverick.json").read_text())
    del keys["text_config"]["no_rope_layers"]

    windows = [layer.attention.window for layer in _read(keys).layers[:8]]

    assert windows == [8192, 8192, 8192, None] * 2


def _read(keys):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(keys))
        return catalog.llm(path)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("qwen3_32b", {"model_type": "gpt2"}, r'model_type: "gpt2" is not known \(.*known are \d+ types of llama, '),
        ("qwen3_32b", {"model_type": ...}, "model_type: missing; "),
        ("qwen3_32b", {"model_type": ["qwen3"]}, "is not known"),
        ("qwen3_32b", {"hidden_size": ...}, "hidden_size: missing; a qwen3 config needs it"),
        ("qwen3_32b", {"vocab_size": ...}, "vocab_size: missing"),
        (
            "qwen3_32b",
            {"num_hidden_layers": "64"},
            r'num_hidden_layers: must be a whole number from 1 to 2,000 \(got "64"\)',
        ),
        ("qwen3_32b", {"num_hidden_layers": 10**9}, "from 1 to 2,000"),
        ("qwen3_32b", {"num_hidden_layers": True}, r"\(got true\)"),
        ("qwen3_32b", {"num_attention_heads": 0}, r"\(got 0\)"),
        ("qwen3_32b", {"num_key_value_heads": 7}, "a divisor of 64 attention heads"),
        ("qwen3_32b", {"intermediate_size": -1}, r"\(got -1\)"),
        ("qwen3_32b", {"head_dim": 1.5}, r"\(got 1.5\)"),
        ("qwen3_235b", {"num_experts_per_tok": 129}, "from 1 to 128"),
        ("qwen3_235b", {"mlp_only_layers": [1.5]}, "a list of whole numbers"),
        ("qwen3_235b", {"mlp_only_layers": {"a": 1}}, "a list of whole numbers"),
        ("step3_text", {"moe_layers_enum": "4,five"}, "a list of whole numbers"),
        ("step3_text", {"moe_layers_enum": ...}, "moe_layers_enum: missing"),
        ("step3_text", {"num_attention_groups": 2}, "num_attention_groups: must be a whole number from 1 to 1"),
        ("minimax_m1", {"attn_type_list": [1, 0]}, "one entry for each of the 80 layers, not 2"),
        ("minimax_m1", {"attn_type_list": ...}, "attn_type_list: missing"),
        ("minimax_m1", {"layer_types": [3]}, "a list of names"),
        (
            "deepseek_v3",
            {"kv_lora_rank": None},
            r"kv_lora_rank: must be a whole number from 1 to 10,000,000 \(got null\)",
        ),
    ],
)
def test_a_malformed_config_gets_one_clear_message(config, name, changes, message):
    with pytest.raises(CatalogError, match=message) as caught:
        catalog.llm(config(name, **changes))

    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "config.json:1:2: is no JSON"),
        (b"", "is empty"),
        (b"\xff\xfe\x00", "is no JSON text in UTF-16"),
        (b"[" * 100_000, "is no JSON"),
        (b"[1]", "must hold a JSON object"),
        (b"null", "must hold a JSON object"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(CatalogError, match=message):
        catalog.llm(path)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(CatalogError, match=r"gone\.json: cannot be read \(No such file"):
        catalog.llm(tmp_path / "gone.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**10) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
PUBLISHED = {path.stem: json.loads(path.read_text()) for path in sorted(CONFIGS.glob("*.json"))}


@given(name=st.sampled_from(sorted(PUBLISHED)), data=st.data())
def test_no_mutation_of_a_config_ends_in_a_traceback(name, data):
    keys = dict(PUBLISHED[name].get("text_config", PUBLISHED[name]))
    for key in data.draw(st.lists(st.sampled_from(sorted(keys)), max_size=3, unique=True)):
        keys[key] = data.draw(JSON)
    with suppress(CatalogError):
        assert len(_read(keys).layers) == keys["num_hidden_layers"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("H20-3e", "H20-141GB"), ("h20 3E", "H20-141GB"), ("A100_80GB", "A100"), ("RTX 6000 Pro", "RTX PRO 6000")],
)
def test_another_name_of_a_gpu_is_told_which_is_meant(name, meant):
    with pytest.raises(CatalogError, match=f"unknown GPU '{name}'; did you mean '{meant}'\\?"):
        catalog.gpu(name)


def test_other_names_are_of_gpus_that_are_here():
    assert set(catalog.OTHER_NAMES.values()) <= set(catalog.gpus())
    assert not {name.casefold() for name in catalog.gpus()} & set(catalog.OTHER_NAMES)
