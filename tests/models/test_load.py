"""Loading, fingerprints that follow the weights and nothing else, and mistakes told in one line."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from vbon.errors import VbonError
from vbon.models import load
from vbon.models.fused import TANH_GELU


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=13, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def make_tokenizer(**special):
    core = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "<pad>": 2, "a": 3, "b": 4}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def test_loaded_model_gives_the_saved_logits_without_dropout(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    loaded = load.load_policy(str(tmp_path))
    assert not loaded.training
    assert not any(isinstance(module, TANH_GELU) for module in loaded.modules())
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, tiny.eval()(ids).logits, rtol=0, atol=1e-6)


def test_bfloat16_rounds_every_weight(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    loaded = load.load_policy(str(tmp_path), dtype="bfloat16").state_dict()
    for name, weight in tiny.state_dict().items():
        assert torch.equal(loaded[name], weight.bfloat16()), name


def test_fingerprint_does_not_depend_on_shards(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "whole")
    tiny.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert load.model_fingerprint(str(tmp_path / "whole")) == load.model_fingerprint(str(tmp_path / "shards"))


def test_fingerprint_follows_weights_names_shapes_and_dtypes(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    name = "transformer.h.0.mlp.c_fc.weight"
    nudged = weights[name].clone()
    nudged[0, 0] = torch.nextafter(nudged[0, 0], torch.tensor(9.0))
    variants = {
        "as it was": weights,
        "one bit": weights | {name: nudged},
        "shape": weights | {name: weights[name].reshape(-1)},
        "dtype": weights | {name: weights[name].view(torch.int32)},
        "name": {("x" if key == name else key): value for key, value in weights.items()},
    }
    seen = {}
    for what, tensors in variants.items():
        save_file(tensors, file, metadata={"format": "pt"})
        seen[what] = load.model_fingerprint(str(tmp_path))
    assert len(set(seen.values())) == len(variants), seen


def test_tokenizer_fingerprint_ignores_padding_and_follows_tokens():
    plain = load.tokenizer_fingerprint(make_tokenizer(eos_token="<eos>"))
    padding = make_tokenizer(eos_token="<eos>")
    padding.backend_tokenizer.enable_padding(length=7)
    padding.backend_tokenizer.enable_truncation(5)
    assert load.tokenizer_fingerprint(padding) == plain
    assert load.tokenizer_fingerprint(make_tokenizer(eos_token="<pad>")) != plain
    more = make_tokenizer(eos_token="<eos>")
    more.add_tokens(["c"])
    assert load.tokenizer_fingerprint(more) != plain


def test_chat_template_fingerprint():
    tokenizer = make_tokenizer()
    assert load.chat_template_fingerprint(tokenizer) == "none"
    tokenizer.chat_template = "{{ messages }}"
    one = load.chat_template_fingerprint(tokenizer)
    tokenizer.chat_template = "{{ messages }} "
    assert load.chat_template_fingerprint(tokenizer) != one


def test_stop_and_pad_tokens(tiny):
    tokenizer = make_tokenizer(eos_token="<eos>")
    assert load.stop_token_ids(tiny, tokenizer) == (0, 1)
    tiny.generation_config.eos_token_id = [5, 3]
    assert load.stop_token_ids(tiny, tokenizer, extra=(9, 3)) == (1, 3, 5, 9)
    tiny.generation_config.eos_token_id = None
    assert load.stop_token_ids(tiny, make_tokenizer()) == ()
    assert load.pad_token_id(tokenizer) == 1, "the EOS, where no padding token is named"
    assert load.pad_token_id(make_tokenizer(eos_token="<eos>", pad_token="<pad>")) == 2
    assert load.pad_token_id(make_tokenizer()) == 0


def _no_weights(folder, tiny):
    tiny.config.save_pretrained(folder)


def _pickled_weights(folder, tiny):
    tiny.config.save_pretrained(folder)
    torch.save(tiny.state_dict(), folder / "pytorch_model.bin")


def _torn_weights(folder, tiny):
    tiny.save_pretrained(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def _torn_config(folder, tiny):
    tiny.save_pretrained(folder)
    (folder / "config.json").write_text("{")


def _unknown_architecture(folder, tiny):
    tiny.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "no_such_model"}')


def _other_shapes(folder, tiny):
    tiny.save_pretrained(folder)
    config = copy.deepcopy(tiny.config)
    config.n_embd = 8
    config.save_pretrained(folder)


def _empty(folder, tiny):
    pass


FAULTS = [_no_weights, _pickled_weights, _torn_weights, _torn_config, _unknown_architecture, _other_shapes, _empty]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__[1:])
def test_a_broken_model_directory_is_one_line_naming_it(fault, tiny, tmp_path):
    fault(tmp_path, tiny)
    with pytest.raises(VbonError) as error:
        load.load_policy(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_what_is_asked_for_is_checked(tmp_path):
    with pytest.raises(VbonError, match="--dtype float8"):
        load.load_policy(str(tmp_path), dtype="float8")
    with pytest.raises(VbonError, match="there is no such directory"):
        load.load_tokenizer(str(tmp_path / "nowhere"))
    if not torch.cuda.is_available():
        with pytest.raises(VbonError, match="--device cuda"):
            load.resolve_device("cuda")
    assert load.resolve_device("cpu").type == "cpu"
    with pytest.raises(VbonError, match="--device tpu9"):
        load.resolve_device("tpu9")


def test_a_directory_without_a_tokenizer_is_one_line(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    with pytest.raises(VbonError) as error:
        load.load_tokenizer(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_fingerprint_of_no_or_torn_weights_is_one_line(tiny, tmp_path):
    _no_weights(tmp_path, tiny)
    with pytest.raises(VbonError, match=r"no \.safetensors weights"):
        load.model_fingerprint(str(tmp_path))
    _torn_weights(tmp_path, tiny)
    with pytest.raises(VbonError) as error:
        load.model_fingerprint(str(tmp_path))
    assert "model.safetensors" in str(error.value)


@pytest.mark.parametrize("limit", ["long", -1, []])
def test_a_tokenizer_is_tried_when_it_is_loaded(limit, tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": limit}))
    with pytest.raises(VbonError) as error:
        load.load_tokenizer(str(tmp_path))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("token", ["null", 1e308, {"a": 1}, 2**70, 99, True, [1, "x"]])
def test_stop_tokens_of_a_config_are_checked(token, tiny):
    tiny.generation_config.eos_token_id = token
    with pytest.raises(VbonError, match=r"generation_config\.json has eos_token_id .*none of its tokens"):
        load.stop_token_ids(tiny, make_tokenizer())


def test_a_model_that_cannot_be_computed_is_one_line(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n_layer": -1}))
    with pytest.raises(VbonError, match="cannot be computed with"), pytest.warns(UserWarning, match="have no place"):
        load.load_policy(str(tmp_path))
