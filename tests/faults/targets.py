"""Every reader of the package, with files that it accepts: what the fuzzer damages, and what it calls on the damage."""

import dataclasses
import gzip
import hashlib
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mutate import HTML

from vbon import config as configs
from vbon.config.yaml_file import load_yaml, merged_text, read_sections
from vbon.errors import VbonError
from vbon.evaluation.runs import read_run
from vbon.pool.declarations import parse_declarations
from vbon.pool.fingerprint import Fingerprint
from vbon.pool.importers import import_pool
from vbon.pool.manifest import MANIFEST_NAME, Manifest, Plan
from vbon.pool.prompts import make_prompt, read_prompts
from vbon.pool.shards import PromptSamples
from vbon.pool.store import ReferencePool
from vbon.pool.writer import PoolWriter, hash_prompt_ids
from vbon.report.read import read_folders
from vbon.rewards.checked import checked
from vbon.rewards.http import decode, parse_endpoint
from vbon.training import checkpoint
from vbon.training.metrics import keep_rows
from vbon.training.run_folder import RunFolder
from vbon.training.state import RunState

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
import folders

Read = Callable[[bytes, str], None]


class Valid(NamedTuple):
    """A file that its reader accepts. `kind` (json, table, text) says how it is damaged beside its bytes."""

    suffix: str
    kind: str
    content: bytes


class Target(NamedTuple):
    """`read(content, suffix)` reads these bytes as the package would; `share` weighs the target among the others."""

    name: str
    share: int
    valid: tuple[Valid, ...]
    read: Read


PROMPTS: list[dict[str, Any]] = [
    {"prompt": "a plain prompt", "answer": "4", "level": 1},
    {"prompt": "ünïcödé \u2028 🎈", "answer": "", "level": 10**20},
    {"prompt": "", "answer": HTML, "level": -0.5},
    {"prompt": "a plain prompt", "answer": "4", "level": 1},
]
CHATS = [{"prompt": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "é"}], "answer": None}]
FLAT = [{"prompt": "a", "text": "a b", "reward": 1.5}, {"prompt": "a", "text": "a c", "reward": -2}]
GROUPED = [
    {"prompt": "a", "responses": ["x", "y"], "rewards": [0.5, 1e300], "response_ids": [[1, 2], []]},
    {"prompt": "b", "ref_completions": ["z"], "ref_rewards": [3], "source": HTML},
]
DECLARED = ("temperature=1.0", "max_new_tokens=40", "stop=0,198", "columns=answer,level", "text=completion")


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def csv_text(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return "".join(delimiter.join(f'"{cell}"' for cell in line) + "\r\n" for line in lines).encode()


def prompt_files() -> tuple[Valid, ...]:
    plain = [row | {"level": float(row["level"])} for row in PROMPTS]
    return (
        Valid(".jsonl", "json", json_lines(PROMPTS + CHATS)),
        Valid(".json", "json", json.dumps(PROMPTS).encode()),
        Valid(".jsonl.gz", "text", gzip.compress(json_lines(PROMPTS), mtime=0)),
        Valid(".csv", "text", csv_text(PROMPTS, ",")),
        Valid(".tsv", "text", csv_text(PROMPTS, "\t")),
        Valid(".txt", "text", b"first prompt\r\nsecond\n\n\xc3\xbc\n"),
        Valid(".parquet", "table", parquet(plain)),
        Valid(".parquet", "table", parquet(CHATS)),
    )


def import_files() -> tuple[Valid, ...]:
    return (
        Valid(".jsonl", "json", json_lines(FLAT)),
        Valid(".jsonl", "json", json_lines(GROUPED)),
        Valid(".json", "json", json.dumps(GROUPED).encode()),
        Valid(".parquet", "table", parquet(FLAT)),
        Valid(".parquet", "table", parquet(GROUPED[:1])),
    )


def targets(folder: Path) -> list[Target]:
    """All targets, their files under `folder`."""
    makers = (
        _prompts, _imports, _manifests, _shards, _configs, _sections, _declarations, _runs, _evaluations, _samples,
        _diaries, _states, _tensors, _resumptions, _answers,
    )  # fmt: skip
    made = []
    for maker in makers:
        place = folder / maker.__name__.strip("_")
        place.mkdir()
        made.append(maker(place))
    return made


def _prompts(folder: Path) -> Target:
    def read(content: bytes, suffix: str) -> None:
        path = folder / f"prompts{suffix}"
        path.write_bytes(content)
        try:
            read_prompts(path)
        finally:
            path.unlink()

    return Target("prompt files", 20, prompt_files(), read)


def _imports(folder: Path) -> Target:
    def read(content: bytes, suffix: str) -> None:
        path, out = folder / f"rows{suffix}", folder / "pool"
        path.write_bytes(content)
        try:
            ReferencePool.open(import_pool(configs.ImportConfig(file=str(path), out=str(out))))
            shutil.rmtree(out)
        finally:
            path.unlink()

    return Target("imported pools", 12, import_files(), read)


def write_pool(folder: Path) -> Path:
    prompts = [make_prompt(row["prompt"], {"answer": row["answer"]}) for row in PROMPTS[:3] + CHATS]
    samples = [
        PromptSamples(one, [HTML, "y"], [[1, 2], [3]], np.array([0.5, index]), [-1.0, -2.5], [True, False])
        for index, one in enumerate(prompts)
    ]
    fingerprint = Fingerprint("m", "t", "none", 0.7, 16, (0, 198), "builtin:length")
    manifest = Manifest(fingerprint, "test", 4, hash_prompt_ids(prompts), 2, 3, "float32", "m", "r", Plan(8, 2, 2))
    with PoolWriter.create(folder, manifest) as writer:
        writer.write_shard(0, samples[:2])
        writer.write_shard(1, samples[2:])
        writer.finish()
    return folder


def use_pool(folder: Path) -> None:
    """Everything that a later stage reads of a pool."""
    pool = ReferencePool.open(folder)
    columns = (pool.completions, pool.completion_ids, pool.finished)
    assert [len(list(column)) for column in columns] == [len(pool.rewards)] * 3
    assert len(pool.ref_logprobs) == len(pool.rewards) and pool.offsets[-1] == len(pool.rewards)
    pool.cdf("order").pool_interval()


def _manifests(folder: Path) -> Target:
    pool = write_pool(folder / "pool")

    def read(content: bytes, _: str) -> None:
        (pool / MANIFEST_NAME).write_bytes(content)
        use_pool(pool)

    return Target("manifests", 12, (Valid("", "json", (pool / MANIFEST_NAME).read_bytes()),), read)


def _shards(folder: Path) -> Target:
    pool = write_pool(folder / "pool")
    shard, manifest = pool / "shard-00000.parquet", json.loads((pool / MANIFEST_NAME).read_text())

    def read(content: bytes, suffix: str) -> None:
        shard.write_bytes(content)
        if suffix == "forged":  # with a checksum that agrees, so that the rows themselves are looked at
            manifest["shards"][0]["sha256"] = hashlib.sha256(content).hexdigest()
            (pool / MANIFEST_NAME).write_text(json.dumps(manifest))
        use_pool(pool)

    whole = shard.read_bytes()
    return Target("shards", 12, (Valid("forged", "table", whole), Valid("torn", "table", whole)), read)


def _config_files() -> list[tuple[type[Any], bytes]]:
    made = [
        configs.CollectConfig(model="m", reward="builtin:length", prompts="p.jsonl", out="o", stop_token_ids=(0, 5)),
        configs.TrainConfig(pool="p", model="m", reward="r", n=8.0, out="o", allow_mismatch=("model",)),
        configs.EvaluateConfig(runs=("a", "b"), pool="p", out="o", judges=("builtin:length",)),
        configs.GenerateConfig(model="m", prompts="p", best_of=4, reward="r"),
        configs.ImportConfig(file="f", out="o", declare=("temperature=1.0",)),
    ]
    return [(type(one), merged_text(one).encode()) for one in made]


def _configs(folder: Path) -> Target:
    known = _config_files()

    def read(content: bytes, suffix: str) -> None:
        (folder / "config.yaml").write_bytes(content)
        load_yaml(known[int(suffix)][0], folder / "config.yaml").validate()

    (folder / "config.yaml").touch()
    return Target("configs", 8, tuple(Valid(str(i), "text", text) for i, (_, text) in enumerate(known)), read)


def _sections(folder: Path) -> Target:
    text = b"collect:\n  num_samples: 8\n  temperature: 1\ntrain:\n  n: 1e1\n  seed: 3\n"

    def read(content: bytes, _: str) -> None:
        (folder / "recipe.yaml").write_bytes(content)
        read_sections({"collect": configs.CollectConfig, "train": configs.TrainConfig}, folder / "recipe.yaml")

    (folder / "recipe.yaml").touch()
    return Target("configs of several verbs", 6, (Valid("", "text", text),), read)


def _declarations(folder: Path) -> Target:
    def read(content: bytes, _: str) -> None:
        parse_declarations(content.decode("utf-8", "surrogateescape").split("\n"))

    return Target("declarations", 4, (Valid("", "text", "\n".join(DECLARED).encode()),), read)


def _runs(folder: Path) -> Target:
    run = folders.write_run(folder / "run", iterations=2)
    record = run / "vbon/run.json"
    described = json.loads(record.read_text()) | {
        "pool": "p", "ref_model": "m", "reward": "r", "train_prompt_ids": ["a", "b"], "allowed_mismatches": ["model"],
        "fingerprint": Fingerprint("m", temperature=0.7, stop=(0,)).to_json(),
    }  # fmt: skip

    def read(content: bytes, suffix: str) -> None:
        record.write_bytes(content)
        if suffix == "evaluate":
            read_run(str(run), "run")
        else:
            read_folders([str(run)])

    files = (Valid(reader, "json", json.dumps(described).encode()) for reader in ("evaluate", "report"))
    return Target("run.json", 6, tuple(files), read)


def _evaluations(folder: Path) -> Target:
    policies = {name: folders.policy_metrics(0.8, 1.4, 0.3, 1.9) for name in ("a", "b")}
    whole = folders.write_evaluation(folder / "evaluation", policies, prompts=["p", HTML])
    names = ("evaluation.json", "throughput.json")
    good = {name: (whole / name).read_bytes() for name in names}

    def read(content: bytes, name: str) -> None:
        (whole / name).write_bytes(content)
        try:
            read_folders([str(whole)])
        finally:
            (whole / name).write_bytes(good[name])

    return Target("evaluations", 5, tuple(Valid(name, "json", good[name]) for name in names), read)


def _samples(folder: Path) -> Target:
    whole = folders.write_evaluation(
        folder / "evaluation", {"a": folders.policy_metrics(0.8, 1.4, 0.3, 1.9)}, prompts=["p"]
    )
    path = whole / "samples.parquet"

    def read(content: bytes, _: str) -> None:
        path.write_bytes(content)
        read_folders([str(whole)])

    return Target("samples of evaluations", 2, (Valid("", "table", path.read_bytes()),), read)


def _diaries(folder: Path) -> Target:
    path = folder / "metrics.jsonl"
    rows = [{"iteration": 0, "offline_step": 1, "loss": 1.0}, {"iteration": 1, "kl": 0.5}, {"iteration": 2, "x": HTML}]
    state = RunState(iteration=1, offline_step=1, validations=[{"iteration": 0}])

    def read(content: bytes, _: str) -> None:
        path.write_bytes(content)
        keep_rows(path, state.covers)

    path.touch()
    return Target("metrics.jsonl", 4, (Valid("", "json", json_lines(rows)),), read)


def _trained() -> tuple[dict[str, torch.nn.Module], torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"policy": model}, optimizer


def _write_checkpoint(folder: Path) -> Path:
    row = {"iteration": 2, "validation/objective": -1.0, "validation/objective_se": 0.1}
    said = {"kl_policy_ref": 0.1, "entropy": 2.0, "eos_rate": 0.5}
    state = RunState(4, 2, [row], row, [said], ["noisy_cdf"])
    checkpoint.save(folder / "step-000002", *_trained(), state.to_json())
    return folder / "step-000002"


def _checkpoint_target(folder: Path, label: str, names: tuple[str, ...], kind: str) -> Target:
    whole = _write_checkpoint(folder)
    good = {name: (whole / name).read_bytes() for name in names}
    models, optimizer = _trained()

    def read(content: bytes, name: str) -> None:
        (whole / name).write_bytes(content)
        try:
            RunState.from_json(checkpoint.load(whole, models, optimizer), str(whole))
        finally:
            (whole / name).write_bytes(good[name])

    return Target(label, 4, tuple(Valid(name, kind, good[name]) for name in names), read)


def _states(folder: Path) -> Target:
    return _checkpoint_target(folder, "checkpoint states", ("state.json",), "json")


def _tensors(folder: Path) -> Target:
    names = ("policy.safetensors", "optimizer.safetensors")
    return _checkpoint_target(folder, "checkpoint tensors", names, "text")


def _resumptions(folder: Path) -> Target:
    config = configs.TrainConfig(pool="p", model="m", reward="r", n=8.0, out=str(folder / "run"))
    run = RunFolder(config.out)
    run.open(config)
    path = run.own / "config.yaml"
    resumed = dataclasses.replace(config, resume=True)

    def read(content: bytes, _: str) -> None:
        path.write_bytes(content)
        run.check(resumed)

    return Target("configs of runs", 3, (Valid("", "text", path.read_bytes()),), read)


def _answers(folder: Path) -> Target:
    endpoint = parse_endpoint("http://127.0.0.1/score", "s3cr3t")
    answer: list[bytes] = []
    reward = checked(
        lambda *_: decode(endpoint, answer[-1]), name=endpoint.shown, fingerprint=endpoint.shown, batch_size=8
    )

    def read(content: bytes, _: str) -> None:
        answer[:] = [content]
        assert np.isfinite(reward(["p", "q"], ["a", "b"])).all()

    return Target("answers of reward servers", 4, (Valid("", "json", b'{"rewards": [1.5, -2]}'),), read)


__all__ = ["Target", "Valid", "VbonError", "targets"]
