"""`vbon demo`: all stages with small models, without downloads.

Each stage calls the function of its verb; a stage that is done is skipped.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from rich.console import Console

from vbon.artifacts.evaluation import is_evaluation
from vbon.artifacts.files import replace_file
from vbon.artifacts.json_files import lines_text, read_lines, read_object, write_json
from vbon.artifacts.run import RunFolder
from vbon.artifacts.settings import check_same_settings
from vbon.config import CollectConfig, DemoConfig, EvaluateConfig, InspectConfig, ReportConfig, TrainConfig
from vbon.demo.closing import closing, print_closing
from vbon.demo.corpus import distinct_prompts, opinions
from vbon.errors import VbonError

if TYPE_CHECKING:
    from vbon.recipes.small_models import Review

N = 8
JUDGE = "builtin:lexicon"
"""Never trained on: what the reward gains and the judge does not is over-optimisation."""
MAX_NEW_TOKENS = 16
MEASURED_TEXTS = 0.05
"""Share of the corpus that neither model is trained on: their own figures are taken there."""
NEUTRAL = 3
"""Stars of the opinions that the classifier does not learn from."""
RUN = f"vbon-n{N}"


@dataclass(frozen=True, kw_only=True)
class StorySize:
    """How much of everything; the defaults are the demo, which two cores do in five minutes."""

    texts: int = 6000
    reference_steps: int = 250
    classifier_steps: int = 200
    train_prompts: int = 200
    heldout_prompts: int = 60
    num_samples: int = 200
    offline_steps: int = 150
    num_iterations: int = 60
    rollouts_per_iteration: int = 256
    samples_per_prompt: int = 20


def demo(config: DemoConfig) -> dict[str, Any]:
    """Tell the story in `config.out`, print the closing table, return what it holds.

    Stopped at any moment, the same command continues. Raises VbonError where the folder holds other settings.
    """
    return tell(config, StorySize())


def tell(config: DemoConfig, size: StorySize) -> dict[str, Any]:
    """`demo` at any size."""
    config.validate()
    start = time.monotonic()
    transformers.utils.logging.disable_progress_bar()  # bars of 0.01 s between our own
    folder = _open_folder(config, size)
    console = Console(stderr=True)
    for number, (title, is_done, work) in enumerate(_stages(folder, config.seed, size), 1):
        if is_done():
            console.print(f"[bold]{number}. {title}[/]: done before", highlight=False)
            continue
        console.print(f"[bold]{number}. {title}[/]", highlight=False)
        began = time.monotonic()
        work()
        console.print(f"   {time.monotonic() - began:.0f} s", highlight=False)
    result = closing(folder / "evaluation", N)
    print_closing(result, folder / "report.html", time.monotonic() - start)
    return {**result, "report": str(folder / "report.html")}


def _stages(folder: Path, seed: int, size: StorySize) -> list[tuple[str, Callable[[], bool], Callable[[], object]]]:
    def exists(name: str) -> Callable[[], bool]:
        return (folder / name).is_file

    def is_evaluated() -> bool:
        return is_evaluation(folder / "evaluation")

    def never() -> bool:
        return False  # cheap, and where the pool is whole it only reads

    def is_trained() -> bool:
        return RunFolder(folder / RUN).is_finished

    return [
        ("write a corpus and prompts", exists("prompts-heldout.jsonl"), lambda: _write_texts(folder, seed, size)),
        ("train the reference model", exists("reference/config.json"), lambda: _train_reference(folder, seed, size)),
        ("train the reward", exists("classifier/config.json"), lambda: _train_classifier(folder, seed, size)),
        ("collect the training pool", never, lambda: _collect(folder, "train", seed, size)),
        ("collect the held-out pool", never, lambda: _collect(folder, "heldout", seed + 1, size)),
        ("inspect: what would best-of-N buy?", never, lambda: _inspect(folder, seed)),
        (f"train towards best-of-{N}", is_trained, lambda: _train(folder, seed, size)),
        ("evaluate on held-out prompts", is_evaluated, lambda: _evaluate(folder, seed, size)),
        ("report", never, lambda: _report(folder)),
    ]


def _open_folder(config: DemoConfig, size: StorySize) -> Path:
    folder, settings = Path(config.out), {"seed": config.seed, **asdict(size)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VbonError(f"--out {folder}: cannot be made ({error.strerror}); name another directory") from None
    record = folder / "demo.json"
    if record.is_file():
        fix = "choose another --out, or remove it"
        check_same_settings(record, read_object(record), settings, may_change=(), fix=fix)
    elif any(folder.iterdir()):
        raise VbonError(f"--out {folder}: holds files that are not the demo's; choose another --out")
    write_json(record, settings)
    return folder


def _write_texts(folder: Path, seed: int, size: StorySize) -> None:
    prompts = [{"prompt": one} for one in distinct_prompts(seed + 1, size.train_prompts + size.heldout_prompts)]
    _write_rows(folder / "corpus.jsonl", [one._asdict() for one in islice(opinions(seed), size.texts)])
    _write_rows(folder / "prompts-train.jsonl", prompts[: size.train_prompts])
    _write_rows(folder / "prompts-heldout.jsonl", prompts[size.train_prompts :])


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    replace_file(path, lines_text(rows).encode())


def _train_reference(folder: Path, seed: int, size: StorySize) -> None:
    from vbon.recipes.small_models import ModelConfig, train_reference

    # 0.39 million parameters: enough for the grammar, small enough for two cores.
    config = ModelConfig(
        vocabulary=512, width=96, layers=3, window=40, batch_size=48, steps=size.reference_steps, learning_rate=3e-3
    )
    _report_figures(train_reference(*_reviews(folder, neutral=True), config, folder / "reference", seed=seed))


def _train_classifier(folder: Path, seed: int, size: StorySize) -> None:
    from vbon.models.load import load_tokenizer
    from vbon.recipes.small_models import ModelConfig, train_classifier

    config = ModelConfig(width=48, layers=2, window=40, batch_size=64, steps=size.classifier_steps)
    tokenizer = load_tokenizer(str(folder / "reference"))
    reviews = _reviews(folder, neutral=False)
    _report_figures(train_classifier(*reviews, config, tokenizer, folder / "classifier", seed=seed))


def _reviews(folder: Path, *, neutral: bool) -> tuple[list["Review"], list["Review"]]:
    """The corpus to train on and the rest of it, labelled by stars; with or without those between."""
    from vbon.recipes.small_models import Review

    rows = read_lines(folder / "corpus.jsonl")
    kept = [Review(row["text"], int(row["stars"] > NEUTRAL)) for row in rows if neutral or row["stars"] != NEUTRAL]
    measured = max(1, round(len(kept) * MEASURED_TEXTS))
    return kept[measured:], kept[:measured]


def _report_figures(figures: dict[str, float]) -> None:
    words = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
    Console(stderr=True).print(f"   {words}", highlight=False)


def reward_of(folder: Path) -> str:
    """The raw POSITIVE logit of the demo's own classifier."""
    return f"{folder / 'classifier'}#POSITIVE"


def _collect(folder: Path, split: str, seed: int, size: StorySize) -> None:
    from vbon.pool.collect import collect

    collect(
        CollectConfig(
            model=str(folder / "reference"),
            reward=reward_of(folder),
            prompts=str(folder / f"prompts-{split}.jsonl"),
            out=str(folder / f"pool-{split}"),
            num_samples=size.num_samples,
            max_new_tokens=MAX_NEW_TOKENS,
            seed=seed,
        )
    )


def _inspect(folder: Path, seed: int) -> None:
    from vbon.pool.inspect import inspect_command

    inspect_command(InspectConfig(pool=str(folder / "pool-train"), n=(2, 4, N), seed=seed))


def _train(folder: Path, seed: int, size: StorySize) -> None:
    from vbon.training.train import train

    train(train_config(folder, seed, size))


def train_config(folder: Path, seed: int, size: StorySize) -> TrainConfig:
    """The demo's training: close to best-of-N from the pool alone, then RLOO, at the library's own learning rates."""
    return TrainConfig(
        pool=str(folder / "pool-train"),
        model=str(folder / "reference"),
        reward=reward_of(folder),
        n=N,
        out=str(folder / RUN),
        algorithm="rloo",
        warm_start="offline",
        offline_steps=size.offline_steps,
        num_iterations=size.num_iterations,
        rollouts_per_iteration=size.rollouts_per_iteration,
        validation_every=max(1, size.num_iterations // 4),
        seed=seed,
    )


def _evaluate(folder: Path, seed: int, size: StorySize) -> None:
    from vbon.evaluation.evaluate import evaluate_command

    evaluate_command(
        EvaluateConfig(
            runs=(str(folder / RUN),),
            pool=str(folder / "pool-heldout"),
            out=str(folder / "evaluation"),
            samples_per_prompt=size.samples_per_prompt,
            judges=(JUDGE,),
            seed=seed,
        )
    )


def _report(folder: Path) -> None:
    from vbon.report.report import report_command

    dirs = (str(folder / RUN), str(folder / "evaluation"))
    report_command(ReportConfig(dirs=dirs, out=str(folder / "report.html")))
