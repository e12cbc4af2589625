"""`vbon generate`: plain samples of a model, or the best of N of them, as JSONL."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vbon.artifacts.files import replace_file
from vbon.config.evaluate import GenerateConfig
from vbon.errors import VbonError
from vbon.evaluation.best_of_n import sample_best_of_n
from vbon.evaluation.progress import progress_bar
from vbon.models import load
from vbon.pool.prompts import Prompt, read_prompts
from vbon.pool.sampling import Sampler, encode_prompts
from vbon.rewards import Reward, load_reward

Row = dict[str, Any]


def generate_command(config: GenerateConfig) -> dict[str, Any]:
    """Write one line a completion to `config.out`, which appears whole or not at all, or to standard output."""
    if config.out is not None:
        _check_out(Path(config.out), Path(config.prompts))
    rows = generate_rows(config)
    if config.out is None:
        count = sum(_print(row) for row in rows)
    else:
        lines = [_line(row) for row in rows]
        replace_file(_writable(config.out), "".join(lines).encode())
        count = len(lines)
    return {"out": config.out, "num_completions": count}


def generate_rows(config: GenerateConfig) -> Iterator[Row]:
    """Yield {prompt, completion, reward?} in the order of the prompts; a function of the config and its seed.

    Plain sampling at the temperature: top_p and top_k of the model's generation_config.json are not applied.
    Raises VbonError before the first row for bad prompts, model, reward or length.
    """
    prompts = read_prompts(config.prompts, column=config.prompt_column, limit=config.limit)
    sampler = _sampler(config)
    prompt_ids = encode_prompts(sampler, prompts, config.prompts)
    reward = None if config.reward is None else _load_reward(config.reward, config, sampler)
    return _rows(config, sampler, reward, prompts, prompt_ids)


def _rows(
    config: GenerateConfig, sampler: Sampler, reward: Reward | None, prompts: list[Prompt], prompt_ids: list[list[int]]
) -> Iterator[Row]:
    with progress_bar() as bar:
        task = bar.add_task("prompts", total=len(prompts))
        drawn = sample_best_of_n(
            sampler,
            reward,
            prompts,
            prompt_ids,
            n=config.best_of or 1,
            num_samples=config.num_samples,
            batch_size=config.batch_size,
            seed=config.seed,
            advance=lambda count: bar.advance(task, count),
        )
        for prompt, best in drawn:
            for index, completion in enumerate(best.completions):
                scored = {} if best.rewards is None else {"reward": best.rewards[index]}
                yield {"prompt": prompt.prompt, **prompt.columns, "completion": completion, **scored}


def _sampler(config: GenerateConfig) -> Sampler:
    device = load.resolve_device(config.device)
    model = load.load_policy(
        config.model, dtype=config.dtype, device=device, trust_remote_code=config.trust_remote_code
    )
    tokenizer = load.load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    defaults = model.generation_config
    temperature = config.temperature or getattr(defaults, "temperature", None) or 1.0
    max_new_tokens = config.max_new_tokens or getattr(defaults, "max_new_tokens", None)
    if max_new_tokens is None:
        raise VbonError(f"{config.model}: its generation_config.json names no length; give --max-new-tokens")
    stop = load.stop_token_ids(model, tokenizer, config.stop_token_ids)
    return Sampler(model, tokenizer, float(temperature), int(max_new_tokens), stop)


def _load_reward(spec: str, config: GenerateConfig, sampler: Sampler) -> Reward:
    return load_reward(
        spec,
        device=str(sampler.model.device),
        batch_size=config.reward_batch_size,
        timeout=config.reward_timeout,
        trust_remote_code=config.trust_remote_code,
    )


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
    sys.stdout.write(_line(row))
    return 1


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
