"""The recipe's table and figure: pass@1 of one sample against the reference's pass@N, on problems held out from all."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from preset import HERE, Preset

import vbon
from vbon.artifacts.evaluation import PER_PROMPT, read_record
from vbon.artifacts.files import replace_file
from vbon.artifacts.parquet_files import read_parquet
from vbon.commit import commit_of
from vbon.core import stats
from vbon.core.estimate import Estimate
from vbon.figures.shapes import REFERENCE_SERIES, TARGET_SERIES, Line, Panel
from vbon.figures.svg import draw_panels
from vbon.pool.prompts import read_prompts
from vbon.recipes.stages import as_values

Float = NDArray[np.float64]
SHARE_WANTED = 0.95
KLS = ("kl_policy_ref", "kl_policy_bon", "kl_bon_policy")


def write(
    folder: Path, out: Path, preset: Preset, seeds: Mapping[str, Sequence[int]], seconds: dict[str, float]
) -> str:
    """results.json, results.md and figure.svg in `folder`; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = read_record(out / "evaluation")
    rewards, carries = rewards_by_policy(out)
    content = {
        "command": f"python recipes/verifiable/run.py --preset {preset.name} --out OUT",
        "vbon": vbon.__version__,
        "commit": commit_of(HERE) or "unknown",
        "hardware": f"{torch.get_num_threads()} threads",
        "seconds": seconds,
        "preset": {
            name: as_values(getattr(preset, name)) for name in ("corpus", "reference", "problems", "train", "evaluate")
        },
        "n": evaluation["n"],
        "num_problems": evaluation["num_prompts"],
        "kl_policy_bon_floor": evaluation["floor"]["kl_policy_bon"],
        "reference": reference_row(evaluation),
        "best_of_n": {
            "pass_at_1": evaluation["target"]["metrics"]["reward"],
            "kl_policy_ref": evaluation["target"]["metrics"]["kl_policy_ref"],
        },
        "runs": {
            method: {str(seed): run_row(evaluation, rewards, f"{method}-{seed}") for seed in seeds[method]}
            for method in seeds
        },
        "by_carries": by_carries(rewards, carries, seeds),
    }
    text = table(content)
    replace_file(folder / "results.json", (json.dumps(content, indent=2) + "\n").encode())
    replace_file(folder / "results.md", f"# Arithmetic with a verifier: results\n\n{text}".encode())
    replace_file(folder / "figure.svg", draw(content).encode())
    return text


def rewards_by_policy(out: Path) -> tuple[dict[str, Float], NDArray[np.int64]]:
    """pass@1 of each test problem, (P,), by policy (`reference` and `best-of-n` among them); and the carries, (P,)."""
    carries = {one.prompt_id: int(one.columns["carries"]) for one in read_prompts(str(out / "problems-test.jsonl"))}
    rewards: dict[str, dict[str, float]] = {}
    for row in read_parquet(out / "evaluation" / PER_PROMPT):
        rewards.setdefault(row["policy"], {})[row["prompt_id"]] = row["reward"]
    return (
        {policy: np.array([by_id[one] for one in carries]) for policy, by_id in rewards.items()},
        np.array(list(carries.values())),
    )


def reference_row(evaluation: dict[str, Any]) -> dict[str, Any]:
    """pass@k of the reference from its own evaluation samples."""
    reference = evaluation["reference"]
    return {"pass_at_1": reference["metrics"]["reward"], "pass_at_k": _pass_at_k(reference)}


def run_row(evaluation: dict[str, Any], rewards: dict[str, Float], name: str) -> dict[str, Any]:
    """One run against best-of-N on the same problems: difference and share, bootstrapped over problems in pairs."""
    row, target = evaluation["policies"][name], rewards["best-of-n"]
    return {
        "pass_at_1": row["metrics"]["reward"],
        "difference": stats.paired_difference(rewards[name], target)._asdict(),
        "share": _share(rewards[name], target),
        **{key: row["metrics"][key] for key in KLS},
        "pass_at_k": _pass_at_k(row),
    }


def _share(rewards: Float, target: Float) -> dict[str, float | None]:
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold only problems that nobody solves
        share = stats.ratio(rewards, target)._asdict()
    return {key: value if np.isfinite(value) else None for key, value in share.items()}


def by_carries(
    rewards: dict[str, Float], carries: NDArray[np.int64], seeds: Mapping[str, Sequence[int]]
) -> list[dict[str, Any]]:
    """Mean pass@1 by the number of carries of a problem: the more, the harder."""
    rows = []
    for count in sorted(set(carries.tolist())):
        chosen = carries == count
        means = {name: float(values[chosen].mean()) for name, values in rewards.items()}
        rows.append(
            {
                "carries": count,
                "problems": int(chosen.sum()),
                "reference": means["reference"],
                "best_of_n": means["best-of-n"],
                **{method: statistics.median(means[f"{method}-{seed}"] for seed in seeds[method]) for method in seeds},
            }
        )
    return rows


def table(content: dict[str, Any]) -> str:
    """results.md: one line for the reference, best-of-N and every run; one by carries; the verdict."""
    n = content["n"]
    head = [
        f"N = {n:g}, {content['num_problems']} held-out problems. 95 % intervals over problems; the difference\n"
        f"and the share are to the reference's pass@{n:g}, paired.\n",
        f"| | pass@1 | difference | share | KL(·‖ref) | KL(·‖bon) | KL(bon‖·) | pass@{n:g} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        f"| reference, 1 sample | {_cell(content['reference']['pass_at_1'])} | | | 0 | | | "
        f"{content['reference']['pass_at_k'][-1]['value']:.3f} |",
        f"| reference, best of {n:g} | {_cell(content['best_of_n']['pass_at_1'])} | 0 | 1 | "
        f"{content['best_of_n']['kl_policy_ref']['value']:.3f} | 0 | 0 | |",
    ]
    for method, seeds in content["runs"].items():
        head += [_run_line(f"{method}, seed {seed}", row) for seed, row in seeds.items()]
    names = [key for key in content["by_carries"][0] if key not in ("carries", "problems")]
    hard = ["", "| carries | problems | " + " | ".join(names) + " |", "|--:" * (len(names) + 2) + "|"]
    hard += [
        f"| {row['carries']} | {row['problems']} | " + " | ".join(f"{row[name]:.3f}" for name in names) + " |"
        for row in content["by_carries"]
    ]
    return "\n".join([*head, *hard, "", verdict(content), ""])


def verdict(content: dict[str, Any]) -> str:
    """The promise, and what was measured."""
    shares = sorted(row["share"]["value"] for row in content["runs"]["vbon"].values())
    return (
        f"vbon: pass@1 is {statistics.median(shares):.3f} of the reference's pass@{content['n']:g} (median of "
        f"{len(shares)} seeds, {shares[0]:.3f} to {shares[-1]:.3f}; wanted ≥ {SHARE_WANTED:.2f}).\n"
        f"For best-of-N itself KL(·‖bon) is estimated as {content['kl_policy_bon_floor']:.3f}."
    )


def draw(content: dict[str, Any]) -> str:
    """Draw pass@1 against KL(·‖π_ref), and pass@k of every policy; return the SVG."""
    n, reference, target = content["n"], content["reference"], content["best_of_n"]
    points = [
        Line("reference, 1 sample", [0.0], [Estimate(**reference["pass_at_1"])], style="none", series=REFERENCE_SERIES),
        Line(
            f"reference, best of {n:g}",
            [target["kl_policy_ref"]["value"]],
            [target["pass_at_1"]["value"]],
            style="none",
            series=TARGET_SERIES,
            marker="*",
        ),
    ]
    curves = {"reference": (reference["pass_at_k"], REFERENCE_SERIES)}
    for series, (method, seeds) in enumerate(content["runs"].items()):
        rows = list(seeds.values())
        x, y = ([Estimate(**row[key]) for row in rows] for key in ("kl_policy_ref", "pass_at_1"))
        points.append(Line(f"{method}, 1 sample", x, y, style="none", series=series))
        curves[method] = (rows[0]["pass_at_k"], series)
    lines = [
        Line(
            name,
            [one["k"] for one in curve],
            [one["value"] for one in curve],
            style="--" if series == REFERENCE_SERIES else "-",
            series=series,
            marker="o",
        )
        for name, (curve, series) in curves.items()
    ]
    y_labels = ("pass@1, held-out problems", "pass@k, held-out problems")
    panels = [
        Panel("", "KL to the reference, nats", y_labels[0], points, x_log=False, y_log=False),
        Panel("", "k", y_labels[1], lines, x_log=False, y_log=False),
    ]
    return draw_panels("verifiable", panels, size=(8, 3.6), columns=2, legend="lower right")


def _run_line(name: str, row: dict[str, Any]) -> str:
    cells = [_cell(row[key]) for key in ("pass_at_1", "difference", "share")]
    cells += ["–" if row[key] is None else f"{row[key]['value']:.3f}" for key in KLS]
    return f"| {name} | {' | '.join(cells)} | {row['pass_at_k'][-1]['value']:.3f} |"


def _pass_at_k(row: dict[str, Any]) -> list[dict[str, float]]:
    return [{"k": one["k"], **one["reward"]} for one in row["best_of_k"]]


def _cell(estimate: dict[str, float | None]) -> str:
    value, low, high = ("–" if estimate[key] is None else f"{estimate[key]:.3f}" for key in ("value", "low", "high"))
    return f"{value} ({low}, {high})"
