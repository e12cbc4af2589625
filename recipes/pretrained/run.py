"""Instructions with constraints on a pretrained chat model: best-of-N distilled into one sample; can be stopped.

    python recipes/pretrained/run.py --model MODEL --out runs/pretrained [--preset short] [--until collect]

MODEL is a directory or a hub id of a chat model. The same command continues where it was stopped. README.md beside
this file says how to get a small model without a hub.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import results
from constraints import draw_prompts
from preset import HERE, Preset, load_preset

from vbon.artifacts.files import replace_file
from vbon.cli import main as vbon
from vbon.recipes.stages import Records, as_values, run_stages, run_verb_once

STAGES = ("prompts", "collect", "inspect", "train", "evaluate", "report", "results")
SPLITS = ("train", "test")
MADE = "it and what it made"


class Recipe:
    """The stages, each a method: inputs and outputs are files under `out`, and what is done is not done again."""

    def __init__(self, preset: Preset, model: str, out: Path, seeds: Sequence[int]):
        self.preset, self.out, self.records = preset, out, Records(out)
        self.common = {"model": model, "reward": f"{HERE / 'constraints.py'}:score"}
        self.runs = [out / "runs" / f"seed-{seed}" for seed in seeds]

    def prompts(self) -> None:
        """Write training prompts, and test prompts that combine constraints as no training prompt does."""
        config = self.preset.prompts

        def write() -> dict[str, Any]:
            for name in SPLITS:
                rows = draw_prompts(getattr(config, name), config.seed, held_out=name == "test")
                replace_file(self._prompts(name), "".join(json.dumps(row) + "\n" for row in rows).encode())
            return {}

        self.records.once("prompts", as_values(config), write, made=MADE)

    def collect(self) -> None:
        """Sample the reference for every prompt, a pool for each file."""
        for name in SPLITS:
            num_samples = getattr(self.preset.prompts, f"{name}_samples")
            flags = {"prompts": self._prompts(name), "out": self._pool(name), "num_samples": num_samples}
            self._once(f"pool-{name}", "collect", {**self.common, **flags, **self.preset.collect})

    def inspect(self) -> None:
        """Predict what best-of-N would gain, before anything is trained."""
        counts = [int(factor * self.preset.train["n"]) for factor in (1, 2, 4)]
        self._once("inspect", "inspect", {"n": counts}, [self._pool("test")])

    def train(self) -> None:
        """Train a run for each seed."""
        for run in self.runs:
            flags = {"pool": self._pool("train"), "out": run, "seed": int(run.name.removeprefix("seed-"))}
            self._once(f"train-{run.name}", "train", {**self.common, **flags, **self.preset.train})

    def evaluate(self) -> None:
        """Measure all runs, the reference and best-of-N on the test prompts."""
        flags = {"pool": self._pool("test"), "out": self.out / "evaluation", "n": self.preset.train["n"]}
        self._once("evaluation", "evaluate", {**self.common, **flags, **self.preset.evaluate}, self.runs)

    def report(self) -> None:
        """Write one page about all of it."""
        self._once("report", "report", {"out": self.out / "report.html"}, [*self.runs, self.out / "evaluation"])

    def results(self) -> None:
        """Write the table and its numbers."""
        print(results.write(self.out, self._pool("test"), self.preset, self.records.seconds()))

    def _once(self, name: str, verb: str, flags: dict[str, Any], words: Sequence[Any] = ()) -> None:
        run_verb_once(self.records, name, verb, flags, words, vbon=vbon, made=MADE)

    def _prompts(self, split: str) -> Path:
        return self.out / f"prompts-{split}.jsonl"

    def _pool(self, split: str) -> Path:
        return self.out / f"pool-{split}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipe; exit status 2 and one line for what the user can fix, 130 for Ctrl-C."""
    args = _parser().parse_args(argv)

    def make() -> Recipe:
        return Recipe(load_preset(args.preset), args.model, args.out, args.seeds)

    return run_stages("pretrained", STAGES, args.until, args.out, make)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory or hub id of a chat model")
    parser.add_argument("--out", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--preset", default="small", help="small, short, or a YAML file of the same sections")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="a run of each")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to do")
    return parser


if __name__ == "__main__":
    sys.exit(main())
