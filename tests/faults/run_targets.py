"""Runs, checkpoints, evaluations, sweeps, answers of a server: what the fuzzer damages, and what reads the damage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.faults.mutate import HTML
from tests.faults.reader import Target, Valid, json_lines, parquet
from tests.report import folders

from vbon.artifacts.fingerprint import Fingerprint
from vbon.artifacts.run import keep_rows
from vbon.evaluation.runs import read_run
from vbon.report.read import read_folders, read_sweep
from vbon.rewards.checked import checked
from vbon.rewards.http import decode, parse_endpoint
from vbon.training.output import checkpoint
from vbon.training.output.state import RunState


def runs(folder: Path) -> Target:
    run = folders.write_run(folder / "run", iterations=2)
    record = run / "vbon/run.json"
    described = json.loads(record.read_text()) | {
        "pool": "p",
        "ref_model": "m",
        "reward": "r",
        "train_prompt_ids": ["a", "b"],
        "allowed_mismatches": ["model"],
        "fingerprint": Fingerprint("m", temperature=0.7, stop=(0,)).to_json(),
    }

    def read(content: bytes, suffix: str) -> None:
        record.write_bytes(content)
        if suffix == "evaluate":
            read_run(str(run), "run")
        else:
            read_folders([str(run)])

    files = (Valid(reader, "json", json.dumps(described).encode()) for reader in ("evaluate", "report"))
    return Target("run.json", 6, tuple(files), read)


def evaluations(folder: Path) -> Target:
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


def samples(folder: Path) -> Target:
    whole = folders.write_evaluation(
        folder / "evaluation", {"a": folders.policy_metrics(0.8, 1.4, 0.3, 1.9)}, prompts=["p"]
    )
    path = whole / "samples.parquet"

    def read(content: bytes, _: str) -> None:
        path.write_bytes(content)
        read_folders([str(whole)])

    return Target("samples of evaluations", 2, (Valid("", "table", path.read_bytes()),), read)


def diaries(folder: Path) -> Target:
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


def states(folder: Path) -> Target:
    return _checkpoint_target(folder, "checkpoint states", ("state.json",), "json")


def tensors(folder: Path) -> Target:
    names = ("policy.safetensors", "optimizer.safetensors")
    return _checkpoint_target(folder, "checkpoint tensors", names, "text")


def compared(folder: Path) -> Target:
    """sweep.json, timings.json and the per-prompt values of a sweep's runs."""
    names = ("vbon-n8-s0", "vbon-n8-s1")
    values = f"evaluations/{names[0]}/per_prompt.parquet"
    for name in names:
        made = folders.write_evaluation(
            folder / "evaluations" / name, {name: folders.policy_metrics(0.8, 1.4, 0.3, 1.9)}, prompts=["p", HTML]
        )
        rows = [
            {"policy": one, "prompt_id": str(p), "win_rate": 0.5 + p / 9} for one in (name, "best-of-n") for p in (0, 1)
        ]
        (made / "per_prompt.parquet").write_bytes(parquet(rows))
    good = {
        "sweep.json": json.dumps(_sweep_record(names)).encode(),
        "timings.json": json.dumps(
            {"seconds": {names[0]: {"total": 3.5, "nearly": None}}, "latency_seconds": {"policy": 0.1}}
        ).encode(),
        values: (folder / values).read_bytes(),
    }
    for name, content in good.items():
        (folder / name).write_bytes(content)

    def read(content: bytes, name: str) -> None:
        (folder / name).write_bytes(content)
        try:
            comparison = read_sweep(folder)
            assert all(method.places() is not None for method in comparison.methods)
        finally:
            (folder / name).write_bytes(good[name])

    kinds = {name: "table" if name.endswith("parquet") else "json" for name in good}
    return Target("sweeps", 6, tuple(Valid(name, kinds[name], content) for name, content in good.items()), read)


def _sweep_record(names: tuple[str, ...]) -> dict[str, Any]:
    one = folders.evaluation_record({names[0]: folders.policy_metrics(0.8, 1.4, 0.3, 1.9)})
    shape = {
        "num_prompts": 2,
        "num_samples": 200,
        "samples_per_prompt": 20,
        "judges": [],
        "rank_test": {"p_value": 0.5},
    }
    place = {"n": 8.0, "target": one["target"]["metrics"], "reference": one["reference"]["metrics"]}
    runs = [
        {
            "name": name,
            "method": "vbon",
            "n": 8.0,
            "kl_coef": None,
            "seed": seed,
            "status": "done",
            "reason": None,
            "metrics": one["policies"][names[0]]["metrics"],
            "warnings": [HTML],
            "cost_nearly": None,
            "cost": {"rollouts": 64, "reward_calls": 64, "offline_steps": 0},
        }
        for seed, name in enumerate(names)
    ]
    failed = {
        "name": "dpo-n8-s0",
        "method": "dpo",
        "n": 8.0,
        "kl_coef": 0.1,
        "seed": 0,
        "status": "failed",
        "reason": HTML,
    }
    method = {
        "summary": "s",
        "family": "f",
        "kl_coef": None,
        "matched": False,
        "learning_rate": 1e-3,
        "search": [{"learning_rate": 1e-3, "objective": None}],
    }
    return {
        "format_version": 1,
        "settings": {"n": [8.0], "seeds": [0, 1]},
        "methods": {"vbon": method, "dpo": method},
        "pool": {"num_prompts": 2, "num_samples": 200, "rollouts": 400},
        "runs": [*runs, failed],
        "grid": [place | shape | {"floor": one["floor"], "evaluation": names[0]}],
    }


def answers(folder: Path) -> Target:
    endpoint = parse_endpoint("http://127.0.0.1/score", "s3cr3t")
    answer: list[bytes] = []
    reward = checked(
        lambda *_: decode(endpoint, answer[-1]), name=endpoint.shown, fingerprint=endpoint.shown, batch_size=8
    )

    def read(content: bytes, _: str) -> None:
        answer[:] = [content]
        assert np.isfinite(reward(["p", "q"], ["a", "b"])).all()

    return Target("answers of reward servers", 4, (Valid("", "json", b'{"rewards": [1.5, -2]}'),), read)
