"""GGUF files and adapters as models: their log-probabilities are those of what they were made of."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from vbon.artifacts.run import RunFolder
from vbon.cli import main
from vbon.errors import VbonError
from vbon.models import converted, load
from vbon.models.converted import model_directory
from vbon.training.train import train

FLOAT32 = 1e-5
IDS = torch.tensor([[1, 5, 3, 2]])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vbon"


@pytest.fixture
def adapter(configure, tmp_path) -> Path:
    """A run that has saved its adapters alone."""
    flags = {"lora_rank": 2, "algorithm": "rloo", "learning_rate": 0.05}
    train(configure(adapter_only=True, **flags, out=str(tmp_path / "adapter")))
    return tmp_path / "adapter"


def write_gguf(file: Path, model: Qwen2ForCausalLM, *, with_tokenizer: bool = True) -> None:
    gguf = pytest.importorskip("gguf")
    config = model.config
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    if with_tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list([*"abcdefghijk", "ab", "<|end|>"])
        writer.add_token_types([1] * 12 + [3])
        writer.add_token_merges(["a b"])
        writer.add_eos_token_id(12)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tiny_qwen() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=13,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            tie_word_embeddings=False,
            initializer_range=0.5,
        )
    ).eval()


def test_a_gguf_file_is_a_model_with_its_tokenizer_and_is_converted_once(tmp_path, cache, monkeypatch):
    model, file = tiny_qwen(), tmp_path / "tiny.gguf"
    write_gguf(file, model)
    loaded = load.load_policy(str(file))
    assert torch.allclose(loaded(IDS).logits, model(IDS).logits, atol=FLOAT32)
    tokenizer = load.load_tokenizer(str(file))
    assert tokenizer.convert_ids_to_tokens(tokenizer("abc")["input_ids"]) == ["ab", "c"]
    assert load.load_config(str(file)).num_hidden_layers == 2
    assert load.model_fingerprint(str(file)) == load.model_fingerprint(model_directory(str(file)))
    [directory] = cache.iterdir()
    monkeypatch.setattr(converted, "_convert_gguf", None)
    assert model_directory(str(file)) == str(directory)


def test_a_gguf_file_that_has_changed_is_converted_again(tmp_path, cache):
    file = tmp_path / "tiny.gguf"
    write_gguf(file, tiny_qwen())
    before = model_directory(str(file))
    with torch.no_grad():
        other = tiny_qwen()
        other.lm_head.weight.mul_(2)
    write_gguf(file, other)
    assert model_directory(str(file)) != before
    assert torch.allclose(load.load_policy(str(file))(IDS).logits, other(IDS).logits, atol=FLOAT32)


def test_a_damaged_gguf_file_is_one_line_and_leaves_no_model(tmp_path, cache):
    pytest.importorskip("gguf")
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF and no more")
    with pytest.raises(VbonError, match="cannot be read") as error:
        load.load_policy(str(file))
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert not list(cache.iterdir())


def test_without_the_package_the_extra_is_named(tmp_path, capsys, monkeypatch):
    file, prompts = tmp_path / "tiny.gguf", tmp_path / "prompts.txt"
    file.write_bytes(b"GGUF")
    prompts.write_text("a\n")
    real = converted.importlib.import_module

    def without(name: str, *rest: object):
        if name == "gguf":
            raise ModuleNotFoundError("No module named 'gguf'", name="gguf")
        return real(name, *rest)

    monkeypatch.setattr(converted.importlib, "import_module", without)
    assert main(["generate", "--model", str(file), "--prompts", str(prompts)]) == 2
    assert "pip install -e '.[gguf]'" in capsys.readouterr().err.splitlines()[-1]


def test_adapters_alone_are_the_policy_that_was_trained(adapter, configure, world, tmp_path):
    """Against the same run with its adapters merged, and against the reference, which they must differ from."""
    train(configure(lora_rank=2, algorithm="rloo", learning_rate=0.05, out=str(tmp_path / "merged")))
    assert not list(adapter.glob("model*.safetensors"))
    assert (adapter / "adapter_model.safetensors").stat().st_size < 20_000
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == world.model
    alone, merged = world.logprobs(adapter), world.logprobs(tmp_path / "merged")
    assert abs(alone - merged).max() < FLOAT32
    assert abs(alone - world.ref_logprobs).max() > 0.05
    assert load.load_generation_config(str(adapter)).max_new_tokens == 3


def test_a_run_of_adapters_is_evaluated_generated_from_and_trained_on(adapter, world, pool, tmp_path):
    evaluation = tmp_path / "evaluation"
    assert main(["evaluate", str(adapter), "--pool", str(pool), "--device", "cpu", "--out", str(evaluation)]) == 0
    assert json.loads((evaluation / "evaluation.json").read_text())["policies"]["adapter"]
    out = tmp_path / "texts.jsonl"
    prompts = str(world.folder / "prompts.jsonl")
    assert main(["generate", "--model", str(adapter), "--prompts", prompts, "--device", "cpu", "--out", str(out)]) == 0
    made = tmp_path / "pool"
    shared = ["--device", "cpu", "--reward", world.reward(), "--prompts", prompts, "--num-samples", "16"]
    assert main(["collect", "--model", str(adapter), "--max-new-tokens", "3", "--out", str(made), *shared]) == 0
    again = ["--num-iterations", "1", "--rollouts-per-iteration", "16", "--tracker", "none", "--warm-start", "none"]
    command = ["train", "--pool", str(made), "--n", "2", "--out", str(tmp_path / "again"), "--device", "cpu", *again]
    assert main(command) == 0  # with the model and the reward that the pool records
    record = RunFolder(tmp_path / "again").read_record()
    assert record.ref_model == str(adapter) and record.reward == world.reward()


def test_an_adapter_without_its_base_or_its_weights_says_what_is_missing(adapter, world):
    config = adapter / "adapter_config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"base_model_name_or_path": "./moved"}))
    with pytest.raises(VbonError, match=r"is an adapter of '\./moved', which cannot be loaded: .*no such directory"):
        load.load_policy(str(adapter))
    config.write_text(json.dumps({key: content[key] for key in content if key != "base_model_name_or_path"}))
    with pytest.raises(VbonError, match="does not name the base model"):
        load.load_policy(str(adapter))
    config.write_text(json.dumps(content))
    weights = adapter / "adapter_model.safetensors"
    save_file({"base_model.model.elsewhere.lora_A.weight": torch.ones(2, 2)}, weights)
    with pytest.raises(VbonError, match=r"does not fit .*, which has no place for"):
        load.load_policy(str(adapter))
    weights.unlink()
    with pytest.raises(VbonError, match=r"is an adapter without adapter_model\.safetensors"):
        load.load_policy(str(adapter))


def test_adapters_of_another_size_do_not_fit(adapter):
    weights = adapter / "adapter_model.safetensors"
    save_file({name: torch.cat([t, t]) for name, t in load_file(weights).items()}, weights)
    with pytest.raises(VbonError, match="does not fit"):
        load.load_policy(str(adapter))
