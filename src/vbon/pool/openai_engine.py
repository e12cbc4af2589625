"""Samples from a server with an OpenAI-style API (`POST BASE_URL/completions`).

Tested with `transformers serve` and a server of the test suite; vLLM, SGLang, TGI and llama.cpp have the same API.

What a server does not tell stays unknown in the pool: its weights (the fingerprint has no model), log-probabilities at
the sampling temperature, and token ids unless it returns them. Text is never tokenised again to guess the ids, since
the result may differ from what was sampled; without ids a pool serves for online training, but not for offline
training. The rank test at the start of training shows whether the server samples the policy's distribution.
"""

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from vbon.artifacts.fingerprint import Fingerprint
from vbon.config.pool import CollectConfig
from vbon.errors import VbonError
from vbon.models import load
from vbon.models.prompts import completion_texts, encode, ids_by_default, loses_first_space, text_of
from vbon.pool.described import DescribedModel, describe_model
from vbon.pool.manifest import Plan
from vbon.pool.prompt_ids import check_vocabulary
from vbon.pool.prompts import Prompt
from vbon.pool.sampled import Drawn, Samples
from vbon.pool.sampling import seed_for
from vbon.rewards import Reward
from vbon.rewards.http import TOKEN_VARIABLE as REWARD_TOKEN_VARIABLE
from vbon.rewards.http import Endpoint, TransientError, parse_endpoint, post_repeatedly
from vbon.rewards.protocol import RewardError

TOKEN_VARIABLE = "VBON_API_TOKEN"
MAX_ATTEMPTS, FIRST_DELAY = 5, 0.5  # seconds


class Choice(NamedTuple):
    """A completion in a server's answer."""

    text: str
    ids: list[int] | None
    finished: bool | None


class Query(NamedTuple):
    """A request for completions of one prompt."""

    prompt: str
    prompt_ids: list[int]
    num_samples: int
    seed: int


@dataclass(frozen=True)
class Server:
    """A server and the settings of requests. `dialect` names the fields beyond OpenAI's own that the server takes."""

    endpoint: Endpoint
    model: str
    temperature: float
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    timeout: float
    dialect: str = "plain"

    def ask(self, query: Query) -> list[Choice]:
        """Send one request and return its choices, of which a server may give fewer than were requested.

        Raises:
            RewardError: the server refused the request or did not answer.
            VbonError: the answer has no choices.
        """
        body = json.dumps(self.common(query) | DIALECTS[self.dialect](self, query)).encode()
        answer = post_repeatedly(self.endpoint, body, self.timeout, MAX_ATTEMPTS, FIRST_DELAY)
        return read_choices(answer, self.endpoint)

    def common(self, query: Query) -> dict[str, Any]:
        """Build the fields of a request that are OpenAI's own."""
        return {
            "model": self.model,
            "prompt": query.prompt,
            "n": query.num_samples,
            "seed": query.seed,
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": 1.0,
        }

    def sample(self, query: Query) -> list[Choice]:
        """Collect all the choices that the query wants, in as many requests as needed.

        `transformers serve` ignores n, other servers limit it, and llama.cpp refuses more than it has slots.
        """
        choices: list[Choice] = []
        most = query.num_samples
        while len(choices) < query.num_samples:
            missing = min(most, query.num_samples - len(choices))
            rest = query._replace(num_samples=missing, seed=query.seed + len(choices))
            try:
                choices += self.ask(rest)[:missing]
            except TransientError:
                raise
            except RewardError:
                if missing == 1:
                    raise
                most = missing // 2
        return choices


def token_fields(server: Server, query: Query) -> dict[str, Any]:
    """Build the fields of vLLM and similar servers: prompt as token ids, and the sampled ids in the answer.

    Sampling settings are sent too, so that nothing comes from the model's generation config.
    """
    plain_sampling = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    stop = {"stop_token_ids": list(server.stop_token_ids)}
    return {"prompt": query.prompt_ids, "return_token_ids": True, **plain_sampling, **stop}


def transformers_fields(server: Server, query: Query) -> dict[str, Any]:
    """Build the fields of `transformers serve`.

    Without them it decodes greedily with top_k 50, or as the model's generation config says.
    """
    stop = list(server.stop_token_ids)
    settings = {"do_sample": True, "top_k": 0, "eos_token_id": stop, "pad_token_id": stop[0]} if stop else {}
    return {"generation_config": json.dumps(settings or {"do_sample": True, "top_k": 0})}


DIALECTS: dict[str, Callable[[Server, Query], dict[str, Any]]] = {
    "tokens": token_fields,
    "transformers": transformers_fields,
    "plain": lambda server, query: {},
}


def find_dialect(server: Server, query: Query) -> Server:
    """Find the first dialect that the server takes.

    Raises:
        VbonError: it takes none; the message has its last answer.
    """
    refusal = RewardError("takes no dialect")
    for dialect in DIALECTS:
        candidate = dataclasses.replace(server, dialect=dialect)
        try:
            candidate.ask(query)
        except TransientError as error:
            raise server_error(server, error) from None
        except RewardError as error:
            refusal = error
        else:
            return candidate
    raise server_error(server, refusal)


def read_choices(answer: bytes, endpoint: Endpoint) -> list[Choice]:
    """Parse the choices of an answer.

    Raises:
        VbonError: it is not an OpenAI-style answer, or has no choices.
    """
    try:
        choices = [_choice(choice) for choice in json.loads(answer)["choices"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise VbonError(f"--base-url {endpoint.shown}: not an OpenAI-style answer: {endpoint.quote(answer)}") from None
    if not choices:
        raise VbonError(f"--base-url {endpoint.shown}: answered without choices: {endpoint.quote(answer)}")
    return choices


def _choice(value: dict[str, Any]) -> Choice:
    text, ids = value["text"], value.get("token_ids")
    if not isinstance(text, str) or not (ids is None or all(type(token) is int for token in ids)):
        raise TypeError
    return Choice(text, ids, {"stop": True, "length": False}.get(value.get("finish_reason") or ""))


@dataclass(frozen=True)
class OpenAIEngine:
    """A server as an `Engine`; the local tokenizer of `--model` renders and counts the prompts."""

    server: Server
    model: DescribedModel
    concurrency: int
    device: str

    def fingerprint(self, reward: Reward) -> Fingerprint:
        """Compute the fingerprint; the server's weights, tokenizer and stop rule stay unknown."""
        return Fingerprint(
            chat_template=load.chat_template_fingerprint(self.model.tokenizer),
            temperature=float(self.server.temperature),
            max_new_tokens=self.server.max_new_tokens,
            reward=reward.fingerprint,
        )

    def encode(self, prompts: Sequence[Prompt], source: str) -> list[list[int]]:
        """Encode every prompt; see `Described.encode`."""
        return self.model.encode(prompts, source)

    def text_of(self, prompt: Prompt) -> str:
        """Return the text that the server is sent for a prompt."""
        return text_of(self.model.tokenizer, prompt.prompt)

    def batch_size(self, prompt_ids: Sequence[list[int]]) -> int:
        """Return the number of completions of one request."""
        return self.model.batch_size(prompt_ids)

    def draw(
        self, prompts: Sequence[Prompt], prompt_ids: Sequence[list[int]], plan: Plan, seed: int, num_samples: int
    ) -> Drawn:
        """Yield the samples of one prompt at a time; see `Engine.draw`."""
        queries = [
            Query(self.text_of(prompt), list(ids), num_samples, seed_for(prompt.prompt_id, seed))
            for prompt, ids in zip(prompts, prompt_ids, strict=True)
        ]
        if self.server.dialect != "tokens":
            self._warn_of_other_tokens(queries)
        with ThreadPoolExecutor(self.concurrency) as requests:
            yield from _checked(requests.map(self._ask, queries), num_samples)

    def _ask(self, query: Query) -> Samples:
        try:
            choices = self.server.sample(query)
        except RewardError as error:
            raise server_error(self.server, error) from None
        texts, ids, finished = zip(*choices, strict=True)
        known = [row for row in ids if row is not None]
        if len(known) == len(choices):  # a server's text is its own way of decoding; the policy's samples have ours
            for row in known:
                check_vocabulary(row, self.model.room.vocabulary, f"--base-url {self.server.endpoint.shown}")
            texts = tuple(completion_texts(self.model.tokenizer, query.prompt_ids, known))
        return Samples(list(texts), list(ids), [None] * len(choices), list(finished))

    def _warn_of_other_tokens(self, queries: Sequence[Query]) -> None:
        other = sum(ids_by_default(self.model.tokenizer, query.prompt) != query.prompt_ids for query in queries)
        if other:
            warnings.warn(
                f"the server takes text only, and its tokenizer may read {other} of {len(queries)} prompts as other "
                "tokens than the policy will (a second BOS, say); the rank test of training will tell",
                stacklevel=2,
            )


def load_openai_engine(config: CollectConfig) -> OpenAIEngine:
    """Make the engine for `--base-url`, with tokenizer, stop tokens and context length of `--model`.

    No weights are loaded.

    Raises:
        VbonError: the server cannot be used.
    """
    assert config.base_url is not None  # validate() saw to it
    endpoint = parse_endpoint(config.base_url.rstrip("/") + "/completions", os.environ.get(TOKEN_VARIABLE, ""))
    described = describe_model(config)
    server = Server(
        endpoint=endpoint,
        model=config.served_model or config.model,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        stop_token_ids=described.stop_token_ids,
        timeout=config.request_timeout,
    )
    server = find_dialect(server, Query("a", encode(described.tokenizer, ["a"])[0], 1, 0))  # before a pool is begun
    if server.dialect == "transformers" and loses_first_space(described.tokenizer):
        raise VbonError(
            f"--base-url {endpoint.shown}: decodes completions alone, where this model's tokenizer loses the first "
            "space, so that the reward would read other texts than in training; use a server that returns token ids "
            "(vLLM, SGLang) or --engine transformers"
        )
    if config.stop_token_ids and server.dialect == "plain":
        raise VbonError(f"--base-url {endpoint.shown}: takes no stop token ids; leave --stop-token-ids out")
    return OpenAIEngine(server, described, config.concurrency, str(load.resolve_device(config.device)))


def server_error(server: Server, error: RewardError) -> VbonError:
    """Make the error that names the server's address."""
    message = str(error).replace(REWARD_TOKEN_VARIABLE, TOKEN_VARIABLE)
    return VbonError(f"--base-url {server.endpoint.shown}: {message}")


def _checked(drawn: Iterator[Samples], num_samples: int) -> Drawn:
    """Number the prompts, and warn where all samples of each prompt are equal: the server may decode greedily."""
    varied = False
    for position, samples in enumerate(drawn):
        varied = varied or len(set(samples.completions)) > 1
        yield [position], [samples]
    if num_samples > 1 and not varied:
        warnings.warn("all samples of each prompt are equal: does the server decode greedily?", stacklevel=2)
