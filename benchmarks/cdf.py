"""F look-ups for a batch of completions in one call, against loops over samples, M = 200 rewards a prompt.

Two loops: one over rows of an array, and one over lists as a pool in JSONL holds them, made an array sample by sample.
"""

import numpy as np

from benchmarks.measure import arguments, interleave, report, rows_of
from vbon.core.reward_cdf import RewardCDF

NUM_PROMPTS, NUM_SAMPLES = 1000, 200


def measure(lookups: int, repeats: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    pools = rng.normal(size=(NUM_PROMPTS, NUM_SAMPLES))
    lists = pools.tolist()
    cdf = RewardCDF(pools.ravel(), np.full(NUM_PROMPTS, NUM_SAMPLES))
    index, rewards = rng.integers(0, NUM_PROMPTS, lookups), rng.normal(size=lookups)

    def loop(rows: object) -> list[float]:
        return [
            float((np.asarray(rows[i]) < reward).sum() + 1) / (NUM_SAMPLES + 1)  # type: ignore[index]
            for i, reward in zip(index, rewards, strict=True)
        ]

    calls = {
        "vbon": lambda: cdf.interval(index, rewards),
        "loop over samples": lambda: loop(pools),
        "loop over samples, lists": lambda: loop(lists),
        "count, vectorised": lambda: ((pools[index] < rewards[:, None]).sum(1) + 1) / (NUM_SAMPLES + 1),
    }
    return [{"batch": lookups, **row} for row in rows_of(interleave(calls, repeats), "vbon", work=lookups)]


def main() -> None:
    args = arguments(__doc__).parse_args()
    batches = (100,) if args.tiny else (1000, 10_000)
    report([row for batch in batches for row in measure(batch, args.repeats)], args)


if __name__ == "__main__":
    main()
