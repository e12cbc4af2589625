"""A hub dataset and a local file are read alike: `datasets` against a hub of the test's own, over HTTP."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from tests.loopback import serve_on_loopback

from vbon.pool import read_prompts

pytest.importorskip("datasets", reason="datasets is not installed: pip install -e '.[datasets]'")

COMMIT = "a" * 40
MESSAGES = b'{"prompt": [{"role": "user", "content": "%s"}], "answer": %d}\n'
FILES = {"train.jsonl": MESSAGES % (b"one", 1) + MESSAGES % (b"two", 2), "test.jsonl": MESSAGES % (b"three", 3)}
READ = """
import sys
from vbon.errors import VbonError
from vbon.pool import read_prompts
for spec in sys.argv[1:]:
    try:
        print(spec, [one.prompt_id for one in read_prompts(spec)])
    except VbonError as error:
        print(spec, error)
"""


def described(path: str) -> object:
    """The hub's JSON about the dataset me/few, as its client asks for it; None for what it does not have."""
    if path.startswith(f"/api/datasets/me/few/tree/{COMMIT}?"):
        return [{"type": "file", "path": name, "size": len(c), "oid": oid(c)} for name, c in FILES.items()]
    if path in ("/api/datasets/me/few", f"/api/datasets/me/few/revision/{COMMIT}"):
        return {"id": "me/few", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES], "tags": []}
    return None


def oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = FILES.get(self.path.removeprefix(f"/datasets/me/few/resolve/{COMMIT}/"))
        answer = described(self.path)
        body = content if content is not None else json.dumps(answer or {}).encode()
        self.send_response(404 if content is answer is None else 200)
        if content is answer is None:
            self.send_header("X-Error-Code", "EntryNotFound" if "/me/few/" in self.path else "RepoNotFound")
        if content is not None:
            self.send_header("ETag", f'"{oid(content)}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    with serve_on_loopback(Hub) as address:
        yield address


def test_a_hub_dataset_gives_the_prompts_of_its_files(hub: str, tmp_path: Path):
    """`datasets` reads the hub's address once, at its import: a process of its own."""
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", READ, "me/few", "me/few:test", "me/none"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    for spec, name in (("me/few", "train.jsonl"), ("me/few:test", "test.jsonl")):
        (tmp_path / name).write_bytes(FILES[name])
        assert said[spec] == str([one.prompt_id for one in read_prompts(tmp_path / name)])
    assert said["me/none"].startswith("me/none: neither a file nor a hub dataset that loads (")
