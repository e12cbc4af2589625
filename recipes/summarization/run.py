"""Summaries in one sentence, from a file of papers to a table for each sampling temperature; each stage can be stopped.

    python recipes/summarization/run.py --data scitldr --out runs/summarization [--preset small] [--until collect]

The same command continues where it was stopped. README.md beside this file says what to expect.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from papers import Paper, read_papers, split, write_prompts
from preset import HERE, Preset, load_preset

from vbon.artifacts.evaluation import read_record
from vbon.artifacts.files import replace_file
from vbon.artifacts.json_files import read_object, write_json
from vbon.config import CollectConfig, EvaluateConfig, TrainConfig
from vbon.errors import VbonError
from vbon.evaluation.evaluate import evaluate_command
from vbon.evaluation.warnings import JUDGE
from vbon.models.load import load_tokenizer
from vbon.pool.collect import collect
from vbon.pool.store import ReferencePool
from vbon.recipes.stages import exit_status, first_until
from vbon.training.train import train

STAGES = ("reference", "reward", "prompts", "collect", "train", "evaluate", "results")
SPLITS = ("test", "train")
OVERLAP = f"{HERE / 'overlap.py'}:score"
AGREEMENT = "reward-agreement.json"
SHOWN = {key: key for key in ("reward", "win_rate", "kl_policy_ref", "kl_policy_bon")}
SHOWN[JUDGE + OVERLAP] = "overlap (judge)"


class Recipe:
    """The stages, each a method; every temperature has pools, runs and an evaluation of its own."""

    def __init__(self, preset: Preset, data: Path | None, out: Path, seeds: Sequence[int]):
        self.preset, self.data, self.out, self.seeds = preset, data, out, seeds
        self.model = preset.reference.model or str(out / "reference")
        self.reward_spec = preset.reward.spec or str(out / "reward")
        self.folders = {t: out / f"temperature-{t:g}" for t in preset.sampling.temperatures}

    def reference(self) -> None:
        """A tokenizer and a language model of abstracts and summaries; nothing to do where the preset names one."""
        if self.preset.reference.model is None and not (self.out / "reference").is_dir():
            from small_model import train_reference

            train_reference(self._papers()[0], self.preset.reference, self.out / "reference")

    def reward(self) -> None:
        """A model of which summary shares more words with the authors', taught on the reference's own papers."""
        if self.preset.reward.spec is not None or (self.out / AGREEMENT).is_file():
            return
        from reward_model import train_reward

        path = self.out / "prompts-reward.jsonl"
        write_prompts(path, self._that_fit(self._papers()[0]))
        config = CollectConfig(
            model=self.model,
            reward=OVERLAP,
            prompts=str(path),
            out=str(self.out / "pool-reward"),
            temperature=1.0,
            **{**self.preset.collect, "num_samples": self.preset.reward.samples},
        )
        config.validate()
        collect(config)
        share = train_reward(ReferencePool.open(config.out), Path(self.model), self.preset.reward, self.out / "reward")
        write_json(self.out / AGREEMENT, {"agreement": share})

    def prompts(self) -> None:
        """Beginnings of held-out abstracts with the cue, two disjoint files; nothing to do with prompts from a hub."""
        paths = {name: self.out / f"prompts-{name}.jsonl" for name in SPLITS}
        if self.preset.papers.prompts_train is not None or all(path.is_file() for path in paths.values()):
            return
        held_out = self._that_fit(self._papers()[1])
        sizes = {name: getattr(self.preset.papers, name) for name in SPLITS}
        if len(held_out) < sum(sizes.values()):
            raise VbonError(f"{len(held_out)} papers are held out, but the preset asks for {sum(sizes.values())}")
        write_prompts(paths["test"], held_out[: sizes["test"]])
        write_prompts(paths["train"], held_out[sizes["test"] :][: sizes["train"]])

    def collect(self) -> None:
        """M reference samples of every prompt at every temperature."""
        for temperature, folder in self.folders.items():
            for name in SPLITS:
                hub = getattr(self.preset.papers, f"prompts_{name}")
                config = CollectConfig(
                    model=self.model,
                    reward=self.reward_spec,
                    prompts=hub or str(self.out / f"prompts-{name}.jsonl"),
                    out=str(folder / f"pool-{name}"),
                    temperature=temperature,
                    limit=getattr(self.preset.papers, name),
                    **self.preset.collect,
                )
                config.validate()
                collect(config)

    def train(self) -> None:
        """A run for each temperature and seed."""
        for folder in self.folders.values():
            for run in self._runs(folder):
                train(self._train_config(folder, run))

    def evaluate(self) -> None:
        """Each temperature's runs, the reference and best-of-N, on the test prompts at that temperature."""
        for folder in self.folders.values():
            config = EvaluateConfig(
                model=self.model,
                reward=self.reward_spec,
                pool=str(folder / "pool-test"),
                out=str(folder / "evaluation"),
                runs=tuple(map(str, self._runs(folder))),
                n=self.preset.train["n"],
                **{"judges": self._judges(), **self.preset.evaluate},
            )
            evaluate_command(config)

    def results(self) -> None:
        """results.md: a row for each temperature and seed, best-of-N beside them; no text of the papers."""
        text = table({t: read_record(folder / "evaluation") for t, folder in self.folders.items()})
        if self._judges():
            share = read_object(self.out / AGREEMENT)["agreement"]
            text += f"\nThe reward model is right about {share:.1%} of pairs of samples of papers it has not seen.\n"
        replace_file(self.out / "results.md", f"# Summaries in one sentence: results\n\n{text}".encode())
        print(text)

    def _papers(self) -> tuple[list[Paper], list[Paper]]:
        if self.data is None:
            raise VbonError(f"preset {self.preset.name} needs --data: a folder or JSONL file of papers")
        return split(read_papers(self.data, self.preset.papers.abstract_words), self.preset.papers.held_out)

    def _that_fit(self, papers: list[Paper]) -> list[Paper]:
        """Those whose prompt leaves room for a completion in the model's context."""
        tokenizer = load_tokenizer(self.model)
        room = tokenizer.model_max_length - self.preset.collect["max_new_tokens"]
        return [paper for paper in papers if len(tokenizer(paper.prompt, verbose=False).input_ids) <= room]

    def _judges(self) -> tuple[str, ...]:
        """What taught the reward model; none where the preset names a reward."""
        return (OVERLAP,) if self.preset.reward.spec is None else ()

    def _runs(self, folder: Path) -> list[Path]:
        return [folder / f"seed-{seed}" for seed in self.seeds]

    def _train_config(self, folder: Path, run: Path) -> TrainConfig:
        return TrainConfig(
            model=self.model,
            reward=self.reward_spec,
            pool=str(folder / "pool-train"),
            out=str(run),
            seed=int(run.name.removeprefix("seed-")),
            **self.preset.train,
        )


def table(evaluations: dict[float, dict[str, Any]]) -> str:
    """Markdown, 95 % intervals over prompts; what no row has, a judge where there is none, is no column."""
    rows = {(t, name): metrics for t, one in evaluations.items() for name, metrics in _measured(one).items()}
    keys = [key for key in SHOWN if any(key in metrics for metrics in rows.values())]
    lines = [f"| temperature | | {' | '.join(SHOWN[key] for key in keys)} |", "|--:|---|" + "--:|" * len(keys)]
    lines += [f"| {t:g} | {name} | {' | '.join(_cell(m.get(key)) for key in keys)} |" for (t, name), m in rows.items()]
    return "\n".join(lines) + "\n"


def _measured(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Metrics of the reference, of every run, and of best-of-N."""
    target = {f"best-of-{evaluation['n']:g}": evaluation["target"]}
    rows = {"reference": evaluation["reference"], **evaluation["policies"], **target}
    return {name: row["metrics"] for name, row in rows.items()}


def _cell(estimate: dict[str, float] | None) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}, {estimate['high']:.3f})" if estimate else "–"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 2 and one line for what the user can fix, 130 for Ctrl-C."""
    args = _parser().parse_args(argv)

    def work() -> None:
        args.out.mkdir(parents=True, exist_ok=True)
        recipe = Recipe(load_preset(args.preset), args.data, args.out, args.seeds)
        for stage in first_until(STAGES, args.until):
            print(f"== {stage}", file=sys.stderr)
            getattr(recipe, stage)()

    return exit_status("summarization", work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="papers: a folder with train.jsonl, or a JSONL file (SciTLDR's rows)")
    parser.add_argument("--out", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--preset", default="small", help="small, paper, or a YAML file of the same sections")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one training run each")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to do")
    return parser


if __name__ == "__main__":
    sys.exit(main())
