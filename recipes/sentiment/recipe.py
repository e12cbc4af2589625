"""The stages of the sentiment recipe, from a review file to a table and a figure; each can be stopped and resumed."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import results
from preset import Preset
from reviews import Split, cut_prompts, read_split, split_prompts, write_prompts

from vbon.artifacts.files import replace_file
from vbon.config import CollectConfig, EvaluateConfig, TrainConfig, merged_text
from vbon.errors import Paused
from vbon.evaluation.evaluate import evaluate_command
from vbon.models.load import load_tokenizer
from vbon.pool.collect import collect
from vbon.recipes.fit import FitOptions, checkpoint_folder
from vbon.recipes.small_models import LABELS, ModelConfig, train_classifier, train_reference
from vbon.recipes.stages import Budget, Records, as_values
from vbon.training.train import train

STAGES = ("reference", "classifier", "prompts", "collect", "train", "evaluate", "results")
PREPARED = STAGES[:3]
SPLITS = ("test", "train")
WHOLE = 1 / 3
"""What cannot pause begins only with this share of the budget left, unless the call has done nothing yet."""


class Run(NamedTuple):
    """One trained policy."""

    n: float
    seed: int
    folder: Path


class Recipe:
    """The stages, each a method: inputs and outputs are files under `out`, and what is done is not done again.

    `device`: where all of it runs; None is the preset's own choice. `budget`: when to stop until the next call.
    """

    def __init__(
        self,
        preset: Preset,
        reviews: Path,
        out: Path,
        seeds: Sequence[int],
        results_folder: Path,
        device: str | None = None,
        budget: Budget | None = None,
    ):
        self.preset, self.reviews, self.out = preset, reviews, out
        self.results_folder = results_folder
        self.device, self.budget = device or preset.machine.device, budget or Budget(None)
        self.seeds = seeds
        self.model = preset.reference.model or str(out / "reference")
        classifier = preset.classifier.model or str(out / "classifier")
        self.reward = classifier if "#" in classifier else f"{classifier}#{LABELS[1]}"
        self.records = Records(out)
        self.runs = [
            Run(n, seed, out / "runs" / preset.name_of(n, f"seed-{seed}")) for n in preset.several for seed in seeds
        ]
        self._has_worked = False

    @cached_property
    def split(self) -> Split:
        return read_split(self.reviews, self.preset.reviews.held_out)

    def reference(self) -> None:
        """A tokenizer and a language model of the reviews; nothing to do where the preset names one."""
        self._once_model("reference", self.preset.reference, train_reference)

    def classifier(self) -> None:
        """Positive or negative, from short spans: the reward is its POSITIVE logit."""

        def make(*reviews_and_config: Any, **options: Any) -> dict[str, float]:
            *rest, out = reviews_and_config
            return train_classifier(*rest, load_tokenizer(self.model), out, **options)

        self._once_model("classifier", self.preset.classifier, make)

    def prompts(self) -> None:
        """The first tokens of held-out reviews, two disjoint files."""
        settings = {**as_values(self.preset.prompts), "reviews": self.split.digest}
        self._once("prompts", settings, self._write_prompts, self.out / "prompts-*.jsonl")

    def collect(self) -> None:
        """M reference samples of every prompt, a pool for each file."""
        for name in SPLITS:
            config = self._collect_config(name)
            config.validate()

            def work(config: CollectConfig = config) -> dict[str, Any]:
                return {"pool": collect(config, should_pause=self.budget.is_spent).name}

            self._once(f"pool-{name}", self.preset.pool(name), work, Path(config.out))

    def train(self) -> None:
        """A run for each N and seed."""
        for run in self.runs:
            work = partial(_trained, self._train_config(run), should_pause=self.budget.is_spent)
            self._once(f"train-{run.folder.name}", self.preset.training(run.n), work, run.folder)

    def evaluate(self) -> None:
        """For each N all its runs, the reference and best-of-N on the test prompts."""
        for n in self.preset.several:
            config = self._evaluate_config(n)
            settings = {**self.preset.evaluate, "seeds": list(self.seeds), "train": self.preset.training(n)}
            self._once(self._evaluation(n), settings, partial(_evaluated, config), Path(config.out), pauses=False)

    def results(self) -> None:
        """Table, figure and JSON; no review text in them."""
        stages = {name: record for name in self._pieces() if (record := self.records.find(name)) is not None}
        evaluations = {n: self.out / self._evaluation(n) for n in self.preset.several}
        print(results.write(self.results_folder, self.out / "pool-test", evaluations, self.preset, stages, self.device))

    def write_commands(self) -> list[str]:
        """The experiment as ordinary commands: a config of each under OUT/commands, and the lines to type."""
        configs: list[tuple[str, str, Any]] = [
            ("collect", f"pool-{name}", self._collect_config(name)) for name in SPLITS
        ]
        configs += [("train", run.folder.name, self._train_config(run)) for run in self.runs]
        configs += [("evaluate", self._evaluation(n), self._evaluate_config(n)) for n in self.preset.several]
        lines = []
        (self.out / "commands").mkdir(parents=True, exist_ok=True)
        for verb, name, config in configs:
            config.validate()
            path = self.out / "commands" / f"{verb}-{name}.yaml"
            replace_file(path, merged_text(config).encode())
            lines.append(f"vbon {verb} --config {path}")
        return lines

    def _collect_config(self, split: str) -> CollectConfig:
        return CollectConfig(
            model=self.model,
            reward=self.reward,
            prompts=str(self.out / f"prompts-{split}.jsonl"),
            out=str(self.out / f"pool-{split}"),
            **{**self.preset.pool(split), **self._where()},
        )

    def _train_config(self, run: Run) -> TrainConfig:
        return TrainConfig(
            model=self.model,
            reward=self.reward,
            pool=str(self.out / "pool-train"),
            out=str(run.folder),
            seed=run.seed,
            **{**self.preset.training(run.n), **self._where()},
        )

    def _evaluate_config(self, n: float) -> EvaluateConfig:
        return EvaluateConfig(
            model=self.model,
            reward=self.reward,
            pool=str(self.out / "pool-test"),
            out=str(self.out / self._evaluation(n)),
            runs=tuple(str(run.folder) for run in self.runs if run.n == n),
            n=n,
            **{**self.preset.evaluate, **self._where()},
        )

    def _evaluation(self, n: float) -> str:
        return self.preset.name_of(n, "evaluation")

    def _where(self) -> dict[str, str]:
        """The flag of a verb, where all of them run in one place."""
        return {} if self.device is None else {"device": self.device}

    def _write_prompts(self) -> dict[str, int]:
        config = self.preset.prompts
        cut = cut_prompts(load_tokenizer(self.model), self.split.held_out, config.fewest_tokens, config.most_tokens)
        chosen = split_prompts(cut, {name: getattr(config, name) for name in SPLITS})
        for name, prompts in chosen.items():
            write_prompts(self.out / f"prompts-{name}.jsonl", prompts)
        return {name: len(prompts) for name, prompts in chosen.items()}

    def _once_model(self, name: str, config: ModelConfig, make: Callable[..., dict[str, float]]) -> None:
        """`make` a model of the reviews in OUT/name; nothing to do where the preset names one."""
        if config.model is not None:
            return
        precision = self.preset.machine.precision
        settings = {**as_values(config), "reviews": self.split.digest}
        settings |= {} if precision == "float32" else {"precision": precision}

        def work() -> dict[str, Any]:
            with checkpoint_folder(self.out / f"{name}.unfinished", settings) as folder:
                options = FitOptions(
                    device=self.device or "cpu",
                    precision=precision,
                    checkpoints=folder,
                    should_pause=self.budget.is_spent,
                )
                return make(self.split.train, self.split.held_out, config, self.out / name, options=options)

        self._once(name, settings, work, self.out / name)

    def _once(
        self,
        name: str,
        settings: dict[str, Any],
        work: Callable[[], dict[str, Any]],
        made: Path,
        *,
        pauses: bool = True,
    ) -> None:
        """Do a piece of work unless its record says that it is done with these settings.

        Raises Paused, saying what is left, where the budget is spent or the work stops for it.
        """
        is_new = self.records.find(name) is None
        try:
            if is_new and self._has_worked and self.budget.share_left <= (0 if pauses else WHOLE):
                raise Paused(f"{name} not begun")
            self._has_worked |= is_new
            record = self.records.once(name, settings, lambda: {"result": work()}, made=f"this file and {made}")
        except Paused as pause:
            left = [piece for piece in self._pieces() if self.records.find(piece) is None]
            raise Paused(f"{pause}. Left: {', '.join([*left, 'results'])}; run the same command to continue") from None
        if record is not None:
            print(f"   {record['seconds']:.0f} s  {json.dumps(record['result'])}", file=sys.stderr)

    def _pieces(self) -> list[str]:
        """The names of all pieces of work, in their order."""
        made = [name for name in STAGES[:2] if getattr(self.preset, name).model is None]
        pools, runs = [f"pool-{name}" for name in SPLITS], [f"train-{run.folder.name}" for run in self.runs]
        return [*made, "prompts", *pools, *runs, *map(self._evaluation, self.preset.several)]


def _trained(config: TrainConfig, *, should_pause: Callable[[], bool]) -> dict[str, Any]:
    return {key: value for key, value in train(config, should_pause=should_pause).items() if key != "out"}


def _evaluated(config: EvaluateConfig) -> dict[str, Any]:
    return {"prompts": evaluate_command(config)["num_prompts"]}
