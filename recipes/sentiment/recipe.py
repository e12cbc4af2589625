"""The stages of the sentiment recipe, from a review file to a table and a figure; each can be stopped and goes on."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import results
from preset import Preset
from reviews import Split, cut_prompts, read_split, split_prompts, write_prompts

from vbon.config import CollectConfig, EvaluateConfig, TrainConfig, save_yaml
from vbon.demo.small_models import LABELS, train_classifier, train_reference
from vbon.demo.staged import Records, as_values
from vbon.evaluation.evaluate import evaluate_command
from vbon.models.load import load_tokenizer
from vbon.pool.collect import collect
from vbon.training.train import train

STAGES = ("reference", "classifier", "prompts", "collect", "train", "evaluate", "results")
PREPARED = STAGES[:3]
SPLITS = ("test", "train")


class Recipe:
    """The stages, each a method: inputs and outputs are files under `out`, and what is done is not done again."""

    def __init__(self, preset: Preset, reviews: Path, out: Path, seeds: Sequence[int], results_folder: Path):
        self.preset, self.reviews, self.out = preset, reviews, out
        self.seeds, self.results_folder = seeds, results_folder
        self.model = preset.reference.model or str(out / "reference")
        classifier = preset.classifier.model or str(out / "classifier")
        self.reward = classifier if "#" in classifier else f"{classifier}#{LABELS[1]}"
        self.records = Records(out)
        self.runs = [out / "runs" / f"seed-{seed}" for seed in seeds]

    @cached_property
    def split(self) -> Split:
        return read_split(self.reviews, self.preset.reviews.held_out)

    def reference(self) -> None:
        """A tokenizer and a language model of the reviews; nothing to do where the preset names one."""
        config = self.preset.reference
        if config.model is None:
            self._once(
                "reference",
                {**as_values(config), "reviews": self.split.digest},
                lambda: train_reference(self.split.train, self.split.held_out, config, self.out / "reference"),
            )

    def classifier(self) -> None:
        """Positive or negative, from short spans: the reward is its POSITIVE logit."""
        config = self.preset.classifier
        if config.model is None:
            self._once(
                "classifier",
                {**as_values(config), "reviews": self.split.digest},
                lambda: train_classifier(
                    self.split.train, self.split.held_out, config, load_tokenizer(self.model), self.out / "classifier"
                ),
            )

    def prompts(self) -> None:
        """The first tokens of held-out reviews, two disjoint files."""
        settings = {**as_values(self.preset.prompts), "reviews": self.split.digest}
        self._once("prompts", settings, self._write_prompts)

    def collect(self) -> None:
        """M reference samples of every prompt, a pool for each file."""
        for name in SPLITS:
            config = self._collect_config(name)
            config.validate()
            self._once(f"pool-{name}", self.preset.pool(name), lambda config=config: {"pool": collect(config).name})

    def train(self) -> None:
        """One run a seed."""
        for seed, run in zip(self.seeds, self.runs, strict=True):
            config = self._train_config(seed, run, resume=(run / "vbon" / "config.yaml").is_file())
            self._once(f"train-{run.name}", self.preset.train, lambda config=config: _without_paths(train(config)))

    def evaluate(self) -> None:
        """All runs, the reference and best-of-N on the test prompts."""
        config = self._evaluate_config()
        settings = {**self.preset.evaluate, "seeds": list(self.seeds), "train": self.preset.train}
        self._once("evaluation", settings, lambda: {"prompts": evaluate_command(config)["num_prompts"]})

    def results(self) -> None:
        """Table, figure and JSON; no review text in them."""
        names = ["reference", "classifier", *(f"pool-{s}" for s in SPLITS), *(f"train-{r.name}" for r in self.runs)]
        stages = {name: record for name in names if (record := self.records.find(name)) is not None}
        text = results.write(self.results_folder, self.out, self.preset, stages)
        print(text)

    def write_commands(self) -> list[str]:
        """The experiment as ordinary commands: a config of each under OUT/commands, and the lines to type."""
        configs: list[tuple[str, str, Any]] = [
            ("collect", f"pool-{name}", self._collect_config(name)) for name in SPLITS
        ]
        runs = zip(self.seeds, self.runs, strict=True)
        configs += [("train", run.name, self._train_config(seed, run, resume=False)) for seed, run in runs]
        configs.append(("evaluate", "evaluation", self._evaluate_config()))
        lines = []
        for verb, name, config in configs:
            config.validate()
            path = self.out / "commands" / f"{verb}-{name}.yaml"
            save_yaml(config, path)
            lines.append(f"vbon {verb} --config {path}")
        return lines

    def _collect_config(self, split: str) -> CollectConfig:
        return CollectConfig(
            model=self.model, reward=self.reward, prompts=str(self.out / f"prompts-{split}.jsonl"),
            out=str(self.out / f"pool-{split}"), **self.preset.pool(split),
        )  # fmt: skip

    def _train_config(self, seed: int, run: Path, *, resume: bool) -> TrainConfig:
        return TrainConfig(
            model=self.model, reward=self.reward, pool=str(self.out / "pool-train"), out=str(run), seed=seed,
            **{**self.preset.train, "resume": resume},
        )  # fmt: skip

    def _evaluate_config(self) -> EvaluateConfig:
        return EvaluateConfig(
            model=self.model, reward=self.reward, pool=str(self.out / "pool-test"), out=str(self.out / "evaluation"),
            runs=tuple(map(str, self.runs)), n=self.preset.train["n"], **self.preset.evaluate,
        )  # fmt: skip

    def _write_prompts(self) -> dict[str, int]:
        config = self.preset.prompts
        cut = cut_prompts(load_tokenizer(self.model), self.split.held_out, config.fewest_tokens, config.most_tokens)
        chosen = split_prompts(cut, {name: getattr(config, name) for name in SPLITS})
        for name, prompts in chosen.items():
            write_prompts(self.out / f"prompts-{name}.jsonl", prompts)
        return {name: len(prompts) for name, prompts in chosen.items()}

    def _once(self, name: str, settings: dict[str, Any], work: Callable[[], dict[str, Any]]) -> None:
        """Do a piece of work unless its record says that it is done with these settings."""
        made = f"this file and {self.out / name.removeprefix('train-')}"
        record = self.records.once(name, settings, lambda: {"result": work()}, made=made)
        if record is not None:
            print(f"   {record['seconds']:.0f} s  {json.dumps(record['result'])}", file=sys.stderr)


def _without_paths(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "out"}
