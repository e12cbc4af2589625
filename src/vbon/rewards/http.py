"""A reward behind an HTTP endpoint: POST {"prompts", "completions", "columns"} → {"rewards"}.

Spoken with `http.client`, so that a redirect is an error and never carries the token to another host, and no proxy of
the environment sees it. Requests that may succeed when repeated (no connection, a broken one, time-out, 429, 5xx) are
repeated with exponential back-off and jitter; the endpoint must therefore be a function of its request.
"""

import base64
import hashlib
import http.client
import json
import os
import random
import ssl
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from vbon.errors import VbonError
from vbon.rewards.checked import CheckedReward, checked, shorten
from vbon.rewards.protocol import Prompt, RewardError
from vbon.rewards.time_limit import TimeLimitReached, call_within

TOKEN_VARIABLE = "VBON_REWARD_TOKEN"
CHUNK_BYTES = 1 << 16
MAX_ANSWER_BYTES = 1 << 26  # a number a completion: more is no answer
MAX_DELAY = 8.0  # seconds

_jitter = random.Random()  # its own generator: waiting must not disturb anyone's seed


@dataclass(frozen=True)
class Endpoint:
    """Where to POST. `shown` is all of it that a message or a fingerprint may hold: no credentials, no query."""

    shown: str
    secure: bool
    host: str
    port: int | None
    target: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    def redact(self, text: str) -> str:
        """`text` without anything secret that a server may have echoed."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def quote(self, answer: bytes) -> str:
        """The start of an answer on one line; redacted before it is cut, or half a secret would slip through."""
        return repr(shorten(self.redact(answer.decode(errors="replace"))))


class TransientError(RewardError):
    """A failure that may pass when the request is repeated."""


def http_reward(
    spec: str, *, batch_size: int, timeout: float, concurrency: int = 1, max_attempts: int = 5, first_delay: float = 0.5
) -> CheckedReward:
    """The reward at an http:// or https:// URL, to which `concurrency` requests are in flight at a time.

    `timeout` (seconds) is for one of at most `max_attempts` requests.
    """
    endpoint = parse_endpoint(spec, os.environ.get(TOKEN_VARIABLE, ""))

    def score(prompts: list[Prompt], completions: list[str], columns: dict[str, list[Any]]) -> Any:
        body = encode({"prompts": prompts, "completions": completions, "columns": columns})
        return decode(endpoint, post_repeatedly(endpoint, body, timeout, max_attempts, first_delay))

    # No time limit around it: every request has its own, and repeats take what they take.
    query = urlsplit(spec).query  # may be a secret, and may choose another reward
    digest = f" query:{hashlib.sha256(query.encode()).hexdigest()[:16]}" if query else ""
    return checked(
        score,
        name=endpoint.shown,
        fingerprint=endpoint.shown + digest,
        batch_size=batch_size,
        noise=0.0,
        concurrency=concurrency,
    )


def parse_endpoint(spec: str, token: str) -> Endpoint:
    """The endpoint of a URL; a bearer token goes before `user:password@`. Raises VbonError without quoting a secret."""
    try:
        url = urlsplit(spec)
        host, port = url.hostname, url.port
    except ValueError:
        raise VbonError("the reward's URL is malformed; give http://HOST[:PORT]/PATH") from None
    if not host:
        raise VbonError("the reward's URL names no host; give http://HOST[:PORT]/PATH")
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    shown = f"{url.scheme}://{netloc}{url.path}"
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        **authorization(url, token.strip(), shown),
    }
    credentials = headers.get("Authorization", "").partition(" ")[2]
    secrets = tuple(s for s in (credentials, url.password, unquote(url.password or ""), url.query) if s)
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    if not target.isascii() or any(c.isspace() for c in target):
        raise VbonError(f"reward {shown!r}: write spaces and non-ASCII characters of the URL as %XX")
    return Endpoint(shown, url.scheme == "https", host, port, target, headers, secrets)


def authorization(url: SplitResult, token: str, shown: str) -> dict[str, str]:
    """The Authorization header, if there is anything to authorise with."""
    if token:
        if not (token.isascii() and token.isprintable()):
            raise VbonError(f"reward {shown}: {TOKEN_VARIABLE} holds characters that no HTTP header can carry")
        return {"Authorization": f"Bearer {token}"}
    if url.username is None:
        return {}
    pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def encode(payload: dict[str, Any]) -> bytes:
    """The request body; columns from Parquet may hold numpy values, which are sent as plain ones."""
    try:
        return json.dumps(payload, default=lambda value: value.tolist()).encode()
    except (TypeError, ValueError, AttributeError) as error:
        raise RewardError(f"a prompt or column cannot be sent as JSON: {shorten(str(error))}") from error


def post_repeatedly(endpoint: Endpoint, body: bytes, timeout: float, max_attempts: int, first_delay: float) -> bytes:
    """The body of the first answer that is no transient failure."""
    for attempt in range(1, max_attempts + 1):
        try:
            return post(endpoint, body, timeout)
        except TransientError as error:
            if attempt == max_attempts:
                raise RewardError(f"{error}; gave up after {attempt} attempts") from None
            time.sleep(min(first_delay * 2 ** (attempt - 1), MAX_DELAY) * _jitter.uniform(0.5, 1.5))
    raise VbonError(f"reward {endpoint.shown}: max_attempts is below 1")


def post(endpoint: Endpoint, body: bytes, timeout: float) -> bytes:
    """One request. Raises TransientError where a repeat may help, RewardError where not; neither quotes a secret."""
    connect = http.client.HTTPSConnection if endpoint.secure else http.client.HTTPConnection
    connection = connect(endpoint.host, endpoint.port, timeout=timeout)
    try:
        response, answer = call_within(timeout, lambda: exchange(connection, endpoint, body, timeout))
    except ssl.SSLCertVerificationError as error:
        raise RewardError(f"its certificate is refused: {error.verify_message}") from None
    except (TimeoutError, TimeLimitReached):  # the second: headers that come a byte at a time
        raise TransientError(f"no answer in {timeout:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(f"the connection failed: {endpoint.redact(explain(error))}") from None
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise status_error(endpoint, response.status, response.reason, answer)
    return answer


def exchange(
    connection: http.client.HTTPConnection, endpoint: Endpoint, body: bytes, timeout: float
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send the request and read the whole answer."""
    started = time.monotonic()
    connection.request("POST", endpoint.target, body, endpoint.headers)
    with connection.getresponse() as response:
        return response, read_within(response, started + timeout)


def read_within(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The whole body; TimeoutError past `deadline`, since a socket's own time-out starts anew with every byte."""
    chunks, size = [], 0
    while chunk := response.read1(CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise RewardError(f"its answer is longer than {MAX_ANSWER_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length:  # read1 ends quietly where the connection did
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(chunks)


def explain(error: Exception) -> str:
    """One line for a connection error; some of them have no message."""
    if isinstance(error, http.client.IncompleteRead):
        return "the answer broke off midway"
    return shorten(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def status_error(endpoint: Endpoint, status: int, reason: str, answer: bytes) -> RewardError:
    """The error for an answer that is not 200: transient for 429 and 5xx."""
    hint = f", set {TOKEN_VARIABLE}" if status in (401, 403) and "Authorization" not in endpoint.headers else ""
    kind = TransientError if status == 429 or status >= 500 else RewardError
    return kind(f"it answered {status} {endpoint.redact(reason)}{hint}: {endpoint.quote(answer)}")


def decode(endpoint: Endpoint, answer: bytes) -> Any:
    """The `rewards` of an answer; what they must be, `checked` checks."""
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError):
        raise RewardError(f"it answered no JSON: {endpoint.quote(answer)}") from None
    if not isinstance(parsed, dict) or "rewards" not in parsed:
        raise RewardError('it answered JSON without "rewards"; expected {"rewards": [one number per completion]}')
    return parsed["rewards"]
