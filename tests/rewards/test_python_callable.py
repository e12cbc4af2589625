"""Rewards written in Python: how the function is found, how it is called, and what each mistake says."""

import copy
import functools
import hashlib
import itertools
import math
import os
import sys

import numpy as np
import pytest

from vbon.errors import VbonError
from vbon.rewards import callable_reward, load_reward

SOURCE = """\
def length(prompts, completions, kind=None, **_):
    return [len(p) + 10 * len(c) for p, c in zip(prompts, completions)]

def _private(prompts, completions):
    return [0] * len(completions)

VALUE = 3
"""


@pytest.fixture
def reward_file(tmp_path):
    path = tmp_path / "my_reward.py"
    path.write_text(SOURCE)
    return path


def scored(function, **columns):
    return callable_reward(function, name="mine", fingerprint="f")(["p", "qq"], ["abc", "d"], **columns)


def test_a_file_by_absolute_and_relative_path_is_one_reward(reward_file, monkeypatch):
    absolute = load_reward(f"{reward_file}:length")
    monkeypatch.chdir(reward_file.parent)
    relative = load_reward("my_reward.py:length")
    np.testing.assert_array_equal(relative(["p", "qq"], ["abc", "d"]), [31.0, 12.0])
    digest = hashlib.sha256(SOURCE.encode()).hexdigest()
    assert absolute.fingerprint == relative.fingerprint == f"my_reward.py:length@sha256:{digest}"
    assert absolute.name == f"{reward_file}:length"


def test_an_edited_file_is_another_reward(reward_file):
    before = load_reward(f"{reward_file}:length")
    reward_file.write_text(SOURCE.replace("10", "20"))
    after = load_reward(f"{reward_file}:length")
    assert before.fingerprint != after.fingerprint
    assert (before(["p"], ["ab"])[0], after(["p"], ["ab"])[0]) == (21.0, 41.0)


def test_a_file_may_import_its_neighbours_but_leaves_the_import_path_alone(tmp_path):
    (tmp_path / "vbon_test_neighbour.py").write_text("FACTOR = 7\n")
    file = tmp_path / "r.py"
    file.write_text(
        "from vbon_test_neighbour import FACTOR\ndef f(prompts, completions): return [FACTOR for _ in prompts]\n"
    )
    path = list(sys.path)
    np.testing.assert_array_equal(load_reward(f"{file}:f")(["p"], ["c"]), [7.0])
    assert sys.path == path


def test_a_module_in_the_working_directory_is_found(tmp_path, monkeypatch):
    package = tmp_path / "vbon_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "judge.py").write_text("def f(prompts, completions): return [len(c) for c in completions]\n")
    monkeypatch.chdir(tmp_path)
    reward = load_reward("vbon_test_package.judge:f")
    np.testing.assert_array_equal(reward(["p"], ["four"]), [4.0])
    assert reward.fingerprint.startswith("vbon_test_package.judge:f@sha256:")


def test_columns_go_only_to_functions_that_name_them():
    answers = [5, 6]
    np.testing.assert_array_equal(
        scored(lambda prompts, completions, answer: answer, answer=answers, other="xy"), answers
    )
    np.testing.assert_array_equal(scored(lambda prompts, completions: [1, 2], answer=answers), [1, 2])
    np.testing.assert_array_equal(scored(lambda prompts, completions, **kw: kw["answer"], answer=answers), answers)
    np.testing.assert_array_equal(scored(lambda completions, answer=None: answer, answer=answers), answers)


def test_arguments_are_passed_by_name_in_any_order():
    by_length = [3.0, 1.0]
    for function in [
        lambda prompts, completions: map(len, completions),
        lambda completions, prompts: map(len, completions),
        lambda completions, **kwargs: map(len, completions),
        lambda completions: map(len, completions),
        lambda *, prompts, completions: map(len, completions),
        lambda **kwargs: map(len, kwargs["completions"]),
        lambda prompts, completions, /: map(len, completions),
        lambda completions, prompts, /: map(len, completions),
        lambda completions, /, prompts, *rest, other=3: map(len, completions),
        functools.partial(lambda scale, completions: map(len, completions), 2),
    ]:
        np.testing.assert_array_equal(scored(function), by_length)


@pytest.mark.parametrize(
    "function",
    [
        lambda questions, answers: map(len, answers),
        lambda responses, prompts: map(len, responses),
        lambda completion, prompt: map(len, completion),
        lambda samples, prompts, answer=None: map(len, samples),
        lambda *both: map(len, both[1]),
        lambda: [],
        math.fsum,
        dict.get,
    ],
)
def test_a_signature_without_the_names_is_refused_before_any_call(function):
    with pytest.raises(VbonError, match="is unclear, since arguments are passed by name"):
        load_from(function)


def test_a_parameter_that_is_no_column_is_named():
    with pytest.raises(VbonError, match=r"its parameter 'answer' is no column of the prompts \(columns: label\)"):
        scored(lambda completions, answer: answer, label=[1, 2])


CHANGES = {
    "appends to a message list": lambda prompts, completions, notes: [p.append({"role": "x"}) for p in prompts],
    "edits a message": lambda prompts, completions, notes: [p[0].update(content="!") for p in prompts],
    "empties the lists": lambda prompts, completions, notes: (prompts.clear(), completions.clear(), notes.clear()),
    "edits a column's value": lambda prompts, completions, notes: [n["a"].append(1) for n in notes],
    "sorts": lambda prompts, completions, notes: completions.sort(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_a_reward_does_to_its_arguments_changes_nothing(change):
    """Also between the completions of one prompt, which come as one object several times."""
    prompt, note = [{"role": "user", "content": "hi"}], {"a": [0]}
    prompts, completions, notes = [prompt] * 3, ["b", "aa", "c"], [note] * 3
    before = copy.deepcopy((prompts, completions, notes))

    def meddles(prompts, completions, notes):
        answer = [len(p) * 10 + len(c) + len(n["a"]) for p, c, n in zip(prompts, completions, notes, strict=True)]
        change(prompts, completions, notes)
        return answer

    reward = load_from(meddles)
    for _ in range(2):
        np.testing.assert_array_equal(reward(prompts, completions, notes=notes), [12, 13, 12])
    assert (prompts, completions, notes) == before

    def meddles_one_by_one(prompts, completions, notes):
        rewards = []
        for row in range(3):
            rewards.append(len(prompts[row]) * 10 + len(notes[row]["a"]))
            prompts[row].append({"role": "x"})
            notes[row]["a"].append(1)
        return rewards

    np.testing.assert_array_equal(load_from(meddles_one_by_one)(prompts, completions, notes=notes), [11, 11, 11])


def test_an_answer_without_an_end_is_refused():
    with pytest.raises(VbonError, match="returned more rewards for 2 completions"):
        scored(lambda completions: itertools.repeat(1.0))


def test_a_column_named_like_an_argument_does_not_replace_it():
    columns = {"prompts": ["x", "y"], "completions": ["long long", "longer still"], "questions": [1, 2]}
    reward = load_from(lambda prompts, completions, **kw: map(len, completions))
    assert list(reward.score(["p", "qq"], ["abc", "d"], columns)) == [3, 1]


def load_from(function):
    return callable_reward(function, name="mine", fingerprint="f")


@pytest.mark.parametrize(
    ("content", "attribute", "message"),
    [
        (SOURCE, "score", "has no 'score'; it defines length"),
        ("x = 1\n", "score", "it defines no function"),
        (SOURCE, "VALUE", "is int, not a function"),
        (
            "import vbon_no_such_module\n",
            "f",
            "importing it failed: ModuleNotFoundError: No module named 'vbon_no_such_module' at bad.py:1",
        ),
        ("def f(:\n", "f", "importing it failed: SyntaxError: "),
        ("x = 1\ny = x / 0\n", "f", "importing it failed: ZeroDivisionError: division by zero at bad.py:2"),
        ("import sys\nsys.exit(0)\n", "f", "importing it exited"),
        ("async def f(prompts, completions): return []\n", "f", "is async"),
    ],
)
def test_each_mistake_in_a_file_is_one_line(tmp_path, content, attribute, message):
    file = tmp_path / "bad.py"
    file.write_text(content)
    with pytest.raises(VbonError) as raised:
        load_reward(f"{file}:{attribute}")
    assert message in str(raised.value) and str(file) in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_file_or_module_is_named(tmp_path):
    with pytest.raises(VbonError, match=r"there is no file .*absent\.py"):
        load_reward(f"{tmp_path / 'absent.py'}:f")
    with pytest.raises(VbonError, match="there is no module vbon_absent; a reward is"):
        load_reward("vbon_absent:f")


def test_functions_written_in_c_do_not_tell_their_arguments():
    with pytest.raises(VbonError, match=r"reward math:fsum: its signature .* is unclear"):
        load_reward("math:fsum")


@pytest.mark.parametrize("raised", ["BaseException('odd')", "GeneratorExit", "SystemExit(3)", "Odd()"])
@pytest.mark.parametrize("place", ["function", "generator", "module"])
def test_whatever_a_rewards_code_raises_is_one_line(raised, place, tmp_path):
    """Also while its answer is read, and where the error cannot be shown as text."""
    odd = "class Odd(Exception):\n    def __str__(self):\n        raise RuntimeError\n"
    source = {
        "function": f"def f(completions):\n    raise {raised}\n",
        "generator": f"def f(completions):\n    yield 1.0\n    raise {raised}\n",
        "module": f"raise {raised}\n",
    }[place]
    (tmp_path / "r.py").write_text(odd + source)
    with pytest.raises(VbonError) as error:
        load_reward(f"{tmp_path}/r.py:f")(["p", "q"], ["a", "b"])
    assert "r.py" in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_edited_within_a_second_is_read_anew(tmp_path, monkeypatch):
    """Python's cache of bytecode knows a file by its size and the second in which it was written."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path, numbers = tmp_path / "r.py", []
    for value in (10, 20):
        path.write_text(f"def f(completions): return [{value} for _ in completions]\n")
        os.utime(path, (1e9, 1e9))
        numbers.append(load_reward(f"{path}:f")(["p"], ["c"])[0])
    assert numbers == [10.0, 20.0]


def test_an_item_that_cannot_be_shown_is_named_by_its_class():
    class Odd:
        def __repr__(self):
            raise RuntimeError

        __float__ = __repr__

    with pytest.raises(VbonError, match="returned an object of class Odd that cannot be shown, which is not a number"):
        scored(lambda completions: [Odd() for _ in completions])
