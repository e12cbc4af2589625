"""A judge of two completions as a reward: `pairwise:URL`, `pairwise:file.py:function` or `pairwise:module:function`.

The judge is any reward that reads a column `others` beside `completions`: one number per pair in [−1, 1], positive
where the completion is better, 0 for no preference (a probability p that it is better is 2p − 1). Both orders of a pair
are asked by default, and their mean decides, so that a preference for the first place cancels.

The reward of a completion is the share of k opponents that it beats, ties half. Opponents are other completions of the
same prompt; `core.pairwise` says what k does. A comparison is stored as soon as it is made, and never asked twice.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbon.core.pairwise import count_cycles
from vbon.errors import VbonError
from vbon.rewards.protocol import Prompt, Reward

PREFIX = "pairwise:"
FILE_NAME = "comparisons.jsonl"
STORED_AT_A_TIME = 64

Int = NDArray[np.int64]
Pair = tuple[Prompt, str, str, dict[str, Any]]
"""(prompt, completion, other, columns)."""


class PairwiseReward:
    """Shares of wins over other completions of a prompt.

    Args:
        judge: (prompts, completions, others=…) → preferences in [−1, 1].
    """

    noise = None

    def __init__(self, judge: Reward):
        self._judge = judge
        self.limit(16, None, both_orders=True)
        self._known: dict[str, float] = {}
        self._file: Path | None = None
        self.name = PREFIX + judge.name

    @property
    def fingerprint(self) -> str:
        """What identifies the judge and how it is asked; the number of opponents is a matter of precision."""
        return f"{PREFIX}{self._judge.fingerprint} {'both-orders' if self._both_orders else 'one-order'}"

    def limit(self, num_opponents: int, max_comparisons: int | None, *, both_orders: bool) -> None:
        """Set k, the most opponents of a completion; the most questions (None: no limit); and whether to ask twice."""
        self.num_opponents, self._left, self._both_orders = num_opponents, max_comparisons, both_orders

    def keep_in(self, folder: Path, *others: Path) -> None:
        """Store comparisons in a folder, and read those that are there and in other folders."""
        self._file = folder / FILE_NAME
        for file in (self._file, *(other / FILE_NAME for other in others)):
            for line in file.read_text("utf-8").splitlines() if file.exists() else ():
                try:
                    row = json.loads(line)
                    self._known[row["pair"]] = float(row["preference"])
                except (ValueError, KeyError, TypeError):
                    continue  # a line that a kill cut off: asked again

    def __call__(self, prompts: list[Prompt], completions: list[str], /, **columns: list[Any]) -> NDArray[np.float64]:
        """Share of wins of each completion over others of its prompt in this call, float64 (B,); 1/2 where alone."""
        groups: dict[str, list[int]] = {}
        for row, prompt in enumerate(prompts):
            groups.setdefault(
                json.dumps([prompt, {name: columns[name][row] for name in columns}], default=str), []
            ).append(row)
        opponents = {row: self._others(group, row, completions[row]) for group in groups.values() for row in group}
        won, tied, count = self.compare(
            prompts, completions, [[completions[o] for o in opponents[row]] for row in range(len(prompts))], columns
        )
        return np.where(count > 0, (won + tied / 2) / np.maximum(count, 1), 0.5)

    def _others(self, group: Sequence[int], row: int, text: str) -> list[int]:
        others = [other for other in group if other != row]
        return [others[i] for i in chosen(len(others), self.num_opponents, text)]

    def compare(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        opponents: Sequence[Sequence[str]],
        columns: dict[str, list[Any]],
    ) -> tuple[Int, Int, Int]:
        """Compare each completion with its opponents.

        Args:
            prompts, completions: B of each.
            opponents: the texts that each completion meets.
            columns: the columns of the prompts, B values each.

        Returns:
            Wins, ties and comparisons of each completion, int64 (B,) each.

        Raises:
            VbonError: the judge failed, or --max-comparisons is reached; what was asked is stored.
        """
        met = [
            (row, prompt, text, other)
            for row, (prompt, text, others) in enumerate(zip(prompts, completions, opponents, strict=True))
            for other in others
        ]
        wanted: dict[str, Pair] = {}
        for row, prompt, text, other in met:
            for a, b in ((text, other), (other, text))[: 1 + self._both_orders]:
                own = {name: values[row] for name, values in columns.items()}
                if a != b and (key := pair_key(prompt, a, b, own)) not in self._known:
                    wanted[key] = (prompt, a, b, own)
        self._ask(wanted)
        won, tied, count = (np.zeros(len(completions), np.int64) for _ in range(3))
        for row, prompt, text, other in met:
            sign = self._sign(prompt, text, other, {name: values[row] for name, values in columns.items()})
            won[row], tied[row], count[row] = won[row] + (sign > 0), tied[row] + (sign == 0), count[row] + 1
        return won, tied, count

    def _sign(self, prompt: Prompt, text: str, other: str, columns: dict[str, Any]) -> int:
        if text == other:
            return 0
        forward = self._known[pair_key(prompt, text, other, columns)]
        backward = self._known[pair_key(prompt, other, text, columns)] if self._both_orders else -forward
        return int(np.sign(forward - backward))

    def _ask(self, wanted: dict[str, Pair]) -> None:
        every, most = list(wanted), len(wanted) if self._left is None else self._left
        for start in range(0, min(len(every), most), STORED_AT_A_TIME):
            keys = every[start : min(start + STORED_AT_A_TIME, most)]
            rows = [wanted[key] for key in keys]
            columns = {name: [row[3][name] for row in rows] for name in rows[0][3]}
            answers = self._judge(
                [row[0] for row in rows], [row[1] for row in rows], others=[row[2] for row in rows], **columns
            )
            if np.abs(answers).max() > 1:
                raise VbonError(
                    f"{self.name}: answered {answers[np.abs(answers).argmax()]:g}; a preference is in [-1, 1]"
                )
            self._store(dict(zip(keys, answers.tolist(), strict=True)))
        if len(every) > most:
            raise VbonError(
                f"{self.name}: --max-comparisons is reached with {len(every) - most} comparisons to go; those that "
                "were made are kept, and the same command with a larger limit continues"
            )

    def _store(self, answers: dict[str, float]) -> None:
        self._left = None if self._left is None else self._left - len(answers)
        self._known |= answers
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open(self._file, "a", encoding="utf-8") as file:
                file.writelines(json.dumps({"pair": key, "preference": value}) + "\n" for key, value in answers.items())

    def cycles(self, prompt: Prompt, completions: Sequence[str], columns: dict[str, Any]) -> tuple[int, int]:
        """Count (cycles, triples) among completions of a prompt, over the comparisons that were made."""
        texts = list(dict.fromkeys(completions))
        preference = np.zeros((len(texts), len(texts)))
        for a, one in enumerate(texts):
            for b, other in enumerate(texts):
                preference[a, b] = self._known.get(pair_key(prompt, one, other, columns), 0.0)
        if self._both_orders:
            return count_cycles(np.sign(preference - preference.T))
        return count_cycles(np.sign(np.where(preference != 0, preference, -preference.T)))


def chosen(count: int, most: int, text: str) -> Int:
    """Choose at most `most` of `count` opponents, as a function of the completion's text."""
    seed = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def pair_key(prompt: Prompt, text: str, other: str, columns: dict[str, Any]) -> str:
    """Compute what tells a comparison from all others."""
    content = json.dumps([prompt, text, other, columns], default=str, sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
