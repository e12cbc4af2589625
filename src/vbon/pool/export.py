"""`vbon export`: best-of-N of a pool as JSON Lines that the trainers of TRL read.

Every choice has the distribution of the best of N samples that are drawn without replacement from a prompt's M: the
k-th smallest has the probability C(k−1, N−1)/C(M, N), averaged over ties (core.best_of_n.tie_averaged_weights). The
mean reward of the choices is therefore an unbiased estimate of the mean reward of best-of-N.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbon.artifacts.files import replace_file
from vbon.config.pool import ExportConfig
from vbon.core import seeds
from vbon.core.best_of_n import tie_averaged_weights
from vbon.errors import VbonError
from vbon.pool.prompts import Prompt
from vbon.pool.store import ReferencePool

Float = NDArray[np.float64]
Int = NDArray[np.int64]


def export_command(config: ExportConfig) -> dict[str, Any]:
    """Write `config.out`, print how many rows it has, and return the counts.

    Raises:
        VbonError: the pool holds no texts, N is above its number of samples, or the file exists.
    """
    pool, out = ReferencePool.open(config.pool), Path(config.out)
    if config.best_of > pool.num_samples.min():
        raise VbonError(
            f"--best-of {config.best_of}: a prompt of {pool.path} has only {pool.num_samples.min()} samples"
        )
    if pool.completions.values.null_count:
        raise VbonError(f"{pool.path}: holds rewards without completions, of which nothing can be exported")
    if out.exists():
        raise VbonError(f"--out {out}: is there already; choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VbonError(f"--out {out}: cannot be written ({error.strerror}); name another file") from None
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in export_rows(pool, config)]
    replace_file(out, "".join(lines).encode())
    left_out = len(pool) * config.draws - len(lines) if config.format == "dpo" else 0
    print(
        f"{out}: {len(lines)} rows of {len(pool)} prompts"
        + f"; {left_out} pairs of equal reward left out" * bool(left_out)
    )
    return {"out": str(out), "num_rows": len(lines), "num_prompts": len(pool), "equal_pairs_left_out": left_out}


def export_rows(pool: ReferencePool, config: ExportConfig) -> Iterator[dict[str, Any]]:
    """Yield the rows of the file, prompt by prompt, in the pool's order."""
    for index, prompt in enumerate(pool.prompts):
        own = pool.rows_of(index)
        rewards, texts = pool.rewards[own], pool.completions[own]
        random = seeds.generator(config.seed, int(prompt.prompt_id, 16), 2)
        if config.format == "dpo":
            chosen, rejected = draw_pairs(rewards, config.best_of, config.draws, random)
            for best, worst in zip(chosen, rejected, strict=True):
                yield _row(prompt, chosen=texts[best], rejected=texts[worst])
        elif config.every_sample:
            weights = tie_averaged_weights(rewards, config.best_of)
            for sample in np.flatnonzero(weights):
                yield {**_row(prompt, completion=texts[sample]), "weight": float(weights[sample])}
        else:
            for sample in draw_best(rewards, config.best_of, config.draws, random):
                yield _row(prompt, completion=texts[sample])


def draw_best(rewards: Float, n: int, count: int, random: np.random.Generator) -> Int:
    """Draw `count` samples of one prompt, each the best of N: evenly spread over the cumulated weights.

    Each draw alone has exactly the weights as its probabilities, and a sample is drawn count·weight times, rounded up
    or down, so that several draws vary less than independent ones.

    Args:
        rewards: rewards of the prompt's samples, (M,).
        n: N, at most M.
        count: the number of draws.
        random: source of the draws.

    Returns:
        Indices of samples, int64 (count,).
    """
    return random.permutation(seeds.systematic(tie_averaged_weights(rewards, n), count, random.random()))


def draw_pairs(rewards: Float, n: int, count: int, random: np.random.Generator) -> tuple[Int, Int]:
    """Draw the best and the worst of `count` sets of N distinct samples of one prompt, ties broken at random.

    Sets whose rewards are all equal prefer nothing and are left out.

    Args:
        rewards: rewards of the prompt's samples, (M,).
        n: N, at most M.
        count: the number of sets.
        random: source of the draws.

    Returns:
        Indices of the best and of the worst samples, int64 of at most (count,) each.
    """
    sets = np.array([random.permutation(len(rewards))[:n] for _ in range(count)])
    values = rewards[sets]  # in random order, so that the first of the equals is one of them at random
    best, worst = (sets[np.arange(count), choice] for choice in (values.argmax(1), values.argmin(1)))
    kept = rewards[best] > rewards[worst]
    return best[kept].astype(np.int64), worst[kept].astype(np.int64)


def _row(prompt: Prompt, **completions: str) -> dict[str, Any]:
    """A row in TRL's prompt-completion or preference form: plain text, or messages where the prompt is a chat."""
    if not prompt.is_chat:
        return {"prompt": prompt.prompt, **completions}
    answers = {name: [{"role": "assistant", "content": text}] for name, text in completions.items()}
    return {"prompt": prompt.prompt, **answers}
