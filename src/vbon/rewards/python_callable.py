"""A reward written in Python: `module:function` or `file.py:function`.

The function is called as `f(prompts=…, completions=…, **columns)` and returns one number per completion. Arguments are
passed by name, so that it must name `completions` or take `**kwargs`. It gets `prompts` and the dataset columns that it
names, or all of them if it takes `**kwargs`; each is a list aligned with the completions, and its own copy.

Its numbers are taken as exact. One that calls a network, whose last digits depend on what is in the batch, says so by
an attribute: `function.batch_noise = True`.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
        adapt(function, name),
        name=name,
        fingerprint=fingerprint,
        batch_size=batch_size,
        timeout=timeout,
        retry_alone=True,
        noise=0.0 if getattr(function, "batch_noise", False) else None,
    )


def adapt(function: Function, name: str) -> Score:
    """`function` behind the one calling convention of every reward, decided once from its signature."""
    parameters = parameters_of(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not takes_any and "completions" not in {p.name for p in named}:
        raise VbonError(
            f"reward {name}: its signature {shown_signature(function)} is unclear, since arguments are passed by name: "
            "name a parameter `completions` and, where they are needed, `prompts` and columns"
        )
    required = [p.name for p in named if p.default is p.empty]
    by_position = [p.name for p in named if p.kind is p.POSITIONAL_ONLY]

    def score(prompts: list[Prompt], completions: list[str], columns: dict[str, list[Any]]) -> Any:
        offered = {**columns, "prompts": prompts, "completions": completions}
        for parameter in required:
            if parameter not in offered:
                there = ", ".join(columns) or "none"
                raise RewardError(f"its parameter {parameter!r} is no column of the prompts (columns: {there})")
        passed = offered if takes_any else {p.name: offered[p.name] for p in named if p.name in offered}
        first = [passed[parameter] for parameter in by_position if parameter in passed]
        return function(*first, **{key: values for key, values in passed.items() if key not in by_position})

    return score


def shown_signature(function: Function) -> str:
    """The parameters of `function` in brackets, for messages."""
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):
        return "(written in C)"


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
        # Python would take the bytecode of an older file of this size that was written within the same second.
        with suppress(OSError):
            Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
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
    except KeyboardInterrupt:
        raise
    except BaseException as error:
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
