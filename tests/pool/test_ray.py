"""`--engine ray`: the worker by itself, and `make test-ray`: a real cluster of two nodes on this machine.

What the tests hold everything against is the pool that one process makes: the same bytes.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from vbon import cli
from vbon.config.pool import CollectConfig
from vbon.errors import VbonError
from vbon.pool import ReferencePool, make_prompt, read_prompts
from vbon.pool.collect import collect
from vbon.pool.described import describe_model
from vbon.pool.job import Part, part_of
from vbon.pool.manifest import manifest_to_json, read_manifest
from vbon.pool.ray_shards import MOST_ATTEMPTS, Attempts, ShardMaker, pack, unpack

LIMIT = 500  # seconds; starting a cluster and its workers takes most of it on a machine that does much else
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: make test-ray")

REWARD = """
import os, signal, time
from pathlib import Path

FOLDER = Path(__file__).parent

def score(prompts, completions, answer):
    with open(FOLDER / "workers", "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(1.0 * (FOLDER / "slow").exists())
    if (FOLDER / "kill").exists() and 17 in answer:
        (FOLDER / "kill").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if (FOLDER / "refuse").exists() and 17 in answer:
        return [float("nan")] * len(answer)
    return [sum(map(ord, text)) / 1000 + extra for text, extra in zip(completions, answer)]
"""


@pytest.fixture
def config(tmp_path: Path, model_dir: Path) -> CollectConfig:
    """24 prompts, two in a batch and four in a shard: six shards, each in four batches."""
    (tmp_path / "reward.py").write_text(REWARD)
    prompts = [{"prompt": "p" * (1 + index % 5) + str(index), "answer": index} for index in range(24)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return CollectConfig(
        model=str(model_dir),
        reward="reward.py:score",
        prompts="prompts.jsonl",
        out="pool",
        num_samples=8,
        max_new_tokens=6,
        batch_size=16,
        samples_per_shard=32,
        device="cpu",
        seed=3,
    )


@pytest.fixture
def alone(config: CollectConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pool of the transformers engine, in `tmp_path / "alone"`."""
    monkeypatch.chdir(tmp_path)
    folder = collect(dataclasses.replace(config, out=str(tmp_path / "alone")), progress=False)
    (tmp_path / "workers").unlink()
    return folder


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


def worker(config: CollectConfig, pool: Path, folder: Path) -> ShardMaker:
    return ShardMaker(dataclasses.asdict(config), manifest_to_json(read_manifest(pool)), str(folder), Attempts().begin)


def part(config: CollectConfig, pool: Path, index: int) -> Part:
    prompts = read_prompts(config.prompts)
    return part_of(Part(prompts, describe_model(config).encode(prompts, "")), read_manifest(pool), index)


def test_a_worker_makes_the_bytes_of_one_process(config, alone: Path, tmp_path: Path):
    """From what travels to it: JSON; described without weights, prompts encode the same way."""
    ray_config = dataclasses.replace(config, engine="ray", num_workers=2)
    made = worker(ray_config, alone, tmp_path)
    for index, (name, content) in enumerate(sorted(shards_of(alone).items())):
        row = made({"index": index, "part": pack(part(config, alone, index))})
        assert row == {"index": index, "content": content, "mistake": ""}, name
    assert len(shards_of(alone)) == 6


def test_a_model_described_has_the_fingerprint_of_the_model_loaded(config, alone: Path, model_dir: Path, tmp_path):
    from vbon.rewards import load_reward

    loaded = read_manifest(alone).fingerprint
    assert describe_model(config).fingerprint(load_reward(config.reward)) == loaded
    bare = tmp_path / "bare"  # no generation_config.json: the stop token stands in config.json alone
    bare.mkdir()
    for file in model_dir.iterdir():
        if file.name != "generation_config.json":
            (bare / file.name).symlink_to(file)
    assert describe_model(dataclasses.replace(config, model=str(bare))).stop_token_ids == loaded.stop == (256,)


def test_a_node_with_other_weights_makes_nothing(config, alone: Path, tmp_path: Path):
    manifest = read_manifest(alone)
    other = dataclasses.replace(manifest, fingerprint=dataclasses.replace(manifest.fingerprint, model="abc"))
    made = ShardMaker(dataclasses.asdict(config), manifest_to_json(other), str(tmp_path), Attempts().begin)
    row = made({"index": 0, "part": pack(part(config, alone, 0))})
    assert row["content"] == b""
    assert re.fullmatch(
        r"a worker on \S+: model is 'abc' where the pool was begun but '\w+ config:\w+' on this node; .*",
        row["mistake"],
    )


def test_a_shard_that_kills_every_worker_is_given_up(config, alone: Path, tmp_path: Path):
    """Each attempt by a new worker, as after a death; the next shard has its own count."""
    attempts, manifest = Attempts(), manifest_to_json(read_manifest(alone))
    mistakes = []
    for _ in range(MOST_ATTEMPTS + 1):
        made = ShardMaker(dataclasses.asdict(config), manifest, str(tmp_path), attempts.begin)
        mistakes.append(made({"index": 1, "part": pack(part(config, alone, 1))})["mistake"])
    assert mistakes[:-1] == [""] * MOST_ATTEMPTS
    assert re.search("shard 1 was begun 5 times, and its worker died each time", mistakes[-1])
    assert made({"index": 2, "part": pack(part(config, alone, 2))})["mistake"] == ""


def test_a_part_survives_the_journey():
    prompts = [make_prompt("π\u2028", {"answer": [1, None]}, row=3), make_prompt([{"role": "user", "content": "x"}])]
    there = unpack(pack(Part(prompts, [[1, 2], [3]])))
    assert there == Part(prompts, [[1, 2], [3]]) and [one.row for one in there.prompts] == [3, None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_workers": 2}, "--num-workers needs --engine ray"),
        ({"engine": "ray", "device": "cuda:1"}, "Ray gives each worker its own GPU"),
        ({"engine": "ray", "num_workers": 0}, "--num-workers is 0"),
        ({"engine": "ray", "base_url": "http://127.0.0.1/v1"}, "--base-url and --engine openai go together"),
    ],
)
def test_settings_that_do_not_fit(config, changes: dict, message: str):
    with pytest.raises(VbonError, match=message):
        dataclasses.replace(config, **changes).validate()


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_extra_is_named(config, tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    assert cli.main(command(config)[3:]) == 2
    assert capfd.readouterr().err.splitlines()[-1] == (
        "vbon: error: this needs ray, which is not installed; in vbon's clone run: pip install -e '.[ray]'"
    )


# The cluster -----------------------------------------------------------------------------------------------------


class Cluster(NamedTuple):
    """Two nodes on this machine, of one CPU each, in a process of their own."""

    process: subprocess.Popen[str]
    address: str

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"RAY_ADDRESS": self.address}

    def lose_a_node(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "lost\n"


@contextmanager
def ray_cluster(folder: Path) -> Iterator[Cluster]:
    script, pipe = Path(__file__).with_name("ray_cluster.py"), subprocess.PIPE
    with (
        open(folder / "cluster", "w") as log,
        subprocess.Popen([sys.executable, script], stdin=pipe, stdout=pipe, stderr=log, text=True) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        address = process.stdout.readline().strip()
        assert ":" in address, (folder / "cluster").read_text()[-3000:]
        try:
            yield Cluster(process, address)
        finally:
            process.stdin.close()
            process.wait(60)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ray_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def command(config: CollectConfig) -> list[str]:
    flags = [
        word
        for name in (
            "model",
            "reward",
            "prompts",
            "out",
            "num_samples",
            "max_new_tokens",
            "batch_size",
            "seed",
            "samples_per_shard",
            "device",
        )
        for word in (f"--{name.replace('_', '-')}", str(getattr(config, name)))
    ]
    return [sys.executable, "-m", "vbon", "collect", *flags, "--engine", "ray", "--num-workers", "2"]


def run(config: CollectConfig, folder: Path, cluster: Cluster) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(config), cwd=folder, env=cluster.environment, capture_output=True, text=True, timeout=LIMIT
    )


def workers(folder: Path) -> list[str]:
    """The process ids that scored, a line a shard."""
    return (folder / "workers").read_text().split()


@needs_ray
@pytest.mark.timeout(LIMIT)
def test_two_nodes_make_the_pool_of_one_process_though_a_worker_is_killed(
    config, alone: Path, tmp_path: Path, cluster: Cluster
):
    (tmp_path / "kill").touch()
    done = run(config, tmp_path, cluster)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "kill").exists()  # the SIGKILL happened
    assert shards_of(tmp_path / "pool") == shards_of(alone)
    assert len(workers(tmp_path)) == 7 and len(set(workers(tmp_path))) >= 2  # a shard twice; its second worker is new
    pool, whole = ReferencePool.open(tmp_path / "pool"), ReferencePool.open(alone)
    assert pool.fingerprint == whole.fingerprint and pool.manifest.shards == whole.manifest.shards


@needs_ray
@pytest.mark.timeout(LIMIT)
def test_a_workers_mistake_is_one_line_and_the_same_command_goes_on_though_a_node_is_lost(
    config, alone: Path, tmp_path: Path, cluster: Cluster
):
    (tmp_path / "refuse").touch()
    done = run(config, tmp_path, cluster)
    assert done.returncode == 2
    assert re.search(r"vbon: error: a worker on \S+: .*nan", done.stderr.splitlines()[-1], re.IGNORECASE)
    kept = shards_of(tmp_path / "pool")
    assert len(kept) < 6
    (tmp_path / "refuse").unlink()
    (tmp_path / "slow").touch()
    with subprocess.Popen(command(config), cwd=tmp_path, env=cluster.environment) as again:
        wait_until(lambda: len(shards_of(tmp_path / "pool")) > len(kept), again)
        cluster.lose_a_node()
        assert again.wait(LIMIT) == 0
    assert shards_of(tmp_path / "pool") == shards_of(alone)


def wait_until(holds, process: subprocess.Popen, seconds: float = LIMIT / 2) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
