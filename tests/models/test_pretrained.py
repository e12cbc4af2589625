"""Loading: what any library raises is one line, a directory is recognised for what it is, and weights must all fit."""

import ast
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import vbon
from vbon.errors import VbonError
from vbon.models import load
from vbon.models.pretrained import from_pretrained, load_weights

SOURCE = Path(vbon.__file__).parent
LOADERS = {"from_pretrained", "cached_file", "hf_hub_download", "snapshot_download"}
SIZES = {"vocab_size": 13, "bos_token_id": 0, "eos_token_id": 0}


def tiny_gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, n_positions=16, **SIZES))


def tiny_llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(max_position_embeddings=16, tie_word_embeddings=False, **sizes, **SIZES))


def test_one_module_calls_the_loading_functions():
    """A loader called elsewhere would let a library's own exceptions through."""
    callers = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)
        if (node.func.attr if isinstance(node.func, ast.Attribute) else "") in LOADERS
        or (isinstance(node.func, ast.Name) and node.func.id in LOADERS - {"from_pretrained"})
    }
    assert callers == {"models/pretrained.py"}


@pytest.mark.parametrize(
    "raised",
    [
        Exception("data did not match\nany variant"),
        KeyError("gpt97"),
        ImportError("needs bitsandbytes"),
        OSError(),
        AssertionError(),
        TypeError("x"),
        ZeroDivisionError("y"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_library_raises_is_one_line_that_names_the_model(raised, tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)

    class Broken:
        @staticmethod
        def from_pretrained(name, **options):
            raise raised

    with pytest.raises(VbonError) as error:
        from_pretrained(Broken, str(tmp_path), "a tokenizer")
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).endswith((")", "…")) or not str(error.value).endswith(": ")


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_a_checkpoint_without_any_one_of_its_weights_is_refused(make, tmp_path):
    make().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    for name in whole:
        rest = {key: value for key, value in whole.items() if key != name}
        for damaged in (rest, rest | {name: torch.empty(0)}, rest | {f"module.{name}": whole[name]}):
            save_file(damaged, file, metadata={"format": "pt"})
            with pytest.raises(VbonError) as error:
                load.load_policy(str(tmp_path))
            assert name in str(error.value) and str(tmp_path) in str(error.value)
    save_file({f"_fsdp_wrapped_module.{name}": value for name, value in whole.items()}, file, {"format": "pt"})
    with pytest.raises(
        VbonError, match=r"they lack .* and hold _fsdp_wrapped_module\..*, which the model does not know"
    ):
        load.load_policy(str(tmp_path))


def test_weights_without_a_place_are_listed(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"v_head.weight": torch.zeros(2)}, file, metadata={"format": "pt"})
    assert load_weights(AutoModelForCausalLM, str(tmp_path), "a model")[1] == ["v_head.weight"]
    with pytest.warns(UserWarning, match=r"1 weights have no place in the model: v_head\.weight"):
        load.load_policy(str(tmp_path))


def _gguf(folder):
    (folder / "tiny-q4.gguf").write_bytes(b"GGUF")


def _pickle(folder):
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"")


def _trainer_output(folder):
    (folder / "checkpoint-500").mkdir()
    (folder / "checkpoint-500" / "config.json").write_text("{}")


def _nothing(folder):
    pass


@pytest.mark.parametrize("loader", [load.load_policy, load.load_tokenizer, load.load_config])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_gguf, "name the GGUF file itself"),
        (_trainer_output, "its subdirectory checkpoint-500 has one"),
        (_nothing, "config.json is missing there"),
    ],
)
def test_a_directory_is_recognised_for_what_it_is(make, said, loader, tmp_path):
    make(tmp_path)
    with pytest.raises(VbonError) as error:
        loader(str(tmp_path))
    assert said in str(error.value) and str(tmp_path) in str(error.value)


def test_pickled_weights_come_with_the_way_to_convert_them(tmp_path):
    _pickle(tmp_path)
    with pytest.raises(VbonError, match=r"pickled weights are not loaded.*use_safetensors=False"):
        load.load_policy(str(tmp_path))


@pytest.mark.parametrize("name", ["./absent", "a/b/absent", r"C:\models\tiny", "~/absent", "/absent", "absent dir"])
def test_a_mistyped_path_is_not_a_matter_of_the_network(name):
    with pytest.raises(VbonError, match="there is no such directory here, and it is no hub id"):
        load.load_policy(name)


def test_what_could_be_either_is_told_both(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(VbonError, match="there is no such directory here, and the hub is out of reach"):
        load.load_tokenizer("models/no_padd")


def test_a_file_is_no_model_directory(tmp_path):
    file = tmp_path / "tiny.bin"
    file.write_bytes(b"x")
    with pytest.raises(VbonError, match="is a file, not a model directory"):
        load.load_policy(str(file))


def test_code_of_a_model_needs_the_flag(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnLM"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit")
    with pytest.raises(VbonError, match="allow it with --trust-remote-code"):
        load.load_policy(str(tmp_path))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("We couldn't connect to 'https://huggingface.co' to load the files", "the hub is out of reach from here"),
        ("outgoing traffic has been disabled; offline mode is enabled", "the hub is out of reach from here"),
        ("401 Client Error. Cannot access gated repo for url", "log in with `hf auth login`"),
        ("me/absent is not a local folder and is not a valid model identifier", "the hub has no model of that name"),
    ],
)
def test_a_mistyped_name_is_told_in_our_words(message, said):
    """The words of the hub's client would make a network fault of it."""

    class Broken:
        @staticmethod
        def from_pretrained(name, **options):
            raise OSError(message)

    with pytest.raises(VbonError, match="there is no such directory here, and") as error:
        from_pretrained(Broken, "me/absent", "a tokenizer")
    assert said in str(error.value) and "huggingface.co" not in str(error.value)
