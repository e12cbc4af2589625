"""Arithmetic with a verifier: best-of-N distilled where rewards are 0 or 1; each stage can be stopped.

    python recipes/verifiable/run.py --out runs/verifiable [--preset small] [--until collect]

The same command continues where it was stopped. README.md beside this file says what to expect.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import results
from homework import draw_sums
from preset import HERE, Preset, load_preset
from reference import train_reference

from vbon.cli import main as vbon
from vbon.core.kl_rl import kl_coef_for_samples
from vbon.errors import VbonError
from vbon.pool.predict import predict
from vbon.pool.store import ReferencePool
from vbon.recipes.stages import Records, as_values, run_stages, run_verb_once

STAGES = ("reference", "problems", "collect", "inspect", "train", "evaluate", "report", "results")
SPLITS = ("train", "test")
RIVALS = ("vbon-bound", "kl-rl")
MADE = "it and what it made"


class Recipe:
    """The stages, each a method: inputs and outputs are files under `out`, and what is done is not done again."""

    def __init__(self, preset: Preset, out: Path, seeds: Sequence[int], results_folder: Path):
        self.preset, self.out, self.results_folder = preset, out, results_folder
        self.records = Records(out)
        self.common = {"model": str(out / "reference"), "reward": f"{HERE / 'verifier.py'}:score"}
        self.seeds = {"vbon": list(seeds), **{method: [seeds[0]] for method in RIVALS}}

    @property
    def runs(self) -> dict[tuple[str, int], Path]:
        return {
            (method, seed): self.out / "runs" / f"{method}-{seed}"
            for method in self.seeds
            for seed in self.seeds[method]
        }

    def reference(self) -> None:
        """The model that adds imperfectly."""
        preset = self.preset
        settings = {**as_values(preset.reference), **as_values(preset.corpus)}
        self.records.once(
            "reference",
            settings,
            lambda: train_reference(preset.reference, preset.corpus, self.out / "reference"),
            made=MADE,
        )

    def problems(self) -> None:
        """Two disjoint files of sums that the reference has not seen, with the right answers."""
        config = self.preset.problems

        def write() -> dict[str, Any]:
            sums = draw_sums(self.preset.corpus, config.train + config.test, config.seed, held_out=True)
            for name, chosen in zip(SPLITS, (sums[: config.train], sums[config.train :]), strict=True):
                rows = ({"prompt": one.prompt, "answer": one.answer, "carries": one.carries} for one in chosen)
                self._prompts(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
            return {}

        self.records.once("problems", as_values(config), write, made=MADE)

    def collect(self) -> None:
        """M reference samples of every problem, a pool for each file."""
        for name in SPLITS:
            flags = {
                "prompts": self._prompts(name),
                "out": self._pool(name),
                "num_samples": getattr(self.preset.problems, f"{name}_samples"),
            }
            self._once_vbon(f"pool-{name}", "collect", {**self.common, **flags, **self.preset.collect})

    def inspect(self) -> None:
        """The gain of best-of-N, before anything is trained."""
        counts = sorted({1 + int(self.preset.train["n"]) // 2, *(int(k * self.preset.train["n"]) for k in (1, 2, 4))})
        self._once_vbon("inspect", "inspect", {"n": counts}, [self._pool("test")])

    def train(self) -> None:
        """A run for each seed, and of each rival for the first; KL-RL with the β that spends best-of-N's KL."""
        for (method, seed), run in self.runs.items():
            flags = {"pool": self._pool("train"), "out": run, "method": method, "seed": seed, **self.preset.train}
            if method == "kl-rl":
                flags["kl_coef"] = self._matched_kl_coef()
            self._once_vbon(f"train-{run.name}", "train", {**self.common, **flags})

    def evaluate(self) -> None:
        """All runs, the reference and best-of-N on the test problems."""
        flags = {"pool": self._pool("test"), "out": self.out / "evaluation", "n": self.preset.train["n"]}
        self._once_vbon(
            "evaluation", "evaluate", {**self.common, **flags, **self.preset.evaluate}, list(self.runs.values())
        )

    def report(self) -> None:
        """One page of all of it."""
        folders = [*self.runs.values(), self.out / "evaluation"]
        self._once_vbon("report", "report", {"out": self.out / "report.html"}, folders)

    def results(self) -> None:
        """Table, figure and JSON."""
        print(results.write(self.results_folder, self.out, self.preset, self.seeds, self.records.seconds()))

    def _matched_kl_coef(self) -> float:
        """β whose optimum spends, on the training pool, the KL of best-of-N; to six digits."""
        pool, n = ReferencePool.open(self._pool("train")), self.preset.train["n"]
        rewards = pool.per_prompt(pool.rewards)
        kl = float(np.mean([predict(one, n).kl_bon_ref for one in rewards]))
        if not kl > 0:
            raise VbonError(f"{pool.path}: no problem is solved by some samples only; train the reference longer")
        return float(f"{kl_coef_for_samples(rewards, kl):.6g}")

    def _once_vbon(self, name: str, verb: str, flags: dict[str, Any], words: Sequence[Any] = ()) -> None:
        """Run one `vbon` command, unless it is recorded as done."""
        run_verb_once(self.records, name, verb, flags, words, vbon=vbon, made=MADE)

    def _prompts(self, split: str) -> Path:
        return self.out / f"problems-{split}.jsonl"

    def _pool(self, split: str) -> Path:
        return self.out / f"pool-{split}"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 2 and one line for what the user can fix, 130 for Ctrl-C."""
    args = _parser().parse_args(argv)

    def make() -> Recipe:
        return Recipe(load_preset(args.preset), args.out, args.seeds, args.results or args.out / "results")

    return run_stages("verifiable", STAGES, args.until, args.out, make)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--preset", default="small", help="small, or a YAML file of the same sections")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3], help="a run of vbon each; the others take the first"
    )
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to do")
    parser.add_argument("--results", type=Path, help="folder of table and figure; default: OUT/results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
