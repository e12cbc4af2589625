"""RUN and EVAL folders in the format that training and evaluation write, with figures made up here."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vbon.core import best_of_n

HOSTILE = '<script>document.title = "taken"</script><img src=x onerror=alert(1)> & "quoted" </style>'
N = 8.0


def estimate(value: float, reach: float) -> dict[str, float]:
    return {"value": value, "low": value - reach, "high": value + reach}


def policy_metrics(win_rate: float, kl: float, kl_policy_bon: float, reward: float) -> dict[str, Any]:
    return {
        "win_rate": estimate(win_rate, 0.01),
        "reward": estimate(reward, 0.05),
        "reward_gain_share": estimate(reward / 2.0, 0.02),
        "kl_policy_ref": estimate(kl, 0.05),
        "kl_policy_bon": estimate(kl_policy_bon, 0.04),
        "kl_bon_policy": None,
        "entropy": estimate(14.0, 0.3),
        "eos_rate": estimate(0.4, 0.03),
        "completion_length": estimate(13.2, 0.4),
    }


def best_of_k(win_rate: float) -> list[dict[str, Any]]:
    """As if the policy were best-of-m with that win rate: best of k of it is best-of-km."""
    m = win_rate / (1 - win_rate)
    return [
        {"k": k, "reward": estimate(k / 4, 0.1), "win_rate": estimate(k * m / (k * m + 1), 0.0)} for k in range(1, 9)
    ]


def evaluation_record(policies: dict[str, dict[str, Any]], warnings: Sequence[str] = ()) -> dict[str, Any]:
    target = {"win_rate": 8 / 9, "reward": 2.0, "kl_policy_ref": best_of_n.kl_from_reference(N)}
    first = next(iter(policies))
    return {
        "format_version": 1,
        "n": N,
        "num_prompts": 6,
        "num_samples": 200,
        "samples_per_prompt": 20,
        "fingerprint": {"model": "0123456789abcdef", "temperature": 1.0},
        "policies": {
            name: {
                "metrics": metrics,
                "differences": None if name == first else {"win_rate": estimate(-0.2, 0.02)},
                "best_of_k": best_of_k(metrics["win_rate"]["value"]),
            }
            for name, metrics in policies.items()
        },
        "reference": {
            "metrics": policy_metrics(0.5, 0.0, 4.8, 0.0) | {"kl_policy_ref": estimate(0.0, 0.0)},
            "best_of_k": best_of_k(0.5),
        },
        "target": {"metrics": {key: estimate(value, 0.0) for key, value in target.items()}},
        "floor": {"kl_policy_bon": best_of_n.kl_floor(200, N)},
        "settings": {"seed": 0, "batch_size": 256},
        "warnings": list(warnings),
    }


def sample_rows(policies: Sequence[str], prompts: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "policy": policy,
            "prompt_id": f"{p:016x}",
            "prompt": prompt,
            "sample_index": k,
            "completion": f" completion {k} of {policy} to {p}" + (HOSTILE if p == 0 else ""),
            "reward": float(p + k + 3 * (policy != "reference")),
            "win_rate": (1 + k + 3 * (policy != "reference")) / 8,
            "finished": k == 0,
        }
        for policy in ("reference", *policies)
        for p, prompt in enumerate(prompts)
        for k in range(2)
    ]


def reference_rows(prompts: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"prompt_id": f"{p:016x}", "prompt": prompt, "reward_quantiles": [float(p + q) for q in range(9)]}
        for p, prompt in enumerate(prompts)
    ]


def write_evaluation(
    folder: Path, policies: dict[str, dict[str, Any]], *, prompts: Sequence[str], warnings: Sequence[str] = ()
) -> Path:
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps(evaluation_record(policies, warnings)))
    pq.write_table(pa.Table.from_pylist(sample_rows(list(policies), prompts)), folder / "samples.parquet")
    pq.write_table(pa.Table.from_pylist(reference_rows(prompts)), folder / "reference.parquet")
    rates = {"best-of-n": 120.0, "reference": 930.0} | dict.fromkeys(policies, 900.0)
    latencies = {"best-of-n": 0.5, "reference": 0.25} | dict.fromkeys(policies, 0.25)
    (folder / "throughput.json").write_text(json.dumps({"completions_per_second": rates, "latency_seconds": latencies}))
    return folder


def write_run(folder: Path, *, iterations: int = 60) -> Path:
    (folder / "vbon").mkdir(parents=True)
    record = {
        "format_version": 1,
        "config": {"learning_rate": 2e-4, "out": HOSTILE, "stop_token_ids": []},
        "n": N,
        "objective": "vbon",
        "algorithm": "rloo",
        "pool_fingerprint": {"model": "0123456789abcdef"},
        "result": {"iterations": iterations},
    }
    (folder / "vbon/run.json").write_text(json.dumps(record))
    lines = [training_line(i, 1 - np.exp(-i / 20)) for i in range(1, iterations + 1)]
    lines += [
        {f"validation/{key}": value for key, value in training_line(i, 1 - np.exp(-i / 20)).items()} | {"iteration": i}
        for i in range(0, iterations + 1, 20)
    ]
    lines.sort(key=lambda line: line["iteration"])
    (folder / "vbon/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def training_line(iteration: int, progress: float) -> dict[str, float]:
    return {
        "iteration": iteration,
        "sequence_reward": -0.9 + 1.1 * progress,
        "kl_policy_ref": 1.25 * progress,
        "kl_policy_bon": 4.8 * (1 - progress) + 0.1,
        "win_rate": 0.5 + 0.38 * progress,
        "entropy": 18 - 4 * progress,
    }
