"""Tokenizers put together at random from what the `tokenizers` library has, as the files that they are saved in."""

import json
from random import Random
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = ("the", "film", "was", "good", "bad", "and")
LETTERS = sorted({letter for word in WORDS for letter in word} | {".", " ", "\n"})
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
METASPACE = "▁"


def any_tokenizer(random: Random) -> dict[str, Any]:
    """tokenizer.json and tokenizer_config.json of a tokenizer that the library accepts, well matched or not."""
    family = random.choice(sorted(FAMILIES))
    tokenizer = FAMILIES[family](random)
    if random.random() < 0.3:
        tokenizer.normalizer = random.choice(NORMALIZERS)
    if random.random() < 0.1:
        tokenizer.pre_tokenizer = random.choice(PRE_TOKENIZERS)
    if random.random() < 0.1:
        tokenizer.decoder = random.choice(DECODERS)
    tokenizer.add_special_tokens(list(SPECIAL))
    if random.random() < 0.2:
        sides = {side: random.random() < 0.5 for side in ("lstrip", "rstrip", "single_word", "normalized")}
        tokenizer.add_tokens([AddedToken(random.choice(("film", "<tool>", " was", "é")), **sides)])
    if random.random() < 0.5:
        ids = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
        single = random.choice(("<s> $A", "$A </s>", "<s> $A </s>", "<s> <s> $A", "$A <s> </s>", "$A"))
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return {"tokenizer.json": json.loads(tokenizer.to_str()), "tokenizer_config.json": _config(random)}


def _config(random: Random) -> dict[str, Any]:
    config: dict[str, Any] = {"tokenizer_class": random.choice(("PreTrainedTokenizerFast", "TokenizersBackend"))}
    for role, token in (("bos", "<s>"), ("eos", "</s>"), ("unk", "<unk>"), ("pad", "<pad>")):
        if random.random() < 0.7:
            config[f"{role}_token"] = token
    for name in ("clean_up_tokenization_spaces", "add_bos_token", "add_eos_token", "add_prefix_space", "legacy"):
        if random.random() < 0.3:
            config[name] = random.random() < 0.5
    if random.random() < 0.2:
        config["model_max_length"] = random.choice((1, 4, 10**30))
    if random.random() < 0.2:
        config["extra_special_tokens"] = random.choice((["<x>"], {"x": "<x>"}, []))
    return config


def _bytes(random: Random) -> Tokenizer:
    """GPT-2's kind: bytes, and some merges."""
    vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in random.sample(WORDS, 3):
        piece = "Ġ"
        for letter in word:
            merges.append((piece, letter))
            piece += letter
            vocabulary.setdefault(piece, len(vocabulary))
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges))))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=random.random() < 0.5)
    made.decoder = decoders.ByteLevel()
    return made


def _sentencepiece(random: Random) -> Tokenizer:
    """Llama 2's kind: BPE over a metaspace, bytes for what is unknown, and a decoder that drops the first space."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL[:3])}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for piece in (METASPACE, *LETTERS, *(METASPACE + word[0] for word in WORDS)):
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [(METASPACE, letter) for letter in dict.fromkeys(word[0] for word in WORDS)]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(METASPACE), normalizers.Replace(" ", METASPACE)])
    steps = [decoders.Replace(METASPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if random.random() < 0.8 else []))
    return made


def _unigram(random: Random) -> Tokenizer:
    """T5's kind: Unigram over a metaspace."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), (METASPACE, -3.0), *((METASPACE + word, -2.0) for word in WORDS)]
    scheme = random.choice(("always", "never", "first"))
    made = Tokenizer(models.Unigram([*pieces, *((letter, -5.0) for letter in LETTERS)], unk_id=0, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return made


def _words(random: Random) -> Tokenizer:
    """Whole words, with or without a decoder."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*SPECIAL, *WORDS))}, unk_token="<unk>"))
    made.pre_tokenizer = random.choice((pre_tokenizers.Whitespace(), pre_tokenizers.WhitespaceSplit()))
    return made


def _pieces(random: Random) -> Tokenizer:
    """BERT's kind: the beginnings of words, and ## before what continues them."""
    pieces = [*SPECIAL, *LETTERS, *("##" + letter for letter in LETTERS), *WORDS]
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = (
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(cleanup=random.random() < 0.5),
    )
    return made


def _characters(random: Random) -> Tokenizer:
    """A token for each letter, joined by nothing."""
    made = Tokenizer(models.WordLevel({one: i for i, one in enumerate((*SPECIAL, *LETTERS))}, unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.Fuse()
    return made


FAMILIES = {
    **{"bytes": _bytes, "sentencepiece": _sentencepiece, "unigram": _unigram},
    **{"words": _words, "pieces": _pieces, "characters": _characters},
}
NORMALIZERS = (
    *(normalizers.NFC(), normalizers.NFKD(), normalizers.Lowercase(), normalizers.StripAccents()),
    *(normalizers.Strip(), normalizers.BertNormalizer(), normalizers.Replace("good", "bad"), normalizers.Prepend("x")),
)
PRE_TOKENIZERS = (
    *(
        pre_tokenizers.Whitespace(),
        pre_tokenizers.Metaspace(),
        pre_tokenizers.ByteLevel(),
        pre_tokenizers.Punctuation(),
    ),
    *(pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Split(" ", "removed")),
)
DECODERS = (
    *(decoders.ByteLevel(), decoders.Metaspace(), decoders.WordPiece(), decoders.BPEDecoder(), decoders.CTC()),
    *(decoders.Fuse(), decoders.Strip(" ", 1, 0), decoders.Sequence([decoders.Replace("a", " "), decoders.Fuse()])),
)
