"""Rewards written in Python: signatures, answers, side effects and mistakes of many kinds, put together at random.

An input whose suffix begins with `exact` is right; it must be read, and its numbers are known.
"""

import copy
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tests.faults.reader import Target, Valid

from vbon.errors import VbonError
from vbon.rewards import load_reward

PROMPTS: list[Any] = ["a prompt", "", [{"role": "user", "content": "hi"}], "ünï 🙂", "a prompt"]
COMPLETIONS = ["", " yes", "no\n", "漢字", " yes"]
COLUMNS: dict[str, list[Any]] = {"answer": ["4", None, "x" * 9, "", "4"], "tests": [[1, 2], [], [[3]], [{"a": 1}], [1]]}
TERMS = {
    "completions": ("2.0 * len(c)", [2.0 * len(text) for text in COMPLETIONS]),
    "prompts": ("0.5 * len(p)", [0.5 * len(prompt) for prompt in PROMPTS]),
    "answer": ("1.0 * len(a or '')", [1.0 * len(answer or "") for answer in COLUMNS["answer"]]),
    "tests": ("4.0 * len(t)", [4.0 * len(tests) for tests in COLUMNS["tests"]]),
}
LETTERS = {"completions": "c", "prompts": "p", "answer": "a", "tests": "t"}
ANSWERS = (
    *("values", "tuple(values)", "(v for v in values)", "map(float, values)", "np.array(values)", "iter(values)"),
    *("np.array(values, dtype=np.float32)", "np.array(values, dtype=object)", "torch.tensor(values)"),
    *("torch.tensor(values, dtype=torch.bfloat16, requires_grad=True)", "[torch.tensor(v) for v in values]"),
    *("[np.float16(v) for v in values]", "[Fraction(v) for v in values]", "[Decimal(v) for v in values]"),
    *("collections.deque(values)", "dict(enumerate(values)).values()", "torch.tensor(values).double()"),
)
WRONG_ANSWERS = (
    *("None", "1.0", "[]", "values[:-1]", "values + [0.0]", "[[v] for v in values]", "np.array(values)[:, None]"),
    *("[None] * len(values)", "[str(v) for v in values]", "[float('nan')] * len(values)", "set(values)", "'1' * 5"),
    *("{'rewards': values}", "[v + 1j for v in values]", "[10**400 for v in values]", "[-float('inf')] * len(values)"),
    *("itertools.count()", "len", "values.append", "[values] * len(values)", "np.zeros((0, 5))", "b'12345'"),
    *("[Odd() for v in values]", "Odd()", "[Odd] * len(values)"),
    *("(1 / 0 for v in values)", "torch.tensor(values).sum()", "[lambda: v for v in values]", "type", "..."),
)
SIDE_EFFECTS = (
    *("", "", "", "completions.clear()", "completions.append('x')", "print('scoring')", "np.random.seed(0)"),
    *("completions[:] = ['changed'] * len(completions)", "torch.manual_seed(0)", "random.seed(1)"),
    *("warnings.warn('deprecated')", "sys.stderr.write('note')", "completions.sort()", "completions.reverse()"),
)
PROMPT_EFFECTS = ("", "prompts.clear()", "[p.append({'role': 'x'}) for p in prompts if isinstance(p, list)]")
MISTAKES = (
    *("raise ValueError('two\\nlines')", "raise KeyError('answer')", "raise SystemExit(3)", "raise Exception"),
    *("raise StopIteration", "raise RecursionError", "raise MemoryError", "raise asyncio.CancelledError"),
    *("raise BaseException('odd')", "raise GeneratorExit", "raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'bad')"),
    *("raise ValueError('\\ud800')", "raise Odd()", "assert False", "undefined_name", "completions[99]", "exit()"),
    *("raise TimeoutError", "raise ExceptionGroup('g', [ValueError(1)])", "1 / 0", "raise ValueError('x' * 10**6)"),
)
MODULE_MISTAKES = (
    *("def score(:", "import no_such_module", "raise SystemExit", "1 / 0", "score = 3", "score = None", "exit(1)"),
    *("async def score(completions): return completions", "class score: pass", "score = 'text'", "x = 1"),
    *("raise BaseException('odd')", "score = len", "score = print", "score = dict", "\x00", "  score = 1"),
    *("def score(responses, prompts): return [1.0] * len(prompts)", "def score(): return []", "def _score(): pass"),
    *("def score(prompts, completion): return [1.0] * len(prompts)", "score = lambda *a: [1.0]", "import os; os.x"),
    *("def score(completions, missing): return [1.0] * len(completions)", "from __future__ import nonsense"),
)
IMPORTS = (
    "import asyncio, collections, itertools, random, sys, warnings\nfrom decimal import Decimal\n"
    "from fractions import Fraction\nfrom functools import partial\nimport numpy as np\nimport torch\n\n"
    "class Odd(Exception):\n    def fails(self, *a):\n        raise RuntimeError('no text')\n"
    "    __str__ = __repr__ = __float__ = __len__ = fails\n\n"
)
FORMS = (
    *("def score({parameters}):\n{body}",) * 4,
    "class Scorer:\n    def __call__(self, {parameters}):\n{inner}\nscore = Scorer()",
    "class Scorer:\n    @staticmethod\n    def of({parameters}):\n{inner}\nscore = Scorer.of",
    "def made(extra, {parameters}):\n{body}\nscore = partial(made, None)",
    "def made({parameters}):\n{body}\nscore = lambda {names}: made({passed})",
    "def score({parameters}):\n{body}\nscore.batch_noise = True",
)


def python_rewards(folder: Path) -> Target:
    def read(content: bytes, suffix: str) -> None:
        path = folder / "reward.py"
        path.write_bytes(content)
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                _use(str(path), suffix, Random(content))
        except VbonError as error:
            assert not suffix.startswith("exact"), f"a right reward is refused: {error}"
            raise
        finally:
            path.unlink()
            for name in [name for name in sys.modules if name.startswith("vbon_reward_")]:
                del sys.modules[name]

    examples = [any_reward(Random(seed)) for seed in range(40)]
    valid = tuple(Valid(".py", "text", content) for suffix, content in examples if suffix.startswith("exact"))
    return Target("rewards", 4, valid, read, any_reward)


def _use(path: str, suffix: str, random: Random) -> None:
    batch_size = random.choice((1, 2, 3, 64))
    given = copy.deepcopy((PROMPTS, COMPLETIONS, COLUMNS))
    reward = load_reward(f"{path}:score", batch_size=batch_size)
    for _ in range(2):
        numbers = reward(given[0], given[1], **given[2])
        assert numbers.dtype == np.float64 and numbers.shape == (len(COMPLETIONS),) and np.isfinite(numbers).all()
        if suffix.startswith("exact"):
            known = np.sum([TERMS[name][1] for name in suffix.split(":")[1].split(",")], axis=0)
            np.testing.assert_array_equal(numbers, known, f"batches of {batch_size}")
        assert given == (PROMPTS, COMPLETIONS, COLUMNS), "a reward changed what it was given"


def any_reward(random: Random) -> tuple[str, bytes]:
    """(`exact:` and what the numbers are made of, or `.py`; the source of a module with a function `score`)."""
    if random.random() < 0.15:
        return ".py", (IMPORTS + random.choice(MODULE_MISTAKES) + "\n").encode("utf-8")
    names = ["completions", *random.sample(sorted(set(TERMS) - {"completions"}), random.randrange(4))]
    right = random.random() < 0.6
    lines = ["values = [" + " + ".join(TERMS[n][0] for n in names) + f" for {_letters(names)} in zip({_lists(names)})]"]
    if not right and random.random() < 0.5:
        lines.append(random.choice(MISTAKES))
    lines.append(random.choice(SIDE_EFFECTS))
    lines.append(random.choice(PROMPT_EFFECTS) if "prompts" in names else "")
    lines.append("return " + random.choice(ANSWERS if right else WRONG_ANSWERS))
    parameters, unpack = _parameters(names, random)
    lines = [line for line in (*unpack, *lines) if line]
    form = random.choice(FORMS)
    body, inner = ("\n".join(" " * indent + line for line in lines) for indent in (4, 8))
    passed = ", ".join(f"{name}={name}" for name in names)
    source = IMPORTS + form.format(parameters=parameters, body=body, inner=inner, names=_lists(names), passed=passed)
    return f"exact:{','.join(names)}" if right else ".py", f"{source}\n".encode()


def _letters(names: list[str]) -> str:
    return ", ".join(LETTERS[name] for name in names) + ","


def _lists(names: list[str]) -> str:
    return ", ".join(names)


def _parameters(names: list[str], random: Random) -> tuple[str, list[str]]:
    """(a parameter list that names these or takes them as keywords, lines that take them out of the keywords)."""
    shuffled = random.sample(names, len(names))
    kind = random.randrange(5)
    if kind == 0:
        return "**columns", [f"{name} = columns[{name!r}]" for name in names]
    if kind == 1:
        return ", ".join(["*", *shuffled]), []
    if kind == 2:
        return ", ".join([*shuffled, "**rest"]), []
    if kind == 3:
        return ", ".join([*shuffled, "strict=True", "*", "verbose=False"]), []
    return ", ".join(shuffled), []
