"""F look-ups for a batch of completions in one call, against a loop over samples, M = 200 rewards a prompt."""

import numpy as np

from benchmarks.measure import arguments, interleave, report, rows_of
from vbon.core.reward_cdf import RewardCDF

NUM_PROMPTS, NUM_SAMPLES, LOOKUPS = 1000, 200, 10_000


def main() -> None:
    args = arguments(__doc__).parse_args()
    rng = np.random.default_rng(0)
    pools = rng.normal(size=(NUM_PROMPTS, NUM_SAMPLES))
    cdf = RewardCDF(pools.ravel(), np.full(NUM_PROMPTS, NUM_SAMPLES))
    index, rewards = rng.integers(0, NUM_PROMPTS, LOOKUPS), rng.normal(size=LOOKUPS)

    def loop() -> list[float]:
        return [
            float((pools[i] < reward).sum() + 1) / (NUM_SAMPLES + 1) for i, reward in zip(index, rewards, strict=True)
        ]

    def counted() -> object:
        return ((pools[index] < rewards[:, None]).sum(1) + 1) / (NUM_SAMPLES + 1)

    calls = {"vbon": lambda: cdf.interval(index, rewards), "loop over samples": loop, "count, vectorised": counted}
    report(rows_of(interleave(calls, args.repeats), "vbon", work=LOOKUPS), args)


if __name__ == "__main__":
    main()
