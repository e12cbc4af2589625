"""Token ids and log-probabilities of completions, from a server with an OpenAI-style API that tells them."""

import json
from typing import Any, NamedTuple

from vbon.pool.openai_engine import DIALECTS, FIRST_DELAY, MAX_ATTEMPTS, Query, Server, server_error
from vbon.rewards.http import post_repeatedly
from vbon.rewards.protocol import RewardError


class Told(NamedTuple):
    """The token ids of a completion and their log-probabilities, as a server tells them."""

    ids: list[int]
    logprobs: list[float]


def ask_told(server: Server, query: Query) -> list[Told]:
    """Ask for completions with token ids and log-probabilities, without those of which the server does not tell both.

    vLLM and its kin answer with `token_ids` and `logprobs.token_logprobs`, llama.cpp with `logprobs.content`.

    Raises:
        VbonError: the server refused the request or did not answer.
    """
    body = json.dumps(server.common(query) | DIALECTS[server.dialect](server, query) | {"logprobs": 1}).encode()
    try:
        answer = post_repeatedly(server.endpoint, body, server.timeout, MAX_ATTEMPTS, FIRST_DELAY)
        choices = json.loads(answer)["choices"]
    except RewardError as error:
        raise server_error(server, error) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    return [told for told in map(_told, choices) if told is not None]


def _told(choice: dict[str, Any]) -> Told | None:
    try:
        given = choice["logprobs"]
        if "content" in given:
            pairs = [(token["id"], token["logprob"]) for token in given["content"]]
        else:
            pairs = list(zip(choice["token_ids"], given["token_logprobs"], strict=True))
        ids, logprobs = [int(token) for token, _ in pairs], [float(logprob) for _, logprob in pairs]
    except (KeyError, TypeError, ValueError):
        return None
    return Told(ids, logprobs) if ids else None
