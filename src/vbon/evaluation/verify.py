"""`vbon verify`: is what is served what was trained?

The server and the model in this process answer the same prompts. If both are one policy, the ranks of served rewards
among those sampled here are uniform. Where the server tells token ids and log-probabilities, these are compared too.
"""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vbon.config.pool import CollectConfig
from vbon.config.verify import VerifyConfig
from vbon.core import stats
from vbon.core.reward_cdf import RewardCDF
from vbon.errors import VbonError
from vbon.models import load
from vbon.models.batch import sequences
from vbon.models.logprobs import completion_logprobs
from vbon.pool.collect import collect
from vbon.pool.known_rewards import SettledRewards
from vbon.pool.openai_engine import Query, load_openai_engine
from vbon.pool.prompts import read_prompts
from vbon.pool.sampling import seed_for
from vbon.pool.store import ReferencePool, tie_keys
from vbon.pool.told_logprobs import Told, ask_told

SUSPICIOUS = 1e-3  # of the p-value, as for the rank test of training
ASKED = 8  # prompts whose log-probabilities are compared


def verify(config: VerifyConfig) -> dict[str, Any]:
    """Sample both sides, compare, print two lines, and return what --json writes.

    Returns:
        `same`, False where the p-value is below 0.001; the p-value; mean rewards of both sides with the 95 % interval
        of their difference; `logprob_gap`, the mean |Δ log p| of a served token in nats, or None where the server does
        not tell.

    Raises:
        VbonError: the server, the model, the prompts or the reward cannot be used.
    """
    ours, theirs = _collected(config, None), _collected(config, config.base_url)
    index = theirs.prompt_index
    # A served completion that is also sampled here takes the reward of here: batches round a network's differently.
    settled = SettledRewards(ours.rewards, ours.num_samples, tie_keys(ours.completions), 0.0)
    rewards = settled.score(index, tie_keys(theirs.completions), lambda rows: theirs.rewards[rows])
    counts = RewardCDF(settled.rewards, ours.num_samples).counts(index, rewards)
    test = stats.rank_test(*counts, ours.num_samples[index], index, config.seed)
    served, here = (np.array([one.mean() for one in pool.per_prompt(pool.rewards)]) for pool in (theirs, ours))
    difference = stats.paired_difference(served, here, config.seed)
    result = {
        "same": test.p_value >= SUSPICIOUS,
        "p_value": test.p_value,
        "reward_served": float(served.mean()),
        "reward_here": float(here.mean()),
        "difference": difference._asdict(),
        "logprob_gap": _logprob_gap(config),
    }
    for line in served_lines(result):
        Console().print(line, soft_wrap=True, markup=False, highlight=False)
    return result


def served_lines(result: dict[str, Any]) -> list[str]:
    """Format the result of `verify` for the console."""
    difference, gap = result["difference"], result["logprob_gap"]
    verdict = "no difference found" if result["same"] else "WHAT IS SERVED IS NOT THIS MODEL, or is sampled otherwise"
    told = "the server tells no log-probabilities" if gap is None else f"log-probabilities differ by {gap:.2g} a token"
    return [
        f"{verdict}: ranks of served rewards among those sampled here, p = {result['p_value']:.3g}; {told}",
        f"reward {result['reward_served']:.4g} served, {result['reward_here']:.4g} here, difference "
        f"{difference['value']:+.3g} ({difference['low']:+.3g}, {difference['high']:+.3g})",
    ]


def _collected(config: VerifyConfig, base_url: str | None) -> ReferencePool:
    path = collect(_collect_config(config, base_url), progress=base_url is None)
    return ReferencePool.open(path)


def _collect_config(config: VerifyConfig, base_url: str | None) -> CollectConfig:
    generation = load.load_generation_config(config.model)
    temperature = config.temperature or getattr(generation, "temperature", None) or 1.0
    length = config.max_new_tokens or getattr(generation, "max_new_tokens", None)
    if length is None:
        raise VbonError(f"{config.model}: its generation_config.json names no length; give --max-new-tokens")
    return CollectConfig(
        model=config.model,
        reward=config.reward,
        prompts=config.prompts,
        out=str(Path(config.out) / ("here" if base_url is None else "served")),
        num_samples=config.num_samples,
        temperature=temperature,
        max_new_tokens=length,
        limit=config.limit,
        engine="transformers" if base_url is None else "openai",
        base_url=base_url,
        served_model=config.served_model,
        concurrency=config.concurrency,
        device=config.device,
        dtype=config.dtype,
        seed=config.seed + (base_url is not None),
    )


def _logprob_gap(config: VerifyConfig) -> float | None:
    """The mean |Δ log p| over served tokens, at temperature 1 or at that of sampling, whichever the server means."""
    engine = load_openai_engine(_collect_config(config, config.base_url))
    prompts = read_prompts(config.prompts, limit=config.limit)[:ASKED]
    encoded = engine.encode(prompts, config.prompts)
    told: list[tuple[list[int], Told]] = []
    for prompt, ids in zip(prompts, encoded, strict=True):
        query = Query(engine.text_of(prompt), list(ids), 1, seed_for(prompt.prompt_id, config.seed))
        told += [(list(ids), one) for one in ask_told(engine.server, query)]
    if not told:
        return None
    model = load.load_policy(config.model, dtype=config.dtype, device=load.resolve_device(config.device))
    rows = sequences([ids for ids, _ in told], [one.ids for _, one in told], 0)
    theirs = np.concatenate([one.logprobs for _, one in told])
    mask = rows.completion_mask.numpy()
    gaps = [
        float(np.abs(completion_logprobs(model, rows, temperature).numpy()[mask] - theirs).mean())
        for temperature in (1.0, engine.server.temperature)
    ]
    return min(gaps)
