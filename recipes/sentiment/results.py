"""The recipe's table and figure, from the evaluation on test prompts; numbers only, no review text."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from preset import HERE, Preset

import vbon
from vbon.demo.staged import as_values, commit_of
from vbon.pool.files import replace_file
from vbon.pool.predict import predict
from vbon.pool.store import ReferencePool

METRICS = ("reward", "win_rate", "kl_policy_ref", "kl_policy_bon", "reward_gain_share")
GAIN_WANTED, GAIN_LOW_WANTED, KL_WANTED = 0.90, 0.80, 1.25
CURVE_N = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)  # whole numbers: their prediction is unbiased
STYLE = {"svg.hashsalt": "sentiment", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def write(folder: Path, out: Path, preset: Preset, stages: Mapping[str, dict[str, Any]]) -> str:
    """results.json, results.md, figure.svg and figure.png in `folder`; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = json.loads((out / "evaluation" / "evaluation.json").read_text())
    curve = best_of_n_curve(ReferencePool.open(out / "pool-test"))
    content = summary(evaluation, preset, stages) | {"best_of_n_curve": curve}
    text = table(content)
    replace_file(folder / "results.json", (json.dumps(content, indent=2) + "\n").encode())
    replace_file(folder / "results.md", text.encode())
    draw(content, folder)
    return text


def summary(evaluation: dict[str, Any], preset: Preset, stages: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What was run, where, every seed, and whether it shows what the recipe promises."""
    target = evaluation["target"]["metrics"]
    seeds = {name: {key: row["metrics"][key] for key in METRICS} for name, row in evaluation["policies"].items()}
    for row in seeds.values():
        row["kl_ratio"] = row["kl_policy_ref"]["value"] / target["kl_policy_ref"]["value"]
    return {
        "command": f"python recipes/sentiment run --preset {preset.name} --reviews FILE --out OUT",
        "vbon": vbon.__version__,
        "commit": commit_of(HERE),
        "hardware": f"{torch.get_num_threads()} threads on {_processor()}",
        "preset": {
            name: as_values(getattr(preset, name))
            for name in ("reviews", "prompts", "collect", "collect_test", "train", "evaluate")
        },
        "n": evaluation["n"],
        "test_prompts": evaluation["num_prompts"],
        "samples_per_prompt": evaluation["samples_per_prompt"],
        "num_samples": evaluation["num_samples"],
        "reference": {key: evaluation["reference"]["metrics"][key] for key in METRICS[:-1]},
        "best_of_n": {key: target[key] for key in METRICS[:3]},
        "kl_policy_bon_floor": evaluation["floor"]["kl_policy_bon"],
        "seeds": seeds,
        "verdict": verdict(seeds),
        "warnings": evaluation["warnings"],
        "stages": {name: {"seconds": s["seconds"], "result": s["result"]} for name, s in stages.items()},
    }


def verdict(seeds: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Medians over seeds and the lowest 95 % bound of any of them, beside what is wanted."""
    share = statistics.median(row["reward_gain_share"]["value"] for row in seeds.values())
    ratio = statistics.median(row["kl_ratio"] for row in seeds.values())
    low = min(row["reward_gain_share"]["low"] for row in seeds.values())
    return {
        "median_reward_gain_share": share,
        "median_kl_ratio": ratio,
        "lowest_bound_of_gain_share": low,
        "holds": share >= GAIN_WANTED and ratio <= KL_WANTED and low >= GAIN_LOW_WANTED,
    }


def best_of_n_curve(pool: ReferencePool) -> dict[str, list[float]]:
    """KL, reward and win rate of best-of-N on the test prompts for N = 1 … 16, at most M, predicted from their pool."""
    sizes = [n for n in CURVE_N if n <= pool.num_samples.min()]
    rewards = [pool.rewards[start:end] for start, end in zip(pool.offsets[:-1], pool.offsets[1:], strict=True)]
    rows = [np.mean([predict(one, n) for one in rewards], axis=0).tolist() for n in sizes]
    reward, win_rate, kl = (list(column) for column in zip(*rows, strict=True))
    return {"n": sizes, "reward": reward, "win_rate": win_rate, "kl_policy_ref": kl}


def table(content: dict[str, Any]) -> str:
    """Markdown: reference, every seed, best-of-N; 95 % intervals over prompts."""
    n, v = content["n"], content["verdict"]
    head = (
        f"N = {n:g}, {content['test_prompts']} test prompts × {content['samples_per_prompt']} samples, pool of M = "
        f"{content['num_samples']}; `{content['command']}`, commit {content['commit']}, {content['hardware']}; "
        "95 % bootstrap intervals over prompts.\n"
    )
    names = ("reward", "win rate", "KL(·‖π_ref)", "KL(·‖π_bon)", "share of best-of-N's gain", "KL / best-of-N's")
    lines = [f"| | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    lines.append(_row("reference", content["reference"], share="0", ratio="0"))
    for name, row in content["seeds"].items():
        lines.append(_row(name, row, share=_cell(row["reward_gain_share"]), ratio=f"{row['kl_ratio']:.2f}"))
    lines.append(_row(f"best-of-{n:g}", content["best_of_n"], share="1", ratio="1"))
    tail = (
        f"Median share of the gain {v['median_reward_gain_share']:.3f} (wanted ≥ {GAIN_WANTED:.2f}), lowest 95 % bound "
        f"{v['lowest_bound_of_gain_share']:.3f} (≥ {GAIN_LOW_WANTED:.2f}), median KL ratio {v['median_kl_ratio']:.3f} "
        f"(≤ {KL_WANTED:.2f}). KL(·‖π_bon) reads {content['kl_policy_bon_floor']:.3f} at best-of-N itself."
    )
    return "\n".join([head, *lines, "", tail, ""])


def draw(content: dict[str, Any], folder: Path) -> None:
    """Reward and win rate against KL(·‖π_ref): every seed, the reference, and best-of-N's own curve."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        for axes, key, label in zip(
            figure.subplots(1, 2), ("reward", "win_rate"), ("mean reward (logit)", "win rate"), strict=True
        ):
            _panel(axes, content, key, label)
        figure.savefig(folder / "figure.svg", metadata={"Date": None})
        figure.savefig(folder / "figure.png", dpi=150)


def _panel(axes: Axes, content: dict[str, Any], key: str, label: str) -> None:
    curve, n = content["best_of_n_curve"], content["n"]
    axes.plot(curve["kl_policy_ref"], curve[key], color="0.5", linewidth=1.2, label="best-of-N, N = 1 … 16")
    axes.plot(
        content["best_of_n"]["kl_policy_ref"]["value"], content["best_of_n"][key]["value"], "k*", markersize=10,
        label=f"best-of-{n:g}: {n:g} samples", linestyle="none",
    )  # fmt: skip
    axes.plot(0, content["reference"][key]["value"], "ko", label="reference: 1 sample", linestyle="none")
    for index, (name, row) in enumerate(content["seeds"].items()):
        x, y = row["kl_policy_ref"], row[key]
        axes.errorbar(
            x["value"], y["value"], xerr=_reach(x), yerr=_reach(y), fmt="s^Dv<>P"[index % 7], color=f"C{index}",
            markersize=5, capsize=2, label=f"vBoN {name}: 1 sample",
        )  # fmt: skip
    axes.set(xlabel="KL to the reference, nats", ylabel=label)
    axes.grid(alpha=0.3)
    if key == "reward":
        axes.legend(frameon=False, fontsize=8, loc="lower right")


def _reach(estimate: dict[str, float]) -> list[list[float]]:
    return [[estimate["value"] - estimate["low"]], [estimate["high"] - estimate["value"]]]


def _row(name: str, row: dict[str, Any], *, share: str, ratio: str) -> str:
    cells = [_cell(row.get(key)) for key in METRICS[:4]]
    return f"| {name} | {' | '.join([*cells, share, ratio])} |"


def _cell(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}, {estimate['high']:.3f})"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "this machine")
