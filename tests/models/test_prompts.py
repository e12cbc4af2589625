"""Prompts to ids and back."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from vbon.errors import VbonError
from vbon.models.prompts import decode, encode

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)


@pytest.fixture
def tokenizer():
    """Bytes, and <bos> = 256, <eos> = 257; nothing is added to a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<bos>", "<eos>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )


@pytest.mark.parametrize("text", ["plain", "  two  spaces , kept !", "naïve 漢字 🙂", "line\nline"])
def test_round_trip(tokenizer, text):
    ids = encode(tokenizer, [text])[0]
    assert len(ids) == len(text.encode())
    assert decode(tokenizer, [ids]) == [text]


def test_special_tokens_are_left_out_of_the_text(tokenizer):
    assert decode(tokenizer, [[256, *encode(tokenizer, ["hi there"])[0], 257], [257]]) == ["hi there", ""]


def test_the_tokenizer_adds_what_it_adds(tokenizer):
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 256)]
    )
    assert encode(tokenizer, ["a", ""]) == [[256, tokenizer.convert_tokens_to_ids("a")], [256]]


def test_an_empty_prompt_is_bos(tokenizer):
    assert encode(tokenizer, [""]) == [[256]]
    tokenizer.bos_token = None
    with pytest.raises(VbonError, match="empty prompt needs a BOS"):
        encode(tokenizer, [""])


def test_messages_go_through_the_chat_template(tokenizer):
    messages = [{"role": "user", "content": "2+2?"}]
    with pytest.raises(VbonError, match="no chat template"):
        encode(tokenizer, [messages])
    tokenizer.chat_template = TEMPLATE
    ids = encode(tokenizer, [messages, "plain"])
    assert decode(tokenizer, ids) == ["<user>2+2?<bot>", "plain"]


def test_a_template_that_refuses_is_one_line(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(VbonError, match="roles must alternate"):
        encode(tokenizer, [[{"role": "user", "content": "x"}]])
