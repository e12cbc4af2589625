"""A reward written in Python: `module:function` or `file.py:function`.

The function is called as `f(prompts, completions, **columns)` and returns one number per completion. By keyword where
it names `completions` (so `f(completions, **kwargs)` works too), else by position. It gets the dataset columns that it
names, or all of them if it takes `**kwargs`; each column is a list aligned with the completions.

Its numbers are taken as exact. One that calls a network, whose last digits depend on what is in the batch, says so by
an attribute: `function.batch_noise = True`.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from vbon.errors import VbonError
from vbon.rewards.checked import CheckedReward, checked, describe
from vbon.rewards.protocol import FORMS, Prompt, RewardError, Score

Function = Callable[..., Any]


def python_reward(spec: str, *, batch_size: int, timeout: float | None) -> CheckedReward:
    """The reward `module:function` or `file.py:function`; raises VbonError where it cannot be imported or called."""
    source, _, attribute = spec.rpartition(":")
    module = load_file(spec, Path(source)) if source.endswith(".py") else load_module(spec, source)
    function = getattr(module, attribute, None)
    if function is None:
        there = ", ".join(functions_of(module)) or "no function"
        raise VbonError(f"reward {spec}: {source} has no {attribute!r}; it defines {there}")
    name = f"{Path(source).name}:{attribute}" if source.endswith(".py") else spec
    return callable_reward(
        function, name=spec, fingerprint=name + source_digest(module), batch_size=batch_size, timeout=timeout
    )


def callable_reward(
    function: Function, *, name: str, fingerprint: str, batch_size: int = 64, timeout: float | None = None
) -> CheckedReward:
    """A Reward from a function of your own; `fingerprint` must change when its numbers do."""
    if not callable(function):
        raise VbonError(f"reward {name}: is {type(function).__name__}, not a function")
    if inspect.iscoroutinefunction(function):
        raise VbonError(f"reward {name}: is async; wrap it in a plain function that returns the numbers")
    return checked(
        adapt(function),
        name=name,
        fingerprint=fingerprint,
        batch_size=batch_size,
        timeout=timeout,
        retry_alone=True,
        noise=0.0 if getattr(function, "batch_noise", False) else None,
    )


def adapt(function: Function) -> Score:
    """`function` behind the one calling convention of every reward, decided once from its signature."""
    parameters = parameters_of(function)
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    by_keyword = "completions" in names
    # By position, the first two parameters hold prompts and completions, whatever they are called.
    taken = {"prompts", "completions"} if by_keyword else {p.name for p in parameters[:2]}

    def score(prompts: list[Prompt], completions: list[str], columns: dict[str, list[Any]]) -> Any:
        passed = {
            name: values for name, values in columns.items() if (takes_any or name in names) and name not in taken
        }
        if not by_keyword:
            return function(prompts, completions, **passed)
        if takes_any or "prompts" in names:
            passed["prompts"] = prompts
        return function(completions=completions, **passed)

    return score


def parameters_of(function: Function) -> list[inspect.Parameter]:
    """The parameters of `function`; none where it is written in C and tells nothing."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def load_file(spec: str, path: Path) -> ModuleType:
    """The module in the file `path`, which may import its neighbours."""
    if not path.is_file():
        raise VbonError(f"reward {spec}: there is no file {path}")
    path = path.resolve()
    name = f"vbon_reward_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None and module_spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    with importable(path.parent), import_errors(spec):
        module_spec.loader.exec_module(module)
    return module


def load_module(spec: str, name: str) -> ModuleType:
    """The importable module `name`; modules in the working directory count."""
    with importable(Path.cwd()), import_errors(spec):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and f"{name}.".startswith(f"{error.name}."):  # itself or a parent, not something it imports
                raise RewardError(f"there is no module {error.name}; a reward is {FORMS}") from None
            raise


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """`folder` at the end of the import path: found, but shadowing nothing that is installed."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def import_errors(spec: str) -> Iterator[None]:
    """Whatever importing a user's module raises, as one line."""
    try:
        yield
    except SystemExit as error:
        raise VbonError(f"reward {spec}: importing it exited; guard the script with __name__ == '__main__'") from error
    except RewardError as error:
        raise VbonError(f"reward {spec}: {error}") from None
    except Exception as error:
        raise VbonError(f"reward {spec}: importing it failed: {describe(error)}") from error


def functions_of(module: ModuleType) -> list[str]:
    """The public functions and classes that `module` itself defines."""
    own = (name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    return sorted(name for name in own if not name.startswith("_") and callable(vars(module)[name]))


def source_digest(module: ModuleType) -> str:
    """`@sha256:…` of the module's source file; empty for a module without one. What the file imports is not covered."""
    path = getattr(module, "__file__", None)
    if path is None or not Path(path).is_file():
        return ""
    return "@sha256:" + hashlib.sha256(Path(path).read_bytes()).hexdigest()
