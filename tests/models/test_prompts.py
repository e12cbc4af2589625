"""Prompts to ids and completions to text, one way each, with tokenizers of several kinds."""

import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

import vbon
from vbon.errors import VbonError
from vbon.models.prompts import (
    completion_texts,
    decode,
    encode,
    ids_of_text,
    loses_first_space,
    render_chat,
    text_of_ids,
    with_completion,
)

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% if not loop.last or not continue_final_message %}|"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
WORDS = ["the", "film", "was", "good", "bad", "and"]


def bytes_tokenizer() -> PreTrainedTokenizerBase:
    """Bytes, and <bos> = 256, <eos> = 257; nothing is added to a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<bos>", "<eos>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )


def sentencepiece_tokenizer(**options) -> PreTrainedTokenizerBase:
    """The Llama-2 kind, by transformers' own class: its decoder drops the first space of what it decodes."""
    vocabulary, merges = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3}, []
    for letter in sorted({letter for word in WORDS for letter in word} | {"."}):
        vocabulary[letter] = len(vocabulary)
    for word in WORDS:
        piece = "▁"
        for letter in word:
            if (piece, letter) not in merges:
                merges.append((piece, letter))
            piece += letter
            vocabulary.setdefault(piece, len(vocabulary))
    return LlamaTokenizer(vocab=vocabulary, merges=merges, **options)


def unigram_tokenizer() -> PreTrainedTokenizerBase:
    """The T5 and XLM-R kind: Unigram pieces with a metaspace."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -3.0), *((f"▁{word}", -2.0) for word in WORDS)]
    pieces += [(letter, -5.0) for letter in sorted({letter for word in WORDS for letter in word} | {"."})]
    core = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>")


def word_tokenizer() -> PreTrainedTokenizerBase:
    """Whole words, joined by spaces for want of a decoder."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<eos>", *WORDS, "."])}, unk_token="<eos>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")


KINDS = {
    "bytes": bytes_tokenizer,
    "sentencepiece": sentencepiece_tokenizer,
    "unigram": unigram_tokenizer,
    "words": word_tokenizer,
}


@pytest.fixture
def tokenizer():
    return bytes_tokenizer()


@pytest.fixture(params=KINDS)
def any_tokenizer(request: pytest.FixtureRequest):
    return KINDS[request.param]()


@pytest.mark.parametrize("text", ["plain", "  two  spaces , kept !", "naïve 漢字 🙂", "line\nline"])
def test_round_trip(tokenizer, text):
    ids = encode(tokenizer, [text])[0]
    assert len(ids) == len(text.encode())
    assert decode(tokenizer, [[256]], [ids]) == [text]


def test_text_is_what_the_ids_add_to_the_prompt(any_tokenizer):
    """At every place where a text can be cut into prompt and completion, the two texts are the whole again."""
    whole = ids_of_text(any_tokenizer, "the film was good and bad " * 5 + ".")
    text = any_tokenizer.decode(whole)
    for cut in range(1, len(whole)):
        prompt, completion = whole[:cut], whole[cut:]
        assert any_tokenizer.decode(prompt) + completion_texts(any_tokenizer, prompt, [completion])[0] == text


def test_what_a_completion_begins_with_is_told_apart(any_tokenizer):
    """ " good" and "good" are two completions where the tokenizer has both."""
    prompt = ids_of_text(any_tokenizer, "the film was")
    both = [ids_of_text(any_tokenizer, "the film was good")[len(prompt) :], ids_of_text(any_tokenizer, "good")]
    texts = completion_texts(any_tokenizer, prompt, both)
    assert texts[0] == " good"
    assert (texts[0] == texts[1]) == (both[0] == both[1])


def test_decoding_alone_is_known_to_lose_a_space():
    assert {name: loses_first_space(make()) for name, make in KINDS.items()} == {
        "bytes": False,
        "sentencepiece": True,
        "unigram": True,
        "words": True,
    }


def test_a_prompt_that_ends_within_a_character(tokenizer):
    ids = encode(tokenizer, ["abé!"])[0]
    assert completion_texts(tokenizer, ids[:3], [ids[3:]]) == ["é!"]  # the first half of é is the prompt's


def test_a_prompt_of_special_tokens_alone():
    tokenizer = sentencepiece_tokenizer()
    [word] = ids_of_text(tokenizer, "good")
    assert completion_texts(tokenizer, [1], [[word], []]) == ["good", ""]
    assert completion_texts(tokenizer, [word, *[1] * 20], [[word]]) == [" good"]  # the text lies far before the end


def test_special_tokens_are_left_out_of_the_text(tokenizer):
    hi = encode(tokenizer, ["hi there"])[0]
    assert decode(tokenizer, [[256], hi], [[256, *hi, 257], [257]]) == ["hi there", ""]


def test_what_the_tokenizer_puts_before_a_text_stays(tokenizer):
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 256)]
    )
    assert encode(tokenizer, ["a", ""]) == [[256, tokenizer.convert_tokens_to_ids("a")], [256]]


@pytest.mark.parametrize("single", ["<bos> $A <eos>", "$A <eos>", "<bos> $A <eos> <eos>"])
def test_what_the_tokenizer_puts_behind_a_text_is_left_off(tokenizer, single):
    """The policy would otherwise be sampled and trained after the end of the text."""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<bos>", 256), ("<eos>", 257)]
    )
    before = [256] if "<bos>" in single else []
    with pytest.warns(UserWarning, match="adds <eos>"):
        assert encode(tokenizer, ["ab"]) == [[*before, *ids_of_text(tokenizer, "ab")]]
        assert encode(tokenizer, [""]) == [[256]]
        assert encode(tokenizer, ["ab<eos>"]) == [[*before, *ids_of_text(tokenizer, "ab<eos>")]]  # the text's own


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
    assert [text_of_ids(tokenizer, row) for row in ids] == ["<user>2+2?|<bot>", "plain"]


def test_a_chat_that_ends_with_the_assistants_turn_is_continued(tokenizer):
    tokenizer.chat_template = TEMPLATE
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "It is"}]
    [ids] = encode(tokenizer, [messages])
    assert text_of_ids(tokenizer, ids).endswith("<assistant>It is")  # no turn closed, none opened
    whole = with_completion(messages, " 4")
    assert whole == [messages[0], {"role": "assistant", "content": "It is 4"}]
    assert render_chat(tokenizer, whole, for_completion=False).startswith(text_of_ids(tokenizer, ids) + " 4")


def test_a_template_that_refuses_is_one_line(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(VbonError, match="roles must alternate"):
        encode(tokenizer, [[{"role": "user", "content": "x"}]])


@pytest.mark.parametrize(
    ("call", "where"),
    [
        (r"\.(batch_)?decode\((?!\"|'|\)|errors|encoding)", {"models/prompts.py"}),
        (r"\.apply_chat_template\(", {"models/prompts.py"}),
        # the classifier: what the reward model itself reads; the lab: a function of this name that makes one
        (r"(?<!\w)tokenizer\([a-z]", {"models/prompts.py", "rewards/classifier.py", "lab/world.py"}),
    ],
)
def test_there_is_one_way_from_text_to_ids_and_back(call, where):
    """On the source: nothing else in the package decodes tokens, renders a chat or encodes a prompt."""
    root = Path(vbon.__file__).parent
    users = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(call, re.sub(r'"""(.|\n)*?"""', "", path.read_text()))
    }
    assert users <= where


def test_a_text_that_the_tokenizer_cannot_read_is_one_line():
    """Without an <unk>, a tokenizer of whole words raises a bare Exception for a word it does not know."""
    core = Tokenizer(models.WordLevel({"<eos>": 0, "the": 1}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")
    assert encode(tokenizer, ["the the"]) == [[1, 1]]
    with pytest.raises(VbonError, match="its tokenizer cannot read a text"):
        encode(tokenizer, ["the film"])
