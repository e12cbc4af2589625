"""HTTP rewards against a real server process: numbers, retries, time-outs, deaths, and secrets that stay secret."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vbon.errors import VbonError
from vbon.rewards import load_reward
from vbon.rewards.http import TOKEN_VARIABLE, http_reward, parse_endpoint

SECRET = "s3cr3t-t0ken"
SERVER = Path(__file__).parent / "reward_server.py"


class ServerProcess:
    def __init__(self, log):
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-S", str(SERVER), str(log)], stdout=subprocess.PIPE, text=True
        )
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def requests(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory):
    server = ServerProcess(tmp_path_factory.mktemp("server") / "log.jsonl")
    yield server
    server.stop()


@pytest.fixture
def server(shared_server, monkeypatch):
    shared_server.log.unlink(missing_ok=True)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    return shared_server


def reward_at(url, **options):
    return http_reward(url, **{"batch_size": 64, "timeout": 60.0, "max_attempts": 3, "first_delay": 0.01, **options})


def failure(url, completions=("fine", "bad one"), **options):
    with pytest.raises(VbonError) as raised:
        reward_at(url, **options)(["the prompt"] * len(completions), list(completions))
    message = str(raised.value)
    assert "\n" not in message and "prompt 'the prompt'" in message
    return message


def test_rewards_prompts_and_columns_travel_whole_and_in_batches(server):
    reward = load_reward(f"{server.url}/ok", batch_size=2, concurrency=1)
    chat = [{"role": "user", "content": "hé"}]
    np.testing.assert_array_equal(reward(["a", chat, "c"], ["x", "xyz", "é\ud83d"], k=[1, 2, 3]), [1, 3, 2])
    bodies = [request["body"] for request in server.requests()]
    assert bodies[0] == {"prompts": ["a", chat], "completions": ["x", "xyz"], "columns": {"k": [1, 2]}}
    assert bodies[1]["columns"] == {"k": [3]} and len(bodies) == 2


def test_as_many_requests_are_in_flight_as_asked_for(server):
    completions = ["x" * size for size in range(1, 13)]
    reward = reward_at(f"{server.url}/crowd", batch_size=1, concurrency=4)
    np.testing.assert_array_equal(reward(["p"] * 12, completions), np.arange(1, 13))
    assert server.log.with_name(server.log.name + ".most").read_text() == "4"  # not fewer, and never more


def test_floats_keep_every_bit(server):
    rewards = reward_at(f"{server.url}/third")(["p"], ["c"])
    assert rewards.dtype == np.float64 and rewards[0] == 1 / 3


def test_numpy_columns_are_sent_as_numbers(server):
    columns = {"target": [np.float32(0.5), np.int64(3)], "ids": [np.arange(2), np.arange(3)]}
    np.testing.assert_array_equal(reward_at(f"{server.url}/sum_column")(["p", "p"], ["c", "d"], **columns), [0.5, 3])
    assert server.requests()[0]["body"]["columns"]["ids"] == [[0, 1], [0, 1, 2]]


def test_a_column_that_is_no_json_is_refused(server):
    with pytest.raises(VbonError, match=r"cannot be sent as JSON.*prompt 'p'"):
        reward_at(f"{server.url}/ok")(["p"], ["c"], blob=[object()])
    assert server.requests() == []


@pytest.mark.parametrize("statuses", ["503", "429/500"])
def test_passing_troubles_are_repeated(server, statuses):
    np.testing.assert_array_equal(reward_at(f"{server.url}/flaky/{statuses}")(["p"], ["abc"]), [3])
    assert len(server.requests()) == 1 + len(statuses.split("/"))


def test_lasting_troubles_end(server):
    message = failure(f"{server.url}/flaky/500/501/502/503/504")
    assert "it answered 502" in message and "gave up after 3 attempts" in message
    assert len(server.requests()) == 3


@pytest.mark.parametrize(("path", "expected"), [("echo400", "it answered 400"), ("redirect", "it answered 307")])
def test_what_repeating_cannot_mend_is_not_repeated(server, path, expected):
    assert expected in failure(f"{server.url}/{path}")
    assert len(server.requests()) == 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nan", "returned nan; a reward must be a finite number (completion 1, prompt"),
        ("short", "returned 1 rewards for 2 completions"),
        ("nojson", "it answered no JSON: '<html>hello</html>'"),
        ("nokey", 'it answered JSON without "rewards"'),
        ("unauthorized", f"it answered 401 Unauthorized, set {TOKEN_VARIABLE}: 'who are you'"),
        ("hangup", "the connection failed: the answer broke off midway; gave up after 3 attempts"),
    ],
)
def test_each_wrong_answer_is_one_line(server, path, expected):
    assert expected in failure(f"{server.url}/{path}")


@pytest.mark.parametrize("path", ["slow", "drip", "drip_header"])
def test_a_slow_answer_is_given_up(server, path):
    """The server gives none before the client leaves: a client that waited for it would wait for ever."""
    message = failure(f"{server.url}/{path}", timeout=0.25, max_attempts=2)
    assert "no answer in 0.25 s; gave up after 2 attempts" in message


def test_an_answer_without_end_is_given_up(server):
    assert "its answer is longer than 64 MiB" in failure(f"{server.url}/flood")


def test_a_server_that_dies_midway_is_named(tmp_path):
    server = ServerProcess(tmp_path / "log.jsonl")
    try:
        assert "gave up after 3 attempts" in failure(f"{server.url}/die")
        assert server.process.wait() == 1
        assert "the connection failed: Connection refused" in failure(f"{server.url}/ok", max_attempts=1)
    finally:
        server.stop()


def test_no_server_is_one_line():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        message = failure(f"http://127.0.0.1:{unused.getsockname()[1]}/x")
    assert "Connection refused" in message


def test_the_token_goes_to_the_server_and_nowhere_else(server, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, SECRET + "\n")
    reward = reward_at(f"{server.url}/ok")
    reward(["p"], ["c"])
    assert server.requests()[0]["authorization"] == f"Bearer {SECRET}"
    message = failure(f"{server.url}/echo400")
    assert "Bearer ***" in message
    assert SECRET not in message + repr(reward) + reward.name + reward.fingerprint + repr(
        parse_endpoint("http://h", SECRET)
    )


def test_credentials_in_the_url_go_to_the_server_and_nowhere_else(server):
    url = server.url.replace("http://", "http://me:pa%40ss@") + "/echo400?key=hidden"
    reward = reward_at(url)
    assert reward.name == reward.fingerprint.split(" ")[0] == f"{server.url}/echo400"
    message = failure(url)
    assert server.requests()[0]["path"] == "/echo400?key=hidden"
    assert server.requests()[0]["authorization"] == "Basic bWU6cGFAc3M="  # base64 of me:pa@ss
    assert not any(secret in message for secret in ("hidden", "pa%40ss", "pa@ss", "bWU6cGFAc3M="))


@pytest.mark.parametrize(
    "url", ["http://", "https:///path", "http://me:pw@host:port/", "http://[::1", "http://me:pw@h/a b"]
)
def test_a_malformed_url_is_refused_without_its_password(url):
    with pytest.raises(VbonError) as raised:
        load_reward(url)
    assert "pw" not in str(raised.value)


def test_a_token_no_header_can_carry_is_refused_unquoted(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, f"{SECRET}\nX: y")
    with pytest.raises(VbonError, match=TOKEN_VARIABLE) as raised:
        load_reward("http://localhost/")
    assert SECRET not in str(raised.value)


def test_ports_and_ipv6_hosts_are_kept():
    endpoint = parse_endpoint("https://[::1]:8443/score", "")
    assert (endpoint.host, endpoint.port, endpoint.secure) == ("::1", 8443, True)
    assert endpoint.shown == "https://[::1]:8443/score"


def test_the_fingerprint_follows_the_query_and_does_not_show_it():
    rewards = [http_reward(f"http://h/score{query}", batch_size=1, timeout=1) for query in ("?model=A", "?model=B", "")]
    assert len({reward.fingerprint for reward in rewards}) == 3
    assert not any("model=" in reward.fingerprint for reward in rewards)
