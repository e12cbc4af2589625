"""Model directories, tokenizers and chat templates: damaged and generated ones, and what must hold of what is read.

Beside a traceback, a wrong number is a failure: a model that is read has the numbers of its file in every load; models,
tokenizers and templates of equal fingerprints give equal logits, ids and texts; text and ids belong together.
"""

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tests.faults.made_tokenizers import any_tokenizer
from tests.faults.mutate import TEXTS
from tests.faults.reader import Target, Valid
from tests.models.test_prompts import KINDS
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from vbon.errors import VbonError
from vbon.models import load
from vbon.models.generate import NonFiniteLogits, generate
from vbon.models.prompts import decode, encode, ids_of_text, loses_first_space, render_chat, text_of_ids
from vbon.rewards import load_reward

SIZES = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 4}
FILES = {
    "config.json": "json",
    "generation_config.json": "json",
    "tokenizer_config.json": "json",
    "tokenizer.json": "json",
    "model.safetensors": "tensors",
}
TEXT_PROMPTS = ("the film was good", "", " was", "bad and\n", "ünï 🙂", "</s>the", "the  film", *TEXTS[4:10])


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=16, **SIZES))


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(max_position_embeddings=16, tie_word_embeddings=True, **LLAMA, **SIZES))


def classifier() -> PreTrainedModel:
    config = LlamaConfig(max_position_embeddings=64, num_labels=1, pad_token_id=0, **LLAMA, **SIZES)
    return LlamaForSequenceClassification(config)


MODELS = {"gpt2": gpt2, "llama": llama, "classifier": classifier}


def checkpoints(folder: Path) -> Target:
    """Each file of three model directories, damaged in turn; and directories that hold other things than a model."""
    valid, fingerprints = [], {}
    for name, make in MODELS.items():
        torch.manual_seed(0)
        make().save_pretrained(folder / name)
        KINDS["sentencepiece" if name == "llama" else "unigram"]().save_pretrained(folder / name)
        valid += [
            Valid(f"{name}/{file}", kind, (folder / name / file).read_bytes())
            for file, kind in FILES.items()
            if (folder / name / file).is_file()
        ]
    good = {one.suffix: one.content for one in valid}

    def read(content: bytes, place: str) -> None:
        (folder / place).write_bytes(content)
        try:
            _use_model(folder / place.split("/")[0], fingerprints)
        finally:
            (folder / place).write_bytes(good[place])

    return Target("checkpoints", 2, tuple(valid), read)


def _use_model(directory: Path, fingerprints: dict[str, Any]) -> None:
    if directory.name == "classifier":
        texts = ["the film", " was good", ""]
        reward, again = load_reward(str(directory)), load_reward(str(directory))
        numbers = reward(["bad"] * 3, texts)
        np.testing.assert_array_equal(numbers, again(["bad"] * 3, texts), "two loads of one reward model differ")
        known = fingerprints.setdefault(reward.fingerprint, numbers)
        np.testing.assert_array_equal(known, numbers, "reward models of one fingerprint differ")
        return
    tokenizer, model = load.load_tokenizer(str(directory)), load.load_policy(str(directory))
    _check_weights(model, load.load_policy(str(directory)), directory / "model.safetensors")
    stop, pad = load.stop_token_ids(model, tokenizer), load.pad_token_id(tokenizer, model)
    uniforms = torch.linspace(0.1, 0.9, 4, dtype=torch.float64).view(1, 2, 2)
    try:
        drawn = generate(model, [[5, 7]], uniforms, temperature=1.0, stop_token_ids=stop, pad_token_id=pad)
    except NonFiniteLogits as error:
        raise VbonError(str(error)) from error
    known = fingerprints.setdefault(load.model_fingerprint(str(directory)), drawn.logprobs)
    np.testing.assert_array_equal(known, drawn.logprobs, "models of one fingerprint differ")


def _check_weights(model: PreTrainedModel, again: PreTrainedModel, file: Path) -> None:
    state, other = model.state_dict(), again.state_dict()
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensor.numpy(), other[name].numpy(), f"two loads differ in {name}")
    for name, tensor in load_file(file).items():
        if name in state:
            np.testing.assert_array_equal(tensor.float().numpy(), state[name].numpy(), f"{name} is not the file's")


def tokenizers(folder: Path) -> Target:
    """Tokenizers of every kind of model, normaliser, decoder and post-processor that `any_tokenizer` combines."""
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    seen: dict[str, list[list[int]]] = {}

    def read(content: bytes, _: str) -> None:
        try:
            files = json.loads(content)
            (folder / "tokenizer.json").write_text(json.dumps(files["tokenizer.json"]), "utf-8")
            (folder / "tokenizer_config.json").write_text(json.dumps(files["tokenizer_config.json"]), "utf-8")
        except (ValueError, KeyError, TypeError, RecursionError):  # not both files: the bytes are the tokenizer's
            (folder / "tokenizer.json").write_bytes(content)
            (folder / "tokenizer_config.json").write_text("{}")
        try:
            _use_tokenizer(folder, seen, Random(content))
        finally:
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (folder / name).unlink()

    def both(tokenizer: Any, place: Path) -> bytes:
        tokenizer.save_pretrained(place)
        names = ("tokenizer.json", "tokenizer_config.json")
        content = json.dumps({name: json.loads((place / name).read_text("utf-8")) for name in names}).encode()
        shutil.rmtree(place)
        return content

    def make(random: Random) -> tuple[str, bytes]:
        return "", json.dumps(any_tokenizer(random)).encode()

    valid = tuple(Valid("", "json", both(kind(), folder / "made")) for kind in KINDS.values())
    return Target("tokenizers", 3, valid, read, make)


def _use_tokenizer(folder: Path, seen: dict[str, list[list[int]]], random: Random) -> None:
    tokenizer = load.load_tokenizer(str(folder))
    loses_first_space(tokenizer)
    prompts, ids = [], []
    for text in TEXT_PROMPTS:
        try:
            ids += encode(tokenizer, [text])
            prompts.append(text)
        except VbonError:
            continue  # an empty prompt without a BOS token
    vocabulary = set(tokenizer.get_vocab().values())
    assert all(row and vocabulary.issuperset(row) for row in ids), "a prompt's ids are not the tokenizer's"
    again = load.load_tokenizer(str(folder))
    fingerprint = load.tokenizer_fingerprint(tokenizer)
    if len(vocabulary) < len(tokenizer.get_vocab()):
        return  # two tokens of one id: the library keeps either
    assert fingerprint == load.tokenizer_fingerprint(again), "two loads of one tokenizer have two fingerprints"
    assert seen.setdefault(fingerprint, ids) == ids, "tokenizers of one fingerprint encode differently"
    some = sorted(vocabulary)
    completions = [random.choices(some, k=random.choice((0, 1, 2, 9))) for _ in ids]
    texts = decode(tokenizer, ids, completions)
    assert texts == [decode(tokenizer, [row], [one])[0] for row, one in zip(ids, completions, strict=True)]
    for row, completion, text in zip(ids, completions, texts, strict=True):
        whole, before = (
            tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for tokens in ([*row, *completion], row)
        )
        if whole.startswith(before):  # else the completion's first tokens belong to the prompt's last character
            assert text == whole[len(before) :], f"{text!r} is not what {completion} adds to {row}: {whole!r}"


def templates(folder: Path) -> Target:
    """Chat templates, as files beside a tokenizer, with conversations of several shapes."""
    KINDS["bytes"]().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    file = folder / "chat_template.jinja"

    def read(content: bytes, _: str) -> None:
        file.write_bytes(content)
        try:
            _use_template(load.load_tokenizer(str(folder)), Random(content))
        finally:
            file.unlink()

    valid = tuple(Valid("", "text", text.encode()) for text in TEMPLATES)
    return Target("chat templates", 3, valid, read, lambda random: ("", any_template(random).encode()))


def _use_template(tokenizer: Any, random: Random) -> None:
    failed = None
    for _ in range(4):
        messages = any_messages(random)
        try:
            [ids] = encode(tokenizer, [messages])
        except VbonError as error:
            failed = error
            continue
        text = render_chat(tokenizer, messages, for_completion=True)
        assert ids == ids_of_text(tokenizer, text) or not text, "the ids of a chat are not those of its text"
        assert text_of_ids(tokenizer, ids) == text or not text
        if messages[-1]["role"] == "assistant" and messages[-1]["content"].strip():
            assert text.rstrip().endswith(messages[-1]["content"].strip()), "the completion does not continue the turn"
    if failed is not None:
        raise failed


def any_messages(random: Random) -> list[dict[str, str]]:
    """A conversation; most end with the user's turn, some with the beginning of the assistant's."""
    system = [{"role": "system", "content": "Be brief."}] if random.random() < 0.3 else []
    turns = random.choices(
        ("hi", "2+2?", "", " two  words ", "ünï 🙂", "{{ x }}", "<|im_end|>"), k=random.randrange(1, 5)
    )
    roles = ("user", "assistant")
    return system + [{"role": roles[place % 2], "content": turn} for place, turn in enumerate(turns)]


TEMPLATES = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "{% set date = strftime_now('%d %b %Y') %}Today: {{ date }}\n{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}",
    "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}",
)


def any_template(random: Random) -> str:
    """A template put together from what real ones hold, some of which refuse, print nothing or cannot be compiled."""
    before, head, role, content, refuses, end, opens, loop = (random.choice(parts) for parts in TEMPLATE_PARTS)
    loop_body = refuses + head.replace("{}", role) + content + end
    return f"{before}{{% for m in {loop} %}}{loop_body}{{% endfor %}}{opens.replace('HEAD', head)}"


TEMPLATE_PARTS = (
    ("", "{{ bos_token }}", "{{ '<s>' }}", "{{ strftime_now('%Y') }}", "{{ undefined }}", " "),
    ("<|{}|>\n", "[{}] ", "{}: ", "### {}:\n", ""),
    ("{{ m['role'] }}", "{{ m.role | upper }}", "{{ m['role'][0] }}", "{{ m.name }}"),
    (
        *("{{ m['content'] }}", "{{ m.content | trim }}", "{{ m['content'] | replace('a', 'b') }}", "{{ m.text }}"),
        *("{{ m['content'].strip() }}", "{{ m['content'] | tojson }}", "{{ m['content'] + eos_token }}", ""),
    ),
    (
        *("", "", "", "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"),
        *("{% if loop.index0 > 2 %}{{ 1 / 0 }}{% endif %}", "{% if not m.content %}{{ m.content.x.y }}{% endif %}"),
    ),
    ("\n", "<|end|>\n", "{{ eos_token }}", "</s>", ""),
    (
        *("{% if add_generation_prompt %}HEADassistant{% endif %}", "HEADassistant", "", "{% if %}", "{% endfor %}"),
        "{% if add_generation_prompt is defined and add_generation_prompt %}>{% endif %}",
    ),
    ("messages", "messages", "messages", "messages[1:]", "messages | reverse", "loop_messages"),
)
