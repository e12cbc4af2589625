"""`vbon generate`: plain samples of a model, or the best of N of them, as JSONL."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vbon.artifacts.files import replace_file
from vbon.artifacts.json_files import lines_text
from vbon.config.evaluate import GenerateConfig
from vbon.errors import VbonError
from vbon.evaluation.best_of_n import sample_best_of_n
from vbon.evaluation.dial import dialed_sampler
from vbon.models import load
from vbon.pool.prompts import Prompt, read_prompts
from vbon.pool.sampling import Sampler, encode_prompts, load_sampler
from vbon.progress import ProgressBar
from vbon.rewards import Reward, load_configured_reward

Row = dict[str, Any]


def generate_command(config: GenerateConfig) -> dict[str, Any]:
    """Write one line a completion to `config.out`, which appears whole or not at all, or to standard output."""
    if config.out is not None:
        _check_out(Path(config.out), Path(config.prompts))
    rows = generate_rows(config)
    if config.out is None:
        count = sum(_print(row) for row in rows)
    else:
        lines = [lines_text([row]) for row in rows]
        replace_file(_writable(config.out), "".join(lines).encode())
        count = len(lines)
    return {"out": config.out, "num_completions": count}


def generate_rows(config: GenerateConfig) -> Iterator[Row]:
    """Yield {prompt, completion, reward?} in the order of the prompts; a function of the config and its seed.

    A prompt that is there twice gets the same completions twice.
    Plain sampling at the temperature: top_p and top_k of the model's generation_config.json are not applied.
    Raises VbonError before the first row for bad prompts, model, reward or length.
    """
    prompts = read_prompts(
        config.prompts, column=config.prompt_column, columns=config.columns, limit=config.limit, keep_repeated=True
    )
    sampler = load_sampler(
        config.model,
        config,
        load.resolve_device(config.device),
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        extra_stop_token_ids=config.stop_token_ids,
    )
    prompt_ids = encode_prompts(sampler, prompts, config.prompts)
    device = str(sampler.model.device)
    if config.dial is not None:
        sampler = dialed_sampler(sampler, config)
    reward = None if config.reward is None else load_configured_reward(config.reward, config, device)
    return _rows(config, sampler, reward, prompts, prompt_ids)


def _rows(
    config: GenerateConfig, sampler: Sampler, reward: Reward | None, prompts: list[Prompt], prompt_ids: list[list[int]]
) -> Iterator[Row]:
    with ProgressBar("prompts", len(prompts)) as bar:
        drawn = sample_best_of_n(
            sampler,
            reward,
            prompts,
            prompt_ids,
            n=config.best_of or 1,
            num_samples=config.num_samples,
            batch_size=config.batch_size,
            seed=config.seed,
            advance=bar.advance,
        )
        for prompt, best in drawn:
            for index, completion in enumerate(best.completions):
                scored = {} if best.rewards is None else {"reward": best.rewards[index]}
                yield {"prompt": prompt.prompt, **prompt.columns, "completion": completion, **scored}


def _check_out(out: Path, prompts: Path) -> None:
    if out.is_dir():
        raise VbonError(f"--out {out} is a directory; name a file")
    if out.exists() and prompts.exists() and out.samefile(prompts):
        raise VbonError(f"--out {out} holds the prompts; name another file")


def _writable(out: str) -> Path:
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VbonError(f"--out {out}: cannot be written ({error.strerror}); name another file") from None
    return path


def _print(row: Row) -> int:
    sys.stdout.write(lines_text([row]))
    return 1
