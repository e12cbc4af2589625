"""The recipe's table and figure, from the evaluation on test prompts; numbers only, no review text."""

import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from preset import HERE, Preset

import vbon
from vbon.artifacts.evaluation import read_record
from vbon.artifacts.files import replace_file
from vbon.commit import commit_of
from vbon.core.estimate import Estimate
from vbon.figures.shapes import REFERENCE_SERIES, TARGET_SERIES, Line, Panel
from vbon.figures.svg import draw_panels
from vbon.pool.predict import predict
from vbon.pool.store import ReferencePool
from vbon.recipes.stages import as_values

METRICS = ("reward", "win_rate", "kl_policy_ref", "kl_policy_bon", "reward_gain_share")
GAIN_WANTED, GAIN_LOW_WANTED, KL_WANTED = 0.90, 0.80, 1.25
CURVE_N = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)  # whole numbers: their prediction is unbiased
CURVE_BEYOND = (24, 32, 48, 64, 96, 128)


def write(
    folder: Path,
    pool: Path,
    evaluations: Mapping[float, Path],
    preset: Preset,
    stages: Mapping[str, dict[str, Any]],
    device: str | None,
) -> str:
    """results.json, results.md, figure.svg and figure.png in `folder`; returns the tables.

    With several N each has its own measurements, under `by_n`; what they share stands beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measured = {n: measurements(read_record(out)) for n, out in evaluations.items()}
    curve = best_of_n_curve(ReferencePool.open(pool), max(measured))
    by_n = {f"{n:g}": one for n, one in measured.items()}
    measured_here = {"by_n": by_n} if preset.best_of.n else by_n.popitem()[1]
    content = circumstances(preset, stages, device) | measured_here
    content |= {"best_of_n_curve": curve}
    text = table(content)
    replace_file(folder / "results.json", (json.dumps(content, indent=2) + "\n").encode())
    replace_file(folder / "results.md", f"# Sentiment control: results\n\n{text}".encode())
    draw(content, folder)
    return text


def circumstances(preset: Preset, stages: Mapping[str, dict[str, Any]], device: str | None) -> dict[str, Any]:
    """What was run and where."""
    models = ("machine", "reference", "classifier", "best_of") if preset.best_of.n else ()
    return {
        "command": f"python recipes/sentiment run --preset {preset.name} --reviews FILE --out OUT",
        "vbon": vbon.__version__,
        "commit": commit_of(HERE) or "unknown",
        "hardware": _hardware(device),
        "preset": {
            name: as_values(getattr(preset, name))
            for name in (*models, "reviews", "prompts", "collect", "collect_test", "train", "evaluate")
        },
        "stages": {name: {"seconds": s["seconds"], "result": s["result"]} for name, s in stages.items()},
    }


def measurements(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Of one N: every seed, and whether it shows what the recipe promises."""
    target = evaluation["target"]["metrics"]
    seeds = {name: {key: row["metrics"][key] for key in METRICS} for name, row in evaluation["policies"].items()}
    for row in seeds.values():
        row["kl_ratio"] = row["kl_policy_ref"]["value"] / target["kl_policy_ref"]["value"]
    return {
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


def best_of_n_curve(pool: ReferencePool, most: float) -> dict[str, list[float]]:
    """KL, reward and win rate of best-of-N on the test prompts, predicted from their pool of M.

    N = 1 … 16, on to half as much again as `most` where that is more, and at most M.
    """
    wanted = [*CURVE_N, *(n for n in CURVE_BEYOND if n <= 1.5 * most)]
    sizes = [n for n in wanted if n <= pool.num_samples.min()]
    rewards = pool.per_prompt(pool.rewards)
    rows = [np.mean([predict(one, n) for one in rewards], axis=0).tolist() for n in sizes]
    reward, win_rate, kl = (list(column) for column in zip(*rows, strict=True))
    return {"n": sizes, "reward": reward, "win_rate": win_rate, "kl_policy_ref": kl}


def each_n(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The measurements of every N."""
    return list(content["by_n"].values()) if "by_n" in content else [content]


def table(content: dict[str, Any]) -> str:
    """Markdown: for each N reference, every seed, best-of-N; 95 % intervals over prompts."""
    where = f"`{content['command']}`, commit\n{content['commit']}, {content['hardware']}"
    return "\n".join(_table(one, where) for one in each_n(content))


def _table(one: dict[str, Any], where: str) -> str:
    n, v = one["n"], one["verdict"]
    head = (
        f"N = {n:g}, {one['test_prompts']} test prompts × {one['samples_per_prompt']} samples, pool of M = "
        f"{one['num_samples']};\n{where};\n95 % bootstrap intervals over prompts.\n"
    )
    names = ("reward", "win rate", "KL(·‖π_ref)", "KL(·‖π_bon)", "share of best-of-N's gain", "KL / best-of-N's")
    lines = [f"| | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    lines.append(_row("reference", one["reference"], share="0", ratio="0"))
    for name, row in one["seeds"].items():
        lines.append(_row(name, row, share=_cell(row["reward_gain_share"]), ratio=f"{row['kl_ratio']:.2f}"))
    lines.append(_row(f"best-of-{n:g}", one["best_of_n"], share="1", ratio="1"))
    tail = (
        f"Median share of the gain {v['median_reward_gain_share']:.3f} (wanted ≥ {GAIN_WANTED:.2f}), lowest 95 %\n"
        f"bound {v['lowest_bound_of_gain_share']:.3f} (≥ {GAIN_LOW_WANTED:.2f}), median KL ratio "
        f"{v['median_kl_ratio']:.3f} (≤ {KL_WANTED:.2f}).\n"
        f"For best-of-N itself KL(·‖π_bon) is estimated as {one['kl_policy_bon_floor']:.3f}."
    )
    return "\n".join([head, *lines, "", tail, ""])


def draw(content: dict[str, Any], folder: Path) -> None:
    """Draw reward and win rate against KL(·‖π_ref): every seed, the reference, and best-of-N's own curve."""
    panels = [
        Panel("", "KL to the reference, nats", label, list(_lines(content, key)), x_log=False, y_log=False)
        for key, label in (("reward", "mean reward (logit)"), ("win_rate", "win rate"))
    ]
    png, legend = folder / "figure.png", "outside lower center"
    svg = draw_panels("sentiment", panels, size=(8, 4.2), columns=2, legend=legend, png=png)
    replace_file(folder / "figure.svg", svg.encode())


def _lines(content: dict[str, Any], key: str) -> Iterator[Line]:
    curve, several = content["best_of_n_curve"], each_n(content)
    name = f"best-of-N, N = 1 … {curve['n'][-1]}"
    yield Line(name, curve["kl_policy_ref"], curve[key], series=TARGET_SERIES)
    for one in several:
        x, y = one["best_of_n"]["kl_policy_ref"]["value"], one["best_of_n"][key]["value"]
        name = f"best-of-{one['n']:g}: {one['n']:g} samples"
        yield Line(name, [x], [y], style="none", series=TARGET_SERIES, marker="*")
    reference = several[0]["reference"][key]["value"]
    yield Line("reference: 1 sample", [0.0], [reference], style="none", series=REFERENCE_SERIES)
    policies = [(name, row) for one in several for name, row in one["seeds"].items()]
    for series, (name, row) in enumerate(policies):
        x, y = (Estimate(**row[metric]) for metric in ("kl_policy_ref", key))
        yield Line(f"vBoN {name}: 1 sample", [x], [y], style="none", series=series)


def _row(name: str, row: dict[str, Any], *, share: str, ratio: str) -> str:
    cells = [_cell(row.get(key)) for key in METRICS[:4]]
    return f"| {name} | {' | '.join([*cells, share, ratio])} |"


def _cell(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}, {estimate['high']:.3f})"


def _hardware(device: str | None) -> str:
    if device is not None and device.startswith("cuda") and torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{torch.get_num_threads()} threads on {_processor()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "this machine")
