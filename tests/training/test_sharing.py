"""`--push-to-hub` over real HTTP: a hub of the test's own that takes a commit, and one that refuses it."""

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
import pytest
from tests.loopback import serve_on_loopback
from transformers import AutoModelForCausalLM

from vbon.errors import VbonError
from vbon.training.train import train

MODEL = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
PUSHED = {"README.md", *MODEL, "vbon/config.yaml", "vbon/metrics.jsonl", "vbon/run.json"}


class Hub(NamedTuple):
    """What a hub was sent; `refuses` is filled to make it answer 403."""

    created: list[dict]
    files: dict[str, bytes]
    tokens: set[str | None]
    refuses: list[str]


def answer(hub: Hub, path: str, body: bytes) -> dict:
    """The endpoints that an upload of small files needs, as the hub's own client calls them."""
    if path == "/api/repos/create":
        hub.created.append(json.loads(body))
        return {"url": "http://127.0.0.1/me/n4"}
    if path == "/api/models/me/n4/preupload/main":
        told = {"uploadMode": "regular", "shouldIgnore": False}
        return {"files": [{"path": one["path"], **told} for one in json.loads(body)["files"]]}
    if path == "/api/models/me/n4/commit/main":
        rows = [json.loads(line) for line in body.splitlines()]
        hub.files.update({r["value"]["path"]: base64.b64decode(r["value"]["content"]) for r in rows[1:]})
        return {"commitUrl": "http://127.0.0.1/me/n4/commit/abc", "commitOid": "abc", "success": True}
    return {"errors": [], "warnings": []}  # /api/validate-yaml


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub([], {}, set(), [])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hub.tokens.add(self.headers.get("Authorization"))
            content = json.dumps(answer(hub, self.path.partition("?")[0], body)).encode()
            self.send_response(403 if hub.refuses else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_trial")
    with serve_on_loopback(Handler) as address:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        yield hub


def test_a_run_is_pushed_as_the_model_that_it_is(configure, hub: Hub, tmp_path: Path):
    """What arrives loads as a model; no checkpoint, no sample and no token among it."""
    config = configure(push_to_hub="me/n4", num_iterations=2)
    assert train(config)["pushed_to"] == "http://127.0.0.1/me/n4/commit/abc"
    assert set(hub.files) == PUSHED and hub.tokens == {"Bearer hf_trial"}
    assert hub.created[0]["name"] == "n4" and hub.created[0]["organization"] == "me"
    assert hub.created[0]["visibility"] == "private"
    for name, content in hub.files.items():
        (tmp_path / "there" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / name).write_bytes(content)
        assert content == (Path(config.out) / name).read_bytes() and b"hf_trial" not in content
    AutoModelForCausalLM.from_pretrained(tmp_path / "there")


def test_a_hub_that_refuses_leaves_the_run_and_says_how_to_go_on(configure, hub: Hub):
    hub.refuses.append("403")
    config = configure(push_to_hub="me/n4", num_iterations=2)
    with pytest.raises(VbonError, match=r"--push-to-hub me/n4: .*403.*; the run is complete in .*: hf upload me/n4 "):
        train(config)
    assert (Path(config.out) / "model.safetensors").is_file()


def test_without_a_token_it_is_refused_before_the_work(configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    config = configure(push_to_hub="me/n4")
    with pytest.raises(VbonError, match="--push-to-hub me/n4: not logged in; run `hf auth login` or set HF_TOKEN"):
        train(config)
    assert not Path(config.out).exists()
    with pytest.raises(VbonError, match=r"--push-to-hub is '\.\./x/y', but must be a hub repository, OWNER/NAME"):
        configure(push_to_hub="../x/y").validate()
