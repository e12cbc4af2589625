"""Flags: what is spelled on the command line is what the config holds, over what the config file says."""

import dataclasses
import re
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbon import config, flags
from vbon.config import CollectConfig, EvaluateConfig, ImportConfig, InspectConfig, TrainConfig
from vbon.config.fields import field_help
from vbon.errors import VbonError

CONFIGS = [value for name, value in vars(config).items() if name.endswith("Config")]
TRAIN = ["--pool", "p", "--model", "m", "--reward", "r", "--n", "8", "--out", "o"]
COLLECT = ["--model", "m", "--reward", "r", "--prompts", "p", "--out", "o"]


def parsed(cls, args, **file_values):
    return flags.make_config(cls, file_values | flags.parse_args(cls, args, prog="vbon verb"), prog="vbon verb")


def refusal(cls, args, **file_values) -> str:
    with pytest.raises(VbonError) as caught:
        parsed(cls, args, **file_values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def spelled(drawn: typing.Any, names: list[str]) -> list[str]:
    """A second road from config to flags, to hold the parser against."""
    positional: list[str] = []
    args: list[str] = []
    for f in dataclasses.fields(drawn):
        value = getattr(drawn, f.name)
        name = "--" + f.metadata.get("flag", f.name).replace("_", "-")
        if f.name not in names or value is None:
            continue
        if "positional" in f.metadata:
            positional += list(value) if isinstance(value, tuple) else [value]
        elif isinstance(value, bool):
            args.append(name if value else name.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            args += [part for item in value for part in (name, str(item))]
        else:
            args += [name, str(value)]
    return positional + args


def any_value(hint: typing.Any) -> st.SearchStrategy:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(any_value(arguments[0]), min_size=1, max_size=3).map(tuple)
    if arguments:
        return st.one_of(any_value(a) for a in arguments)
    words = st.text("abcµ世 ./:#=@", min_size=1, max_size=8)
    numbers = st.integers(0, 2**40)
    floats = st.floats(0, allow_infinity=False)
    return {int: numbers, float: floats, bool: st.booleans(), str: words, type(None): st.none()}[hint]


def any_config() -> st.SearchStrategy:
    return st.sampled_from(CONFIGS).flatmap(
        lambda cls: st.builds(cls, **{name: any_value(hint) for name, hint in typing.get_type_hints(cls).items()})
    )


@settings(max_examples=40, deadline=None)
@given(any_config())
def test_every_config_can_be_spelled_in_flags(drawn):
    names = [f.name for f in dataclasses.fields(drawn)]
    assert parsed(type(drawn), spelled(drawn, names)) == drawn


@settings(max_examples=40, deadline=None)
@given(any_config(), st.data())
def test_the_command_line_wins_over_the_file(drawn, data):
    """Some fields from flags, all others from the file; where a flag speaks, the file's value is another one."""
    names = [f.name for f in dataclasses.fields(drawn)]
    from_flags = data.draw(st.lists(st.sampled_from(names), unique=True))
    stated = [name for name in from_flags if getattr(drawn, name) is not None]
    hints = typing.get_type_hints(type(drawn))
    in_file = {name: data.draw(any_value(hints[name])) if name in stated else getattr(drawn, name) for name in names}
    assert parsed(type(drawn), spelled(drawn, stated), **in_file) == drawn


@pytest.mark.parametrize(
    ("args", "want"),
    [
        (["P", "--n", "2", "4", "8"], (2, 4, 8)),
        (["P", "--n", "2", "--n", "4", "--n=8"], (2, 4, 8)),
        (["P", "--n=2", "--seed", "1", "--n", "4", "8"], (2, 4, 8)),
        (["--n", "2", "4", "--seed", "1", "P"], (2, 4)),
        (["P"], ()),
    ],
)
def test_list_flags_gather_every_value(args, want):
    assert parsed(InspectConfig, args) == InspectConfig(pool="P", n=want, seed=1 if "--seed" in args else 0)


def test_a_repeated_flag_takes_one_value_and_leaves_the_runs_alone():
    got = parsed(EvaluateConfig, ["--judge", "a.py:f", "r1", "r2", "--judge", "b.py:g", "--pool", "p", "--out", "o"])
    assert got == EvaluateConfig(runs=("r1", "r2"), judges=("a.py:f", "b.py:g"), pool="p", out="o")


def test_declared_values_keep_their_own_equals_signs():
    got = parsed(ImportConfig, ["f", "--out", "o", "--declare=reward=a.py:f", "--declare", "stop=x=y", "temperature=1"])
    assert got.declare == ("reward=a.py:f", "stop=x=y", "temperature=1")


@pytest.mark.parametrize(
    ("cls", "args", "named"),
    [
        (TrainConfig, [], ["missing --pool, --n, --out;", "vbon verb --help"]),
        (TrainConfig, TRAIN[2:], ["missing --pool;"]),
        (InspectConfig, [], ["missing POOL;"]),
        (ImportConfig, [], ["missing FILE, --out;"]),
        (TrainConfig, [*TRAIN, "--n", "x"], ["--n is 'x', but must be a number"]),
        (
            TrainConfig,
            [*TRAIN, "--algorithm", "pp"],
            ["--algorithm is 'pp'", "one of auto, ppo", "(did you mean ppo?)"],
        ),
        (TrainConfig, [*TRAIN, "--num-epochs"], ["--num-epochs: expected one argument; see vbon verb --help"]),
        (TrainConfig, [*TRAIN, "--num-epochs", "1.5"], ["--num-epochs is '1.5', but must be a whole number"]),
        (TrainConfig, [*TRAIN, "--allow-mismatch"], ["--allow-mismatch: expected one argument"]),
        (
            TrainConfig,
            [*TRAIN, "--num-iteration", "3"],
            ["unknown flag --num-iteration (did you mean --num-iterations?)"],
        ),
        (
            TrainConfig,
            [*TRAIN, "--num_iterations", "3"],
            ["unknown flag --num_iterations (did you mean --num-iterations?)"],
        ),
        (TrainConfig, [*TRAIN, "--num-iteration=3"], ["unknown flag --num-iteration (did you mean --num-iterations?)"]),
        (TrainConfig, [*TRAIN, "-n", "3"], ["unknown flag -n (did you mean --n?)"]),
        (TrainConfig, [*TRAIN, "--no-refresh"], ["unknown flag --no-refresh (did you mean --no-refresh-kl?)"]),
        (TrainConfig, [*TRAIN, "stray"], ["unexpected argument 'stray'; see vbon verb --help"]),
        (InspectConfig, ["pool", "stray"], ["unexpected argument 'stray'"]),
        (InspectConfig, ["pool", "--config", "a", "--seed"], ["--seed: expected one argument"]),
        (InspectConfig, ["pool", "--n"], ["--n: expected at least one argument"]),
        (CollectConfig, [*COLLECT, "--trust-remote-code", "yes"], ["yes"]),
        (CollectConfig, [*COLLECT, "--limit", "None"], ["--limit is 'None', but must be a whole number"]),
    ],
)
def test_a_bad_flag_is_named_in_one_line(cls, args, named):
    message = refusal(cls, args)
    assert [part for part in named if part not in message] == []


def test_a_flag_may_be_missing_where_the_file_has_it():
    assert parsed(TrainConfig, TRAIN[2:], pool="from file") == parsed(TrainConfig, ["--pool", "from file", *TRAIN[2:]])
    assert parsed(InspectConfig, [], pool="from file").pool == "from file"


def printed_flags(text: str) -> list[str]:
    return re.findall(r"^  (--[\w-]+|[A-Z]\S+)", text, re.MULTILINE)


@pytest.mark.parametrize("cls", CONFIGS)
def test_full_help_names_every_flag_once_with_its_help(cls):
    """Wrapped lines joined again, the help holds the text that the config declares for the flag."""
    text = flags.format_help(cls, prog="vbon verb", description="Do it.", show_all=True)
    spellings = [flags.spelling(f) for f in dataclasses.fields(cls)]
    assert [name for name in spellings if printed_flags(text).count(name) != 1] == []
    joined = " ".join(text.split())
    assert [name for name, field in field_help(cls).items() if field.text not in joined] == []
    assert "--config FILE.yaml" in joined
    assert "--json FILE" in joined


@pytest.mark.parametrize("cls", CONFIGS)
def test_help_shows_at_most_fifteen_flags_and_every_required_one(cls):
    text = flags.format_help(cls, prog="vbon verb", description="Do it.")
    required = [flags.spelling(f) for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    assert printed_flags(text)[: len(required)] == required
    assert len(printed_flags(text)) <= 15 + len(("--config", "--json", "--help-all"))
    assert ("--help-all" in text) == hasattr(cls, "GROUPS")


@pytest.mark.parametrize("cls", [cls for cls in CONFIGS if hasattr(cls, "GROUPS")])
def test_every_optional_flag_is_in_one_group(cls):
    grouped = [name for _, names in cls.GROUPS for name in names.split()]
    assert sorted(grouped) == sorted(f.name for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING)


@pytest.mark.parametrize("cls", CONFIGS)
def test_help_fits_80_columns(cls):
    text = flags.format_help(cls, prog="vbon verb", description="Do it.", show_all=True)
    assert [line for line in text.splitlines() if len(line) > 80] == []


def test_help_shows_defaults():
    joined = " ".join(flags.format_help(TrainConfig, prog="vbon train", description="", show_all=True).split())
    for shown in (
        "--gae-lambda FLOAT λ of",
        "Default: 0.95.",
        "Default: on.",
        "--lora-rank INT Rank of",
        "Default: 0.",
    ):
        assert shown in joined
    assert "None" not in joined
    assert "SUPPRESS" not in joined


def test_a_flag_of_every_verb_is_no_field():
    given = flags.parse_args(InspectConfig, ["p", "--json=x=y", "--config", "c.yaml"], prog="vbon inspect")
    assert given == {"pool": "p", "json": "x=y", "config": "c.yaml"}


def test_a_flag_of_every_verb_is_given_once():
    assert refusal(InspectConfig, ["p", "--json", "a", "--json", "b"]) == "--json is given 2 times; give it once"
