"""The recipe's table: mean reward, pass rate and each constraint, of one sample and of best-of-N, on test prompts."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from constraints import holds
from numpy.typing import NDArray
from preset import HERE, Preset

import vbon
from vbon.artifacts.evaluation import SAMPLES, read_record
from vbon.artifacts.files import replace_file
from vbon.artifacts.parquet_files import read_parquet
from vbon.commit import commit_of
from vbon.core import stats
from vbon.core.best_of_n import expectation
from vbon.pool.store import ReferencePool
from vbon.recipes.stages import as_values

Float = NDArray[np.float64]
BEST = "best-of-n"


def write(out: Path, pool: Path, preset: Preset, seconds: dict[str, float]) -> str:
    """Write results.json and results.md under `out`/results and return the table."""
    evaluation = read_record(out / "evaluation")
    measured = measure(out / "evaluation", ReferencePool.open(pool), int(evaluation["n"]))
    content = {
        "command": f"python recipes/pretrained/run.py --model MODEL --preset {preset.name} --out OUT",
        "vbon": vbon.__version__,
        "commit": commit_of(HERE) or "unknown",
        "seconds": seconds,
        "preset": {name: as_values(getattr(preset, name)) for name in ("prompts", "collect", "train", "evaluate")},
        "n": evaluation["n"],
        "floor": evaluation["floor"],
        "rows": {name: row(name, measured, evaluation) for name in measured},
        "constraints": {
            name: {kind: float(np.mean(v)) for kind, v in one["kinds"].items()} for name, one in measured.items()
        },
    }
    text = table(content)
    (out / "results").mkdir(exist_ok=True)
    replace_file(out / "results" / "results.json", (json.dumps(content, indent=2) + "\n").encode())
    replace_file(out / "results" / "results.md", text.encode())
    return text


def measure(evaluation: Path, pool: ReferencePool, n: int) -> dict[str, dict[str, Any]]:
    """Policy → `reward` and `passed`, means of each prompt (P,), and `kinds`, kind → rates of the prompts that ask it.

    `reference` and `best-of-n` are estimated from the pool without bias; the runs from the samples that an evaluation
    stores for reading, a few of each prompt.
    """
    asked = {one.prompt_id: one.columns["constraints"] for one in pool.prompts}
    texts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for sample in read_parquet(evaluation / SAMPLES):
        texts[sample["policy"]][sample["prompt_id"]].append(sample["completion"])
    rows = [
        (asked[one.prompt_id], list(pool.completions[pool.rows_of(i)]), pool.rewards[pool.rows_of(i)])
        for i, one in enumerate(pool.prompts)
    ]
    runs = {
        policy: _means(((asked[one], few, None) for one, few in by_prompt.items()), n)
        for policy, by_prompt in texts.items()
        if policy not in ("reference", BEST)
    }
    return {"reference": _means(((*row[:2], None) for row in rows), n), **runs, BEST: _means(iter(rows), n)}


def _means(prompts: Iterator[tuple[list[dict[str, Any]], list[str], Float | None]], n: int) -> dict[str, Any]:
    """Means over each prompt's completions; with rewards, those of the best of n of them."""
    reward, passed, kinds = [], [], defaultdict(list)
    for asked, texts, rewards in prompts:
        held = np.array([[holds(text, one) for one in asked] for text in texts], np.float64)
        weigh = np.mean if rewards is None else lambda values, r=rewards: expectation(values, r, n)
        reward.append(float(weigh(held.mean(1))))
        passed.append(float(weigh((held.min(1) == 1).astype(np.float64))))
        for index, one in enumerate(asked):
            kinds[one["kind"]].append(float(weigh(held[:, index])))
    return {"reward": np.array(reward), "passed": np.array(passed), "kinds": dict(kinds)}


def row(name: str, measured: dict[str, dict[str, Any]], evaluation: dict[str, Any]) -> dict[str, Any]:
    """One policy: means with intervals over prompts, its shares of best-of-N's gain, and its KLs in nats."""
    one, base, best = measured[name], measured["reference"], measured[BEST]
    content: dict[str, Any] = {key: stats.mean(one[key])._asdict() for key in ("reward", "passed")}
    if name in evaluation["policies"]:
        for key in ("reward", "passed"):
            share = stats.ratio(one[key] - base[key], best[key] - base[key])._asdict()
            content[f"{key}_share"] = {k: v if np.isfinite(v) else None for k, v in share.items()}
        content |= {key: evaluation["policies"][name]["metrics"][key] for key in ("kl_policy_ref", "kl_policy_bon")}
    return content


def table(content: dict[str, Any]) -> str:
    """Lay out results.md: a line for each policy, and the share of samples that satisfy each kind of constraint."""
    lines = [
        f"N = {content['n']:g}; 95 % intervals over test prompts. Shares are of best-of-{content['n']:g}'s gain.\n",
        "| | reward | pass rate | share of the reward's gain | share of the pass rate's | KL to the reference | KL to "
        "best-of-N |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    keys = ("reward", "passed", "reward_share", "passed_share", "kl_policy_ref", "kl_policy_bon")
    for name, one in content["rows"].items():
        lines.append(f"| {name} | " + " | ".join(_cell(one.get(key)) for key in keys) + " |")
    names = list(content["constraints"])
    lines += ["", "| constraint | " + " | ".join(names) + " |", "|---|" + "--:|" * len(names)]
    for kind in sorted(content["constraints"][BEST]):
        rates = (content["constraints"][name][kind] for name in names)
        lines.append(f"| {kind} | " + " | ".join(f"{rate:.3f}" for rate in rates) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: dict[str, float | None] | None) -> str:
    if value is None or value["value"] is None:
        return ""
    return f"{value['value']:.3f} ({value['low']:.3f}, {value['high']:.3f})"
