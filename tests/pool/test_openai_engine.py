"""Pools from OpenAI-style servers: one of our own whose manners a test chooses, and a real `transformers serve`."""

import dataclasses
import json
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import stock_server
from tests.loopback import serve_on_loopback
from tests.stock_server import p_value
from transformers import PreTrainedTokenizerBase

from vbon.config.pool import CollectConfig
from vbon.errors import VbonError
from vbon.models.load import load_policy, load_tokenizer
from vbon.pool import ReferencePool
from vbon.pool.collect import collect
from vbon.rewards import http as reward_http

TOKEN_FIELDS = frozenset({"top_k", "min_p", "repetition_penalty", "stop_token_ids", "return_token_ids"})


@dataclass
class Manners:
    """`fields` beyond OpenAI's own that are taken, most choices an answer, and an answer to give instead."""

    fields: frozenset[str] = frozenset()
    most_choices: int = 100
    refuses_more: int = 100
    tells_ids: bool = False
    status: int = 200
    instead: bytes | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)


OPENAI_FIELDS = {"model", "prompt", "n", "seed", "max_tokens", "temperature", "top_p"}


def answer(manners: Manners, body: dict[str, Any]) -> tuple[int, bytes]:
    """Byte tokens drawn from the seed: a function of the request, as a server with seeds should be."""
    if manners.status != 200 or manners.instead is not None:
        return manners.status, manners.instead or b'{"detail": "no"}'
    unknown = set(body) - OPENAI_FIELDS - manners.fields
    if unknown or (isinstance(body["prompt"], list) and "return_token_ids" not in manners.fields):
        return 422, json.dumps({"detail": f"unexpected {sorted(unknown)}"}).encode()
    if body["n"] > manners.refuses_more:
        return 400, json.dumps({"error": f"n: {body['n']}"}).encode()
    count = min(body["n"], manners.most_choices)
    return 200, json.dumps({"choices": [choice(manners, body, index) for index in range(count)]}).encode()


def choice(manners: Manners, body: dict[str, Any], index: int) -> dict[str, Any]:
    rng = random.Random(body["seed"] + index)
    ids = [rng.randrange(97, 123) for _ in range(rng.randint(1, body["max_tokens"]))]
    reason = "length" if len(ids) == body["max_tokens"] else "stop"
    told = {"token_ids": ids} if manners.tells_ids else {}
    return {"index": index, "text": "".join(map(chr, ids)), "finish_reason": reason, **told}


@contextmanager
def serving(manners: Manners) -> Iterator[str]:
    """The base URL of a running server."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            manners.requests.append(body)
            manners.tokens.add(self.headers.get("Authorization"))
            status, content = answer(manners, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with serve_on_loopback(Handler) as address:
        yield f"{address}/v1"


@pytest.fixture
def config(tmp_path: Path, model_dir: Path) -> CollectConfig:
    prompts = [{"prompt": f"prompt {index}"} for index in range(4)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return CollectConfig(
        model=str(model_dir),
        reward="builtin:lexicon",
        prompts=str(tmp_path / "prompts.jsonl"),
        out=str(tmp_path / "pool"),
        num_samples=6,
        max_new_tokens=5,
        device="cpu",
        engine="openai",
        base_url="http://127.0.0.1:9",
    )


def collected(config: CollectConfig, **changes: Any) -> ReferencePool:
    return ReferencePool.open(collect(dataclasses.replace(config, **changes), progress=False))


def given_by(
    manners: Manners, requests: Iterable[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[dict[str, Any]]]:
    """What the server gives to each prompt in answer to these of the requests it took."""
    given: dict[str, list[dict[str, Any]]] = {}
    for body in requests:
        prompt = body["prompt"] if isinstance(body["prompt"], str) else tokenizer.decode(body["prompt"])
        status, content = answer(manners, body)
        if status == 200:
            given.setdefault(prompt, []).extend(json.loads(content)["choices"])
    return given


@pytest.mark.parametrize("most_choices", [1, 4, 100])
def test_every_sample_is_kept_whatever_the_server_makes_of_n(config, most_choices: int):
    manners = Manners(most_choices=most_choices)
    with serving(manners) as url:
        pool = collected(config, base_url=url, served_model="served")
    requests = [body for body in manners.requests if body["seed"]]  # seed 0: how to ask
    tried = 2 * -(-2 // most_choices)  # the reward is tried on two samples of two prompts first
    trial, requests = requests[:tried], requests[tried:]
    assert sum(min(body["n"], most_choices) for body in trial) == 4
    assert len(requests) == 4 * -(-6 // most_choices)
    seeds = [body["seed"] for body in requests]
    assert len(set(seeds)) == len(seeds)
    assert {(b["model"], b["temperature"], b["top_p"], b["max_tokens"]) for b in requests} == {("served", 1.0, 1.0, 5)}
    given = given_by(manners, requests, load_tokenizer(config.model))
    for index, prompt in enumerate(pool.prompts):
        rows = range(6 * index, 6 * index + 6)
        choices = given[prompt.prompt]
        assert sorted(pool.completions[row] for row in rows) == sorted(choice["text"] for choice in choices)
        assert sum(pool.finished[row] for row in rows) == sum(c["finish_reason"] == "stop" for c in choices)
    assert set(pool.completion_ids) == {None} and np.isnan(pool.ref_logprobs).all()
    assert pool.fingerprint.unknown() == ["model", "tokenizer", "stop"] and pool.manifest.dtype is None


def test_token_ids_go_out_and_come_back_where_the_server_tells_them(config):
    manners = Manners(fields=TOKEN_FIELDS, tells_ids=True)
    with serving(manners) as url:
        pool = collected(config, base_url=url, stop_token_ids=(7,))
    assert all(body["top_k"] == -1 and isinstance(body["prompt"], list) for body in manners.requests)
    assert all(body["stop_token_ids"] == [7, 256] for body in manners.requests)  # 256 is the model's own
    tokenizer = load_tokenizer(config.model)
    given = given_by(manners, manners.requests, tokenizer)
    assert set(given) == {"a", *(prompt.prompt for prompt in pool.prompts)}
    sent = [choice["token_ids"] for prompt in pool.prompts for choice in given[prompt.prompt]]
    assert all(ids in sent for ids in pool.completion_ids)
    # The text is what the policy's tokenizer makes of the ids, whatever text the server sent beside them.
    assert list(pool.completions) == [tokenizer.decode(ids, skip_special_tokens=True) for ids in pool.completion_ids]


def test_the_same_seed_gives_the_same_pool_and_another_another(config, tmp_path: Path):
    with serving(Manners()) as url:
        first, again, other = (
            list(collected(config, base_url=url, out=str(tmp_path / name), seed=seed).completions)
            for name, seed in (("first", 1), ("again", 1), ("other", 2))
        )
    assert first == again != other


@pytest.mark.parametrize(
    ("manners", "message"),
    [
        (Manners(status=404), r"it answered 404 Not Found: '{\"detail\": \"no\"}'"),
        (Manners(status=401), "it answered 401 Unauthorized, set VBON_API_TOKEN"),
        (Manners(instead=b"<html>"), "not an OpenAI-style answer: '<html>'"),
        (Manners(instead=b'{"choices": []}'), "answered without choices"),
        (Manners(instead=b'{"choices": [{"text": 3}]}'), "not an OpenAI-style answer"),
    ],
)
def test_what_a_server_cannot_do_is_one_line_before_a_pool_is_begun(config, manners: Manners, message: str):
    with serving(manners) as url, pytest.raises(VbonError, match=f"--base-url {url}/completions: {message}"):
        collected(config, base_url=url)
    assert not Path(config.out).exists()


def test_stop_tokens_that_a_server_cannot_take_are_refused(config):
    with serving(Manners()) as url, pytest.raises(VbonError, match="takes no stop token ids"):
        collected(config, base_url=url, stop_token_ids=(7,))


def test_no_server_is_one_line(config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reward_http.time, "sleep", lambda _: None)
    with pytest.raises(VbonError, match="the connection failed: Connection refused; gave up after 5 attempts"):
        collected(config)


def test_the_token_of_the_environment_is_sent_and_not_stored(config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VBON_API_TOKEN", "hush-hush")
    manners = Manners()
    with serving(manners) as url:
        pool = collected(config, base_url=url)
    assert manners.tokens == {"Bearer hush-hush"}
    assert not any(b"hush-hush" in path.read_bytes() for path in pool.path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": None}, "--base-url and --engine openai go together"),
        ({"engine": "transformers"}, "--base-url and --engine openai go together"),
        ({"base_url": "127.0.0.1:8000"}, "--base-url must be an address such as http://"),
        ({"base_url": "http://user:pass@host/v1"}, "pass a token as VBON_API_TOKEN"),
        ({"concurrency": 0}, "--concurrency is 0, but must be at least 1"),
    ],
)
def test_settings_that_do_not_fit(config, changes: dict[str, Any], message: str):
    with pytest.raises(VbonError, match=message):
        dataclasses.replace(config, **changes).validate()


@pytest.fixture(scope="module")
def transformers_serve(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a real `transformers serve` process on the model that tests sample from."""
    with stock_server.transformers_serve(model_dir, tmp_path_factory.mktemp("serve")) as url:
        yield url


def first_texts(config: CollectConfig, temperature: float, top_k: int = 0) -> dict[str, float]:
    """Exact probability of each text of one token, from a forward pass."""
    model, tokenizer = load_policy(config.model), load_tokenizer(config.model)
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("prompt 0")["input_ids"]])).logits[0, -1].double() / temperature
    if top_k:
        logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
    probs: dict[str, float] = {}
    for token, prob in enumerate(logits.softmax(-1).tolist()):
        text = tokenizer.decode([token], skip_special_tokens=True)
        probs[text] = probs.get(text, 0.0) + prob
    return probs


def test_a_real_server_samples_what_the_model_samples(config, transformers_serve: str):
    """It ignores n, refuses token ids, and unless told otherwise decodes greedily or with top_k 50."""
    one_token = {"limit": 1, "num_samples": 300, "max_new_tokens": 1, "concurrency": 1, "temperature": 3.0}
    texts = list(collected(config, base_url=transformers_serve, **one_token).completions)
    assert p_value(texts, first_texts(config, 3.0)) > 0.01
    assert p_value(texts, first_texts(config, 1.0)) < 1e-3  # the test has power
    assert p_value(texts, first_texts(config, 3.0, top_k=50)) < 1e-3


def test_a_real_server_gives_whole_completions(config, transformers_serve: str):
    served = collected(config, base_url=transformers_serve, num_samples=30, concurrency=4)
    assert served.num_samples.tolist() == [30] * 4 and set(served.completion_ids) == {None}
    assert len(set(served.completions)) > 60
    assert set(served.finished) == {True, False}  # the model's EOS is known to the server


def test_a_server_that_decodes_greedily_is_called_out(config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(random, "Random", lambda seed, real=random.Random: real(0))
    with serving(Manners(most_choices=1)) as url, pytest.warns(UserWarning, match="does the server decode greedily"):
        collected(config, base_url=url)


def test_the_few_samples_of_the_rewards_trial_call_no_server_greedy(
    config, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
):
    first = iter([0] * 5)  # how to ask, and two samples of two prompts, which a peaked model may well repeat
    monkeypatch.setattr(random, "Random", lambda seed, real=random.Random: real(next(first, seed)))
    with serving(Manners()) as url:
        assert len(set(collected(config, base_url=url).completions)) > 10
    assert next(first, None) is None and not [one for one in recwarn if "greedily" in str(one.message)]


def test_a_server_that_refuses_many_choices_is_asked_for_fewer(config):
    """As llama.cpp does, which refuses more than it has slots. Draws follow seeds, so they are the same."""
    with serving(Manners(refuses_more=2)) as url:
        few = collected(config, base_url=url)
    with serving(Manners()) as url:
        whole = collected(config, base_url=url, out=f"{config.out}-whole")
    assert list(few.completions) == list(whole.completions)
