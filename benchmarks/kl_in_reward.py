"""Where training ends if the KL in the reward is estimated by k1 or by k3: exact, on an enumerable world.

python -m benchmarks.kl_in_reward [--n 4 8 32] [--json FILE]

The policy follows its expected gradient over all 3,906 completions, with the KL of each token detached in the reward:
k1 = log π/π_ref, or k3 = π_ref/π − 1 + log π/π_ref. The fixed point of k1 is best-of-N; k3 has another one.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vbon.lab.enumerate import exact_log_probs
from vbon.lab.exact import Truth, kl, score_all
from vbon.lab.world import World, reference

Float = NDArray[np.float64]
STEP = 0.05
MOST = 10.0  # nats: bound of an advantage, as in training
ESTIMATORS = {"k1": lambda ratio: ratio, "k3": lambda ratio: np.expm1(np.clip(-ratio, -60, 8)) + ratio}
"""The estimate of the KL of a token from its log-ratio log π/π_ref."""


class Tokens:
    """The prefix tree of a world's completions: conditional log-probabilities of their tokens, (C, T)."""

    def __init__(self, world: World):
        number: dict[tuple[int, ...], int] = {}
        paths = [
            [number.setdefault(tuple(ids[:length]), len(number)) for length in range(len(ids) + 1)]
            for ids in world.completions
        ]
        self.count, width = len(number), max(map(len, paths))
        self.nodes = np.array([path + [-1] * (width - len(path)) for path in paths])
        self.real = self.nodes >= 0

    def logprobs(self, log_policy: Float) -> Float:
        """Of each token given its prefix; 0 where a completion has ended."""
        weights = np.repeat(np.exp(log_policy), self.real.sum(1))
        mass = np.log(np.maximum(np.bincount(self.nodes[self.real], weights, self.count), 1e-300))
        at = np.where(self.real, mass[np.where(self.real, self.nodes, 0)], 0.0)
        return np.where(self.real[:, 1:], np.diff(at, axis=1), 0.0)


def end(log_ref: Float, log_weight: Float, tokens: Tokens, estimator: str, steps: int) -> Float:
    """log π (C,) after so many natural-gradient steps from π_ref."""
    ref_tokens, log_policy = tokens.logprobs(log_ref), log_ref
    for _ in range(steps):
        cost = ESTIMATORS[estimator](tokens.logprobs(log_policy) - ref_tokens).sum(1)
        gain = log_weight - cost
        advantage = np.clip(gain - np.exp(log_policy) @ gain, -MOST, MOST)
        log_policy = np.maximum(log_policy + STEP * advantage, -200)
        log_policy = log_policy - np.log(np.exp(log_policy).sum())
    return log_policy


def distances(ns: Sequence[int] = (4, 8, 32), steps: int = 6000) -> list[dict[str, float | str]]:
    """A row for each N and estimator, nats."""
    world, rows = World(), list[dict[str, float | str]]()
    truth = Truth(exact_log_probs(reference(world), world), score_all(world, "vbon.lab.rewards:continuous"))
    log_ref, tokens = np.log(truth.ref_probs), Tokens(world)
    for n in ns:
        log_bon = truth.log_bon(n)
        for estimator in ESTIMATORS:
            log_policy = end(log_ref[0], truth.log_weight(n)[0], tokens, estimator, steps)[None]
            rows.append(
                {
                    "n": n,
                    "estimator": estimator,
                    "kl_policy_bon": kl(log_policy, log_bon),
                    "kl_policy_ref": kl(log_policy, log_ref),
                    "kl_bon_ref": kl(log_bon, log_ref),
                    "entropy": -float(np.exp(log_policy[0]) @ log_policy[0]),
                }
            )
    return rows


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--n", type=int, nargs="+", default=[4, 8, 32], help="values of N")
    parser.add_argument("--steps", type=int, default=6000, help="steps of the flow")
    given = parser.parse_args()
    rows = distances(given.n, given.steps)
    print(f"{'N':>3}  estimator  KL(π‖π_bon)  KL(π‖π_ref)  of best-of-N  entropy")
    for row in rows:
        numbers = (f"{row[key]:.3f}" for key in ("kl_policy_bon", "kl_policy_ref", "kl_bon_ref", "entropy"))
        print("{:>3}  {:>9}  {:>11}  {:>11}  {:>12}  {:>7}".format(row["n"], row["estimator"], *numbers))
    if given.json is not None:
        given.json.write_text(json.dumps({"steps": given.steps, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
