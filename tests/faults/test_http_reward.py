"""A reward server that fails in the middle of collect and train: one line, nothing lost, and no secret anywhere."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.commands import COLLECT, EVALUATE, TRAIN
from tests.ports import free_port

from vbon.rewards.http import TOKEN_VARIABLE

SERVER = Path(__file__).parents[1] / "rewards/reward_server.py"
SECRETS = ("pa%40ss", "pa@ss", "k3y-of-the-url", "bWU6cGFAc3M=", "s3cr3t-t0ken")
FAULTS = {
    "all_nan": "returned nan; a reward must be a finite number",
    "short": "returned 1 rewards for",
    "nojson": "it answered no JSON",
    "die": "the connection failed",
}


class Server:
    """The server process, which can be told to misbehave, and started again where it was."""

    def __init__(self, log: Path):
        self._log, self.port = log, free_port()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-S", str(SERVER), str(self._log), str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._process.stdout.readline()  # once it listens

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def tell(self, mode: str) -> None:
        Path(f"{self._log}.mode").write_text(mode)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    server = Server(tmp_path_factory.mktemp("server") / "log")
    yield server
    server.stop()


def stored(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("shard-*"), *folder.glob("model.safetensors"), *folder.glob("vbon/checkpoints/*/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_midway_is_one_line_and_the_same_command_goes_on(vbon, server: Server, tmp_path, capfd, fault: str):
    reward = f"--reward http://127.0.0.1:{server.port}/switch"
    collect, train = f"{COLLECT} prompts.jsonl {reward} --out", f"{TRAIN} {reward} --keep-checkpoints 9 --out"
    assert vbon(f"{collect} whole") == vbon(f"{collect} pool") == vbon(f"{train} undisturbed") == 0

    def failing(line: str, after: int) -> None:
        server.tell(f"{after} {fault}")
        capfd.readouterr()
        assert vbon(line) == 2
        last = capfd.readouterr().err.splitlines()[-1]
        assert last.startswith(f"vbon: error: reward http://127.0.0.1:{server.port}/switch: ") and FAULTS[fault] in last
        server.stop()
        server.tell("0 ok")
        server.start()

    failing(f"{collect} again", 3)
    assert vbon(f"{collect} again") == 0
    assert stored(tmp_path / "again") == stored(tmp_path / "whole")
    failing(f"{train} run", 16)
    assert list((tmp_path / "run/vbon/checkpoints").glob("step-*"))
    assert vbon(f"{train} run") == 0
    assert stored(tmp_path / "run") == stored(tmp_path / "undisturbed")


@pytest.mark.parametrize("token", ["", SECRETS[-1]])
def test_no_secret_is_written_or_printed(vbon, server: Server, tmp_path, capfd, monkeypatch, token: str):
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    reward = f"http://me:pa%40ss@127.0.0.1:{server.port}/switch?key=k3y-of-the-url"
    assert vbon(f"{COLLECT} prompts.jsonl --out pool --reward {reward}") == 0
    assert vbon(f"{COLLECT} held.jsonl --out held --reward {reward}") == 0
    assert vbon(f"{TRAIN} --reward {reward} --json result.json") == 0
    assert vbon(f"{TRAIN} --reward {reward}") == 0
    assert vbon(f"{EVALUATE} --reward {reward} --judge {reward.replace('switch', 'ok')}") == 0
    assert vbon("report run eval") == 0
    server.tell("0 echo400")
    assert vbon(f"{COLLECT} prompts.jsonl --out other --reward {reward}") == 2
    printed = "".join(capfd.readouterr())
    files = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert "run/vbon/config.yaml" in "".join(files) and f"http://127.0.0.1:{server.port}/switch" in printed
    for secret in SECRETS:
        assert secret not in printed
        assert not [name for name, content in files.items() if secret.encode() in content]
