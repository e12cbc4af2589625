"""The paper's sentiment control on real reviews, from a review file to a table and a figure; each stage can be stopped.

    python recipes/sentiment/run.py --data reviews.jsonl.gz --out runs/sentiment [--preset small] [--until collect]

The same command goes on where it was stopped. README.md beside this file says what to expect.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import results
from preset import Preset, load_preset
from reviews import Split, cut_prompts, read_split, split_prompts, write_prompts
from small_models import LABELS, train_classifier, train_reference

from vbon.config import CollectConfig, EvaluateConfig, TrainConfig
from vbon.errors import VbonError
from vbon.evaluation.evaluate import evaluate_command
from vbon.models.load import load_tokenizer
from vbon.pool.collect import collect
from vbon.pool.files import replace_file
from vbon.training.train import train

STAGES = ("reference", "classifier", "prompts", "collect", "train", "evaluate", "results")
SPLITS = ("test", "train")


class Recipe:
    """The stages, each a method: inputs and outputs are files under `out`, and what is done is not done again."""

    def __init__(self, preset: Preset, data: Path, out: Path, seeds: Sequence[int], results_folder: Path):
        self.preset, self.data, self.out = preset, data, out
        self.seeds, self.results_folder = seeds, results_folder
        self.model = preset.reference.model or str(out / "reference")
        classifier = preset.classifier.model or str(out / "classifier")
        self.reward = classifier if "#" in classifier else f"{classifier}#{LABELS[1]}"
        self.runs = [out / "runs" / f"seed-{seed}" for seed in seeds]

    @cached_property
    def split(self) -> Split:
        return read_split(self.data, self.preset.reviews.held_out)

    def reference(self) -> None:
        """A tokenizer and a language model of the reviews; nothing to do where the preset names one."""
        config = self.preset.reference
        if config.model is None:
            self._once(
                "reference",
                {**self.preset.section("reference"), "reviews": self.split.digest},
                lambda: train_reference(self.split.train, self.split.held_out, config, self.out / "reference"),
            )

    def classifier(self) -> None:
        """Positive or negative, from short spans: the reward is its POSITIVE logit."""
        config = self.preset.classifier
        if config.model is None:
            self._once(
                "classifier",
                {**self.preset.section("classifier"), "reviews": self.split.digest},
                lambda: train_classifier(
                    self.split.train, self.split.held_out, config, load_tokenizer(self.model), self.out / "classifier"
                ),
            )

    def prompts(self) -> None:
        """The first tokens of held-out reviews, two disjoint files."""
        settings = {**self.preset.section("prompts"), "reviews": self.split.digest}
        self._once("prompts", settings, self._write_prompts)

    def collect(self) -> None:
        """M reference samples of every prompt, a pool for each file."""
        for name in SPLITS:
            config = CollectConfig(
                model=self.model, reward=self.reward, prompts=str(self.out / f"prompts-{name}.jsonl"),
                out=str(self.out / f"pool-{name}"), **self.preset.collect,
            )  # fmt: skip
            config.validate()
            self._once(f"pool-{name}", self.preset.collect, lambda config=config: {"pool": collect(config).name})

    def train(self) -> None:
        """One run a seed."""
        for seed, run in zip(self.seeds, self.runs, strict=True):
            config = TrainConfig(
                model=self.model, reward=self.reward, pool=str(self.out / "pool-train"), out=str(run), seed=seed,
                **{**self.preset.train, "resume": (run / "vbon" / "config.yaml").is_file()},
            )  # fmt: skip
            self._once(f"train-{run.name}", self.preset.train, lambda config=config: _without_paths(train(config)))

    def evaluate(self) -> None:
        """All runs, the reference and best-of-N on the test prompts."""
        config = EvaluateConfig(
            model=self.model, reward=self.reward, pool=str(self.out / "pool-test"), out=str(self.out / "evaluation"),
            runs=tuple(map(str, self.runs)), n=self.preset.train["n"], **self.preset.evaluate,
        )  # fmt: skip
        settings = {**self.preset.evaluate, "seeds": list(self.seeds), "train": self.preset.train}
        self._once("evaluation", settings, lambda: {"prompts": evaluate_command(config)["num_prompts"]})

    def results(self) -> None:
        """Table, figure and JSON; no review text in them."""
        names = ["reference", "classifier", *(f"pool-{s}" for s in SPLITS), *(f"train-{r.name}" for r in self.runs)]
        stages = {name: self._record(name) for name in names if self._record(name) is not None}
        text = results.write(self.results_folder, self.out, self.preset, stages)
        print(text)

    def _write_prompts(self) -> dict[str, int]:
        config = self.preset.prompts
        cut = cut_prompts(load_tokenizer(self.model), self.split.held_out, config.fewest_tokens, config.most_tokens)
        chosen = split_prompts(cut, {name: getattr(config, name) for name in SPLITS})
        for name, prompts in chosen.items():
            write_prompts(self.out / f"prompts-{name}.jsonl", prompts)
        return {name: len(prompts) for name, prompts in chosen.items()}

    def _once(self, name: str, settings: dict[str, Any], work: Callable[[], dict[str, Any]]) -> None:
        """Do a piece of work unless its record says that it is done with these settings.

        Raises VbonError where it was done with others.
        """
        stored = self._record(name)
        if stored is not None:
            changed = [key for key in {**settings, **stored["settings"]} if _differs(key, settings, stored["settings"])]
            if changed:
                raise VbonError(
                    f"{self._path(name)}: made with another {changed[0]}; choose another --out, or remove this file "
                    f"and {self.out / name.removeprefix('train-')}"
                )
            return
        print(f"== {name}", file=sys.stderr)
        started = time.perf_counter()
        result = work()
        record = {"settings": settings, "seconds": round(time.perf_counter() - started, 1), "result": result}
        replace_file(self._path(name), (json.dumps(record, indent=2) + "\n").encode())
        print(f"   {record['seconds']:.0f} s  {json.dumps(result)}", file=sys.stderr)

    def _record(self, name: str) -> dict[str, Any] | None:
        path = self._path(name)
        return json.loads(path.read_text()) if path.is_file() else None

    def _path(self, name: str) -> Path:
        return self.out / "stages" / f"{name}.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 2 and one line for what the user can mend, 130 for Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        (args.out / "stages").mkdir(parents=True, exist_ok=True)
        recipe = Recipe(load_preset(args.preset), args.data, args.out, args.seeds, args.results or args.out / "results")
        for stage in STAGES[: STAGES.index(args.until) + 1]:
            getattr(recipe, stage)()
    except VbonError as error:
        print(f"sentiment: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsentiment: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="reviews: JSONL with text and label, or FILE.pos")
    parser.add_argument("--out", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--preset", default="small", help="small, paper, or a YAML file of the same sections")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one training run each")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to do")
    parser.add_argument("--results", type=Path, help="folder of table and figure; default: OUT/results")
    return parser


def _differs(key: str, settings: dict[str, Any], stored: dict[str, Any]) -> bool:
    return key not in settings or key not in stored or json.dumps(settings[key]) != json.dumps(stored[key])


def _without_paths(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "out"}


if __name__ == "__main__":
    sys.exit(main())
