"""How far a turned N is from best-of-N′: exact, with the exact best-of-N of an enumerable world in place of a run.

python -m benchmarks.dial
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vbon.core.best_of_n import kl_from_reference
from vbon.lab.enumerate import exact_log_probs
from vbon.lab.exact import Truth, kl, score_all
from vbon.lab.world import World, reference
from vbon.models.dial import dial_share

Float = NDArray[np.float64]
Tokens = Mapping[tuple[int, ...], float]
"""Prefix → log-probability of its last token given the others."""
TURNS = ((8, 2), (8, 4), (32, 2), (32, 4), (32, 8), (32, 16), (128, 8), (128, 32), (2, 4), (4, 8), (8, 16), (32, 64))


def token_logprobs(world: World, logprobs: Float) -> dict[tuple[int, ...], float]:
    """The conditional distributions of a policy given by its completions' log-probabilities (C,)."""
    mass: dict[tuple[int, ...], float] = {}
    for ids, logprob in zip(world.completions, logprobs, strict=True):
        for length in range(len(ids) + 1):
            prefix = tuple(ids[:length])
            mass[prefix] = float(np.logaddexp(mass.get(prefix, -np.inf), logprob))
    return {prefix: value - mass[prefix[:-1]] for prefix, value in mass.items() if prefix}


def turned(world: World, ref: Tokens, policy: Tokens, share: float) -> Float:
    """log-probabilities (C,) of the token-level mixture, `models.dial.Dial` with exact policies."""
    mixed = {prefix: (1 - share) * ref[prefix] + share * policy[prefix] for prefix in ref}
    norm: dict[tuple[int, ...], float] = {}
    for prefix, value in mixed.items():
        norm[prefix[:-1]] = float(np.logaddexp(norm.get(prefix[:-1], -np.inf), value))
    token = {prefix: value - norm[prefix[:-1]] for prefix, value in mixed.items()}
    return np.array([sum(token[tuple(ids[:length])] for length in range(1, len(ids) + 1)) for ids in world.completions])


def distances(turns: Sequence[tuple[int, int]] = TURNS) -> list[dict[str, float]]:
    """For each (N, N′): KL to best-of-N′ of the turned policy, of the unturned one and of π_ref, nats."""
    world = World()
    truth = Truth(exact_log_probs(reference(world), world), score_all(world, "vbon.lab.rewards:continuous"))
    log_ref = np.log(truth.ref_probs)
    bon = {n: truth.log_bon(n) for n in {n for turn in turns for n in turn}}
    tokens = {n: token_logprobs(world, bon[n][0]) for n in {n for n, _ in turns}}
    ref = token_logprobs(world, log_ref[0])
    rows = []
    for n, to in turns:
        mixed = turned(world, ref, tokens[n], dial_share(n, to))[None]
        rows.append(
            {
                "n": n,
                "to": to,
                "turned": kl(mixed, bon[to]),
                "unturned": kl(bon[n], bon[to]),
                "reference": kl(log_ref, bon[to]),
                "kl_policy_ref": kl(mixed, log_ref),
                "kl_bon_ref": kl_from_reference(to),
            }
        )
    return rows


def main() -> None:
    """Print the table of docs/guides/best-of-n-tools.md."""
    torch.set_num_threads(1)
    print("| trained for N | turned to N′ | KL to best-of-N′ | unturned | π_ref | KL to π_ref | of best-of-N′ |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for row in distances():
        cells = (f"{row[key]:.3f}" for key in ("turned", "unturned", "reference", "kl_policy_ref", "kl_bon_ref"))
        print(f"| {row['n']} | {row['to']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
