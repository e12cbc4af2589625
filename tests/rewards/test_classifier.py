"""Reward models built from a config, saved and loaded back; the oracle is a forward pass of one example at a time."""

import json
import warnings

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from vbon.errors import VbonError
from vbon.rewards import load_reward
from vbon.rewards.classifier import batches_by_length

WORDS = [
    "the",
    "a",
    "movie",
    "was",
    "good",
    "bad",
    "really",
    "quite",
    "long",
    "short",
    "and",
    "I",
    "liked",
    "it",
    "not",
]
VOCABULARY = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "</s>", *WORDS])}
PROMPTS = ["the movie", "a really long and quite good movie was", "I", "it was", "the movie", "not"]
COMPLETIONS = [" was good", " not bad and I really liked it", " liked it", "", " was good", " the a the a the"]
CHAT_TEMPLATE = "{% for m in messages %}{{ '[CLS] ' + m['content'] + ' </s> ' }}{% endfor %}"
MAX_POSITIONS = 24
# Batching changes the order of float32 sums; logits here are of order 1.
BATCH_TOLERANCE = 2e-6


def make_tokenizer(*, encoder=False, **options):
    inner = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if encoder:
        specials = [("[CLS]", 1), ("[SEP]", 2)]
        inner.post_processor = processors.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=specials
        )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "eos_token": "</s>", **options}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def ids_of(text):
    return [VOCABULARY[word] for word in text.split()]


def randomise(model):
    """Weights large enough that logits differ by order 1, with a seed of their own."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def gpt2(pad_token_id, num_labels=2):
    return GPT2ForSequenceClassification(
        GPT2Config(
            vocab_size=len(VOCABULARY),
            n_positions=MAX_POSITIONS,
            n_embd=32,
            n_layer=2,
            n_head=2,
            pad_token_id=pad_token_id,
            eos_token_id=4,
            bos_token_id=4,
            num_labels=num_labels,
            resid_pdrop=0.5,
        )
    )


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def bert():
    labels = {"id2label": {0: "NEG", 1: "POS", 2: "MIXED"}, "label2id": {"NEG": 0, "POS": 1, "MIXED": 2}}
    return BertForSequenceClassification(
        BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=MAX_POSITIONS, pad_token_id=0, **SMALL, **labels)
    )


def roberta():
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=len(VOCABULARY), max_position_embeddings=MAX_POSITIONS, pad_token_id=0, num_labels=1, **SMALL
        )
    )


def llama():
    return LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=len(VOCABULARY), max_position_embeddings=MAX_POSITIONS, pad_token_id=0, num_labels=1, **SMALL
        )
    )


def saved(path, model, tokenizer):
    randomise(model).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return model


def single_logit(model, ids, label):
    """The oracle: one unpadded row. With no padding anywhere, the last token is the one a decoder reads."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, label].double().item()


FAMILIES = {
    "gpt2-pad": (lambda: gpt2(0), 1, False),
    "gpt2-no-pad": (lambda: gpt2(None), 1, False),
    "gpt2-pad-outside-vocabulary": (lambda: gpt2(999), 1, False),
    "llama": (llama, 0, False),
    "bert": (bert, 2, True),
    "roberta": (roberta, 0, True),
}


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_batched_rewards_equal_single_forward_passes(tmp_path, family, batch_size):
    build, label, encoder = FAMILIES[family]
    tokenizer = make_tokenizer(encoder=encoder)
    model = saved(tmp_path, build(), tokenizer)
    reward = load_reward(f"{tmp_path}#{label}", batch_size=batch_size)
    rewards = reward(PROMPTS, COMPLETIONS, unused=list(range(6)))
    expected = [
        single_logit(model, tokenizer(p + c).input_ids, label) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    assert rewards.dtype == np.float64
    np.testing.assert_allclose(rewards, expected, rtol=0, atol=BATCH_TOLERANCE)
    assert np.ptp(expected) > 100 * BATCH_TOLERANCE  # else anything would pass


def test_a_reward_model_is_read_in_the_dtype_that_is_asked_for_and_its_fingerprint_says_so(tmp_path):
    model, tokenizer = llama(), make_tokenizer(encoder=False)
    saved(tmp_path, model, tokenizer)
    full, half = (load_reward(f"{tmp_path}#0", dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert half.score.__self__.model.dtype == torch.bfloat16 and full.score.__self__.model.dtype == torch.float32
    assert half.fingerprint == full.fingerprint.replace(" length:", " dtype:bfloat16 length:")
    expected, rounded = full(PROMPTS, COMPLETIONS), half(PROMPTS, COMPLETIONS)
    assert 0 < np.abs(rounded - expected).max() < 0.05 * np.ptp(expected)


def test_equal_texts_tie_exactly_wherever_they_are_in_the_batch(tmp_path):
    saved(tmp_path, bert(), make_tokenizer(encoder=True))
    rewards = load_reward(f"{tmp_path}#POS", batch_size=2)(PROMPTS, COMPLETIONS)
    assert rewards[0] == rewards[4] and len(set(rewards)) == 5


def test_each_distinct_text_is_read_once(tmp_path):
    saved(tmp_path, bert(), make_tokenizer(encoder=True))
    reward = load_reward(f"{tmp_path}#POS")
    read = []
    model = reward.score.__self__.model
    model.register_forward_pre_hook(lambda _, args, inputs: read.extend(inputs["input_ids"]), with_kwargs=True)
    reward(PROMPTS * 3, COMPLETIONS * 3)
    assert len(read) == 5


def test_a_decoder_without_padding_reads_the_last_token_whatever_it_is(tmp_path):
    model = saved(tmp_path, gpt2(None), make_tokenizer())
    rewards = load_reward(f"{tmp_path}#1")(["it was "] * len(VOCABULARY), list(VOCABULARY))
    expected = [single_logit(model, [*ids_of("it was"), i], 1) for i in range(len(VOCABULARY))]
    np.testing.assert_allclose(rewards, expected, rtol=0, atol=BATCH_TOLERANCE)


def test_labels_are_chosen_by_name_or_index(tmp_path):
    model = saved(tmp_path, bert(), make_tokenizer(encoder=True))
    ids = make_tokenizer(encoder=True)("the movie was good").input_ids
    for label, index in [("NEG", 0), ("POS", 1), ("MIXED", 2), ("1", 1)]:
        reward = load_reward(f"{tmp_path}#{label}")
        np.testing.assert_allclose(
            reward(["the movie"], [" was good"]), [single_logit(model, ids, index)], atol=BATCH_TOLERANCE
        )


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("", "has several logits"),
        ("#positive", "has no label 'positive'"),
        ("#3", "has no label '3'"),
        ("#-1", "has no label"),
    ],
)
def test_an_unclear_label_lists_the_labels(tmp_path, suffix, message):
    saved(tmp_path, bert(), make_tokenizer(encoder=True))
    with pytest.raises(VbonError, match=message) as raised:
        load_reward(f"{tmp_path}{suffix}")
    assert "NEG, POS, MIXED, or 0 to 2" in str(raised.value)


def test_one_logit_needs_no_label(tmp_path):
    model = saved(tmp_path, roberta(), make_tokenizer(encoder=True))
    ids = make_tokenizer(encoder=True)("it was good").input_ids
    np.testing.assert_allclose(
        load_reward(str(tmp_path))(["it was"], [" good"]), [single_logit(model, ids, 0)], atol=BATCH_TOLERANCE
    )


def test_chat_prompts_use_the_reward_models_own_template(tmp_path):
    tokenizer = make_tokenizer(encoder=True, chat_template=CHAT_TEMPLATE)  # adding [CLS] again would change the ids
    model = saved(tmp_path, bert(), tokenizer)
    chats = [
        [{"role": "user", "content": "the movie"}],
        [{"role": "system", "content": "I"}, {"role": "user", "content": "it"}],
    ]
    ids = [ids_of("[CLS] the movie </s> [CLS] was good </s>"), ids_of("[CLS] I </s> [CLS] it </s> [CLS] was bad </s>")]
    rewards = load_reward(f"{tmp_path}#POS")(chats, ["was good", "was bad"])
    np.testing.assert_allclose(rewards, [single_logit(model, row, 1) for row in ids], rtol=0, atol=BATCH_TOLERANCE)


def test_a_chat_prompt_without_a_usable_template_is_named(tmp_path):
    chat = [{"role": "user", "content": "why so"}]
    saved(tmp_path / "none", bert(), make_tokenizer(encoder=True))
    with pytest.raises(VbonError, match=r"no chat template; use strings \(completion 1, prompt 'why so'\)"):
        load_reward(f"{tmp_path / 'none'}#POS")(["plain", chat], ["x", "y"])
    strict = "{{ raise_exception('no system role') }}"
    saved(tmp_path / "strict", bert(), make_tokenizer(encoder=True, chat_template=strict))
    with pytest.raises(VbonError, match=r"refuses these messages: no system role \(completion 1, prompt 'why so'\)"):
        load_reward(f"{tmp_path / 'strict'}#POS")(["plain", chat], ["x", "y"])


@pytest.mark.parametrize(
    ("build", "encoder", "limit", "tokenizer_limit"),
    [
        (lambda: gpt2(0), False, MAX_POSITIONS, None),
        (bert, True, MAX_POSITIONS, None),
        (bert, True, 10, 10),
        (roberta, True, MAX_POSITIONS - 1, None),  # its positions start after padding id 0
    ],
)
def test_too_long_texts_are_cut_on_the_left_with_a_warning(tmp_path, build, encoder, limit, tokenizer_limit):
    tokenizer = make_tokenizer(encoder=encoder, **({"model_max_length": tokenizer_limit} if tokenizer_limit else {}))
    model = saved(tmp_path, build(), tokenizer)
    words = [WORDS[(7 * i) % len(WORDS)] for i in range(40)]
    reward = load_reward(f"{tmp_path}#0")
    with pytest.warns(UserWarning, match=f"texts beyond its {limit} tokens are cut on the left"):
        rewards = reward(["the movie", " ".join(words[:30])], [" was", " " + " ".join(words[30:])])
    kept = [VOCABULARY[w] for w in words[40 - (limit - 2 * encoder) :]]
    ids = [1, *kept, 2] if encoder else kept
    np.testing.assert_allclose(rewards[1], single_logit(model, ids, 0), rtol=0, atol=BATCH_TOLERANCE)


def test_a_text_of_exactly_the_limit_passes_in_silence(tmp_path):
    model = saved(tmp_path, gpt2(0), make_tokenizer())
    words = [WORDS[i % len(WORDS)] for i in range(MAX_POSITIONS)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rewards = load_reward(f"{tmp_path}#1")([" ".join(words[:4])], [" " + " ".join(words[4:])])
    expected = single_logit(model, [VOCABULARY[w] for w in words], 1)
    np.testing.assert_allclose(rewards, [expected], rtol=0, atol=BATCH_TOLERANCE)


def test_an_empty_text_is_read_as_the_end_token(tmp_path):
    model = saved(tmp_path, gpt2(0), make_tokenizer())
    rewards = load_reward(f"{tmp_path}#1")(["", "it"], ["", " was"])
    np.testing.assert_allclose(rewards[0], single_logit(model, [4], 1), rtol=0, atol=BATCH_TOLERANCE)


def test_bfloat16_checkpoints_are_scored_in_float32(tmp_path):
    model = randomise(gpt2(0)).bfloat16()
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    rewards = load_reward(f"{tmp_path}#1")(PROMPTS, COMPLETIONS)
    texts = [p + c for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    expected = [single_logit(model.float(), make_tokenizer()(text).input_ids, 1) for text in texts]
    np.testing.assert_allclose(rewards, expected, rtol=0, atol=BATCH_TOLERANCE)


def test_the_fingerprint_follows_weights_and_label_not_the_place(tmp_path):
    for name in ("one", "copy"):
        saved(tmp_path / name, bert(), make_tokenizer(encoder=True))
    model = randomise(bert())
    with torch.no_grad():
        model.classifier.bias[0] += 1e-6
    model.save_pretrained(tmp_path / "other")
    make_tokenizer(encoder=True).save_pretrained(tmp_path / "other")
    prints = {
        spec: load_reward(f"{tmp_path}/{spec}").fingerprint for spec in ("one#POS", "copy#1", "one#NEG", "other#POS")
    }
    assert prints["one#POS"] == prints["copy#1"]
    assert len(set(prints.values())) == 3


def test_a_language_model_is_no_reward_model(tmp_path):
    config = GPT2Config(vocab_size=len(VOCABULARY), n_positions=8, n_embd=32, n_layer=1, n_head=2, pad_token_id=0)
    saved(tmp_path, GPT2LMHeadModel(config), make_tokenizer())
    with pytest.raises(VbonError, match=r"is no trained classifier with all of its weights: they lack score\.weight"):
        load_reward(f"{tmp_path}#1")


def test_pickled_weights_are_refused(tmp_path):
    saved(tmp_path, gpt2(0), make_tokenizer())
    torch.save(gpt2(0).state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(VbonError, match=r"cannot load a trained classifier from .*safetensors.*pickled weights"):
        load_reward(f"{tmp_path}#1")


def test_an_unknown_device_is_one_line(tmp_path):
    saved(tmp_path, gpt2(0), make_tokenizer())
    with pytest.raises(VbonError, match="cannot use device 'nonsense'") as raised:
        load_reward(f"{tmp_path}#1", device="nonsense")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("equal_only", [False, True])
def test_batches_cover_each_row_once(equal_only):
    lengths = [5, 1, 5, 3, 1, 5, 2, 5]
    batches = list(batches_by_length(lengths, 3, equal_only=equal_only))
    assert sorted(i for batch in batches for i in batch) == list(range(8))
    assert max(map(len, batches)) == 3
    firsts = [lengths[batch[0]] for batch in batches]
    assert firsts == sorted(firsts, reverse=True)
    if equal_only:
        assert all(len({lengths[i] for i in batch}) == 1 for batch in batches)


BERT_STYLE = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
ROBERTA_STYLE = ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]")
LLAMA_STYLE = ("[CLS] $A", "[CLS] $A [CLS] $B:1")
PAIRS = [("a b", "c"), ("a", "b c"), ("c c c", "a"), ("", "b"), ("b", "")]


def pair_tokenizer(single, pair, **named):
    core = Tokenizer(
        models.WordLevel({t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdef"])}, "[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", model_max_length=8,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"], **named,
    )  # fmt: skip


def pair_model():
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=10, num_labels=1, max_position_embeddings=8, pad_token_id=0, **sizes)
    model = BertForSequenceClassification(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return model


@pytest.mark.parametrize("style", [BERT_STYLE, ROBERTA_STYLE])
def test_pairs_are_scored_as_transformers_scores_a_pair(style, tmp_path):
    model, tokenizer = pair_model(), pair_tokenizer(*style, cls_token="[CLS]", sep_token="[SEP]")
    saved(tmp_path, model, tokenizer)
    with pytest.raises(VbonError, match="has a form for pairs of texts; say which one the model was trained on"):
        load_reward(str(tmp_path))
    prompts, completions = map(list, zip(*PAIRS, strict=True))
    for form in ("pair", "text"):
        with torch.no_grad():
            texts = [(a, b) if form == "pair" else (a + b,) for a, b in PAIRS]
            expected = [model(**tokenizer(*text, return_tensors="pt")).logits.item() for text in texts]
        reward = load_reward(f"{tmp_path}#0:{form}", batch_size=3)
        np.testing.assert_allclose(reward(prompts, completions), expected, rtol=0, atol=1e-5)
    assert load_reward(f"{tmp_path}#0:pair").fingerprint != load_reward(f"{tmp_path}#0:text").fingerprint


def test_a_long_pair_loses_the_beginning_of_its_prompt(tmp_path):
    model, tokenizer = pair_model(), pair_tokenizer(*BERT_STYLE, cls_token="[CLS]", sep_token="[SEP]")
    saved(tmp_path, model, tokenizer)
    reward = load_reward(f"{tmp_path}#:pair")
    with pytest.warns(UserWarning, match="cut on the left"):
        long = reward(["a b c d e f", "a"], ["d e", "a b c d e f"])
    np.testing.assert_allclose(long[0], reward(["d e f"], ["d e"])[0], rtol=0, atol=1e-5)


def test_a_tokenizer_without_a_separator_is_not_asked_about_pairs(tmp_path):
    saved(tmp_path, pair_model(), pair_tokenizer(*LLAMA_STYLE, bos_token="[CLS]"))
    assert load_reward(str(tmp_path))(["a"], ["b"]).shape == (1,)
    with pytest.raises(VbonError, match="has no form for pairs of texts; leave :pair out"):
        load_reward(f"{tmp_path}#0:pair")


def test_the_fingerprint_follows_what_the_model_reads(tmp_path):
    """Equal weights under another tokenizer, template or config are another reward."""
    saved(tmp_path / "one", bert(), make_tokenizer(encoder=True))
    first = load_reward(f"{tmp_path / 'one'}#POS").fingerprint
    tokenizer = make_tokenizer(encoder=True, chat_template="{{ messages[0]['content'] }}")
    tokenizer.save_pretrained(tmp_path / "one")
    second = load_reward(f"{tmp_path / 'one'}#POS").fingerprint
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(tmp_path / "one")
    third = load_reward(f"{tmp_path / 'one'}#POS").fingerprint
    config = json.loads((tmp_path / "one/config.json").read_text())
    (tmp_path / "one/config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.5}))
    fourth = load_reward(f"{tmp_path / 'one'}#POS").fingerprint
    assert len({first, second, third, fourth}) == 4
    assert len({one.split(" ")[0] for one in (first, second, third, fourth)}) == 1


def test_the_length_at_which_texts_are_cut_is_in_the_fingerprint(tmp_path):
    saved(tmp_path, llama(), make_tokenizer(encoder=False))
    long = load_reward(f"{tmp_path}#0")
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 3}))
    short = load_reward(f"{tmp_path}#0")
    assert long.fingerprint != short.fingerprint
    with pytest.warns(UserWarning, match="cut"):
        assert (long(PROMPTS, COMPLETIONS) != short(PROMPTS, COMPLETIONS)).any()
