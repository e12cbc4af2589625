"""The small models of demo and sentiment recipe: what their windows hold, and what their losses are."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from vbon.recipes import fit, small_models
from vbon.recipes.small_models import ModelConfig, Review, Windows

TINY = ModelConfig(vocabulary=300, width=16, layers=1, heads=2, window=12, batch_size=16, steps=2)
REVIEWS = [Review("This kettle is very dull.", 0), Review("A charming tent, a splendid lid and a warm screen.", 1)]


@pytest.fixture(scope="module")
def tokenizer():
    return small_models.train_tokenizer([one.text for one in REVIEWS], TINY)


@pytest.mark.parametrize("text", ["This kettle is dull.", "naïve 木 🙂", "", "a\x00b\r\n"])
def test_tokenizer_gives_any_text_back(tokenizer, text: str):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_windows_are_slices_of_their_review_and_half_of_them_begin_it(tokenizer):
    windows = Windows(tokenizer, REVIEWS, TINY.window)
    whole = {one.label: [*tokenizer(one.text)["input_ids"], tokenizer.eos_token_id] for one in REVIEWS}
    ids, real, labels = windows.draw(4000, torch.Generator().manual_seed(0))
    starts = []
    for row, mask, label in zip(ids.tolist(), real, labels.tolist(), strict=True):
        ids_of, length = whole[label], int(mask.sum())
        assert mask[:length].all() and set(row[length:]) <= {tokenizer.pad_token_id}
        starts.append(next(i for i in range(len(ids_of)) if ids_of[i : i + TINY.window] == row[:length]))
    long = [start for start, label in zip(starts, labels.tolist(), strict=True) if label == 1]
    room = len(whole[1]) - TINY.window
    assert room > 0 and set(long) == set(range(room + 1))
    expected = 0.5 + 0.5 / (room + 1)
    assert sum(start == 0 for start in long) / len(long) == pytest.approx(expected, abs=5 * 0.5 / len(long) ** 0.5)


def test_next_token_loss_is_that_of_each_row_alone(tokenizer):
    torch.manual_seed(0)
    model = small_models.GPT2LMHeadModel(small_models.gpt2_config(tokenizer, TINY)).eval()
    ids, real, labels = Windows(tokenizer, REVIEWS, TINY.window).draw(8, torch.Generator().manual_seed(0))
    nats = []
    for row, mask in zip(ids, real, strict=True):
        logprobs = model(row[mask][None]).logits[0].log_softmax(-1)
        nats += [-logprobs[i, token].item() for i, token in enumerate(row[mask][1:].tolist())]
    loss = small_models.next_token_loss(model, ids, real, labels)
    assert loss.item() == pytest.approx(sum(nats) / len(nats), abs=1e-5)


def test_prefix_label_loss_is_that_of_every_prefix_classified_alone(tokenizer):
    torch.manual_seed(0)
    config = small_models.gpt2_config(tokenizer, TINY, num_labels=2)
    model = small_models.GPT2ForSequenceClassification(config).eval()
    ids, real, labels = Windows(tokenizer, REVIEWS, TINY.window).draw(4, torch.Generator().manual_seed(0))
    nats = []
    for row, mask, label in zip(ids, real, labels.tolist(), strict=True):
        tokens = row[mask]
        for end in range(1, len(tokens) + 1):
            nats.append(-model(tokens[:end][None]).logits[0].log_softmax(-1)[label].item())
    loss = small_models.prefix_label_loss(model, ids, real, labels)
    assert loss.item() == pytest.approx(sum(nats) / len(nats), abs=1e-5)


def test_the_classifier_learns_a_word_and_is_saved_as_an_ordinary_model(tokenizer, tmp_path: Path):
    reviews = [
        Review(f"A {word} {thing}.", label)
        for thing in ("tent", "lid", "kettle", "screen")
        for word, label in (("charming", 1), ("dull", 0))
    ]
    config = ModelConfig(width=16, layers=1, heads=2, window=12, batch_size=16, steps=60, learning_rate=1e-2)
    figures = small_models.train_classifier(reviews[:6], reviews[6:], config, tokenizer, tmp_path / "classifier")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier").eval()
    reader = AutoTokenizer.from_pretrained(tmp_path / "classifier")
    named = [
        model.config.id2label[model(**reader(one.text, return_tensors="pt")).logits.argmax().item()]
        for one in reviews[6:]
    ]
    assert named == ["POSITIVE", "NEGATIVE"] and figures["held_out_accuracy"] == 1.0


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        small_models.train_reference(REVIEWS, REVIEWS, TINY, tmp_path / name, seed=seed)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b", "c")]
    assert weights[0] == weights[1] != weights[2]


def test_learning_rate_rises_then_falls_to_a_twentieth():
    factors = [fit.learning_rate_factor(step, 400) for step in range(401)]
    assert factors[0] == pytest.approx(1 / fit.WARMUP_STEPS)
    assert max(factors) == pytest.approx(factors[fit.WARMUP_STEPS - 1])
    assert factors[-1] == pytest.approx(0.05)
