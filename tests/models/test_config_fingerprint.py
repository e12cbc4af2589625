"""A fingerprint follows what changes a model's numbers: its config as well as its weights."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from vbon.artifacts.fingerprint import Fingerprint, check_fingerprint
from vbon.errors import VbonError
from vbon.models.load import model_fingerprint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def changed(model: Path, change) -> str:
    path = model / "config.json"
    before = path.read_text()
    content = json.loads(before)
    change(content)
    path.write_text(json.dumps(content))
    try:
        return model_fingerprint(str(model))
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["rope_parameters"].update(rope_theta=5e5),
        lambda config: config.update(rms_norm_eps=1e-2),
        lambda config: config.update(hidden_act="gelu"),
        lambda config: config.update(num_key_value_heads=1),
    ],
)
def test_what_changes_the_logits_changes_it(model, change):
    assert changed(model, change) != model_fingerprint(str(model))


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(transformers_version="4.0.0"),
        lambda config: config.update(dtype="bfloat16", use_cache=False),
        lambda config: config.update(_name_or_path="elsewhere", eos_token_id=[2, 3]),
    ],
)
def test_names_versions_and_stop_tokens_do_not(model, change):
    assert changed(model, change) == model_fingerprint(str(model))


def test_a_model_saved_again_is_the_same(model, tmp_path):
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(tmp_path / "again")
    assert model_fingerprint(str(tmp_path / "again")) == model_fingerprint(str(model))


def test_a_pool_of_an_earlier_version_knows_the_weights_alone(model):
    now = model_fingerprint(str(model))
    earlier = Fingerprint(model=now.split(" ")[0])
    assert earlier.differences(Fingerprint(model=now)) == []
    with pytest.raises(VbonError, match=r"model is .* in the pool but"):
        check_fingerprint(earlier, Fingerprint(model="0" * 16 + " config:0"), what="training")
    with pytest.raises(VbonError, match=r"model is .* in the pool but"):
        check_fingerprint(Fingerprint(model=now), Fingerprint(model=now.split(":")[0] + ":0"), what="training")
