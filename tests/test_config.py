"""Configs: what YAML says is what the config holds; what will not do is named in one line."""

import dataclasses
import math
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vbon import config
from vbon.config import CollectConfig, InspectConfig, TrainConfig, load_yaml, merged_text
from vbon.config.fields import field_help
from vbon.config.methods import DEFAULTS, METHODS
from vbon.config.yaml_file import read_sections
from vbon.errors import VbonError

CONFIGS = [value for name, value in vars(config).items() if name.endswith("Config")]

TRAIN = {"pool": "p", "model": "m", "reward": "r", "n": 8.0, "out": "o"}
COLLECT = {"model": "m", "reward": "r", "prompts": "p", "out": "o"}


def any_value(hint: typing.Any) -> st.SearchStrategy:
    """Values of a field's type, drawn from the type alone."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(any_value(arguments[0]), max_size=3).map(tuple)
    if arguments:
        return st.one_of(any_value(a) for a in arguments)
    return {
        int: st.integers(-(2**53), 2**53),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        str: st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        type(None): st.none(),
    }[hint]


def any_config() -> st.SearchStrategy:
    return st.sampled_from(CONFIGS).flatmap(
        lambda cls: st.builds(cls, **{name: any_value(hint) for name, hint in typing.get_type_hints(cls).items()})
    )


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(call, *args) -> str:
    with pytest.raises(VbonError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(max_examples=60, deadline=None)
@given(any_config())
def test_yaml_round_trip(tmp_path_factory, drawn):
    path = tmp_path_factory.mktemp("yaml") / "config.yaml"
    (path).write_text(merged_text(drawn), "utf-8")
    assert load_yaml(type(drawn), path) == drawn


@settings(max_examples=30, deadline=None)
@given(any_config())
def test_merged_text_is_every_field_in_order(drawn):
    assert list(yaml.safe_load(merged_text(drawn))) == [f.name for f in dataclasses.fields(drawn)]


@pytest.mark.parametrize("spelled", ["1e-4", "1.0e-4", "0.0001", "1E-4"])
def test_yaml_1_1_reads_1e4_as_text_but_a_float_field_takes_it(tmp_path, spelled):
    path = written(tmp_path, f"{{pool: p, model: m, reward: r, n: 8, out: o, learning_rate: {spelled}}}")
    loaded = load_yaml(TrainConfig, path)
    assert loaded.learning_rate == 1e-4
    assert isinstance(loaded.n, float)


def test_an_empty_file_sets_nothing(tmp_path):
    assert config.read_values(TrainConfig, written(tmp_path, "# all defaults\n")) == {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("num_sample: 3", ["num_sample", "did you mean num_samples?"]),
        ("num_samples: many", ["num_samples", "'many'", "a whole number"]),
        ("num_samples: true", ["num_samples", "True", "a whole number"]),
        ("num_samples: 2.5", ["num_samples", "2.5", "a whole number"]),
        ("limit: [1]", ["limit", "a whole number or null"]),
        ("temperature: true", ["temperature", "True", "a number"]),
        ("temperature: hot", ["temperature", "'hot'", "a number"]),
        ("model: 7", ["model", "7", "text"]),
        ("trust_remote_code: 'yes'", ["trust_remote_code", "true or false"]),
        ("stop_token_ids: 5", ["stop_token_ids", "a list, each item a whole number"]),
        ("stop_token_ids: [5, x]", ["stop_token_ids", "a list, each item a whole number"]),
        ("dtype: float8", ["dtype", "float32, bfloat16, float16 (did you mean float"]),
        ("seed: 1\nmodel: m\nseed: 2", ["line 3", "'seed'", "twice"]),
        ("- a\n- b", ["key: value", "list"]),
        ("model: [", ["not YAML"]),
        ("model: !!python/object/apply:os.system ['true']", ["not YAML"]),
        ("model: m", ["missing reward, prompts, out"]),
        ("{a: 1}: 2", ["not YAML"]),
        ("[" * 5000, ["not YAML"]),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path, text, named):
    path = written(tmp_path, text)
    message = refusal(load_yaml, CollectConfig, path)
    assert message.startswith(f"{path}: ")
    assert [part for part in named if part not in message] == []


def test_yaml_that_multiplies_itself_makes_a_short_error(tmp_path):
    layers = ["&a0 [x, x, x, x, x, x, x, x, x, x]"]
    layers += [f"&a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    path = written(tmp_path, f"model: [{', '.join(layers)}]")
    assert len(refusal(load_yaml, CollectConfig, path)) < len(str(path)) + 200


SECTIONS = {"train": TrainConfig, "collect": CollectConfig}


def test_each_section_of_a_file_is_read_as_a_file_of_its_own_would_be(tmp_path):
    whole = config.read_values(TrainConfig, written(tmp_path, "n: 8\nlearning_rate: 1e-4\n"))
    path = written(tmp_path, "train:\n  n: 8\n  learning_rate: 1e-4\ncollect:\n")
    assert read_sections(SECTIONS, path) == {"train": whole, "collect": {}}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("trian:\n  n: 8\n", "unknown key 'trian' (did you mean train?)"),
        ("train:\n  m: 8\n", "train: unknown key 'm'"),
        ("train:\n  n: many\n", "train: n is 'many', but must be a number"),
        ("train: 8\n", "train must hold lines of `key: value`, not a int"),
    ],
)
def test_a_mistake_in_a_section_is_named_with_it(tmp_path, text, named):
    assert named in refusal(read_sections, SECTIONS, written(tmp_path, text))


def test_unreadable_files_are_named(tmp_path):
    assert "nothing.yaml: cannot be read" in refusal(load_yaml, CollectConfig, tmp_path / "nothing.yaml")
    assert "cannot be read" in refusal(load_yaml, CollectConfig, tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("model: caf\xe9".encode("latin-1"))
    assert "not UTF-8" in refusal(load_yaml, CollectConfig, latin)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfpool: p\r\nn: [2, 4]\r\n")
    assert load_yaml(InspectConfig, path) == InspectConfig(pool="p", n=(2, 4))


def test_configs_import_without_torch():
    code = "import sys, vbon.config, vbon.errors; print(sorted({'torch', 'numpy', 'argparse'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("cls", CONFIGS)
def test_every_field_has_a_sentence_of_help(cls):
    helps = field_help(cls)
    assert list(helps) == [f.name for f in dataclasses.fields(cls)]
    assert [name for name, field in helps.items() if not field.text.endswith(".")] == []


def test_a_config_cannot_be_changed_after_it_is_checked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        InspectConfig(pool="p").pool = "q"


def test_defaults_are_valid():
    TrainConfig(**TRAIN).validate()
    CollectConfig(**COLLECT).validate()


@pytest.mark.parametrize(
    ("value", "want"),
    [
        *((value, "greater than 1") for value in (1.0, 0.5, 0.0, -3.0)),
        *((value, "a finite number") for value in (math.nan, math.inf)),
    ],
)
def test_n_must_be_a_finite_number_above_one(value, want):
    assert refusal(TrainConfig(**TRAIN | {"n": value}).validate) == f"--n is {value}, but must be {want}"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_epochs": 0}, ["--num-epochs is 0"]),
        ({"temperature": 0.0}, ["--temperature is 0.0"]),
        ({"learning_rate": math.nan}, ["--learning-rate is nan"]),
        ({"gae_lambda": 1.5}, ["--gae-lambda is 1.5"]),
        ({"validation_fraction": 1.0}, ["--validation-fraction is 1.0"]),
        ({"stop_token_ids": (3, -1)}, ["--stop-token-ids holds -1"]),
        ({"device": "gpu"}, ["--device is 'gpu'", "cuda:NUMBER"]),
        ({"device": "mps"}, ["--device is 'mps', but must be auto, cpu, cuda or cuda:NUMBER"]),
        ({"out": " "}, ["--out is ' ', but must be text that is not empty"]),
        ({"model": "a\0b"}, ["--model is 'a\\x00b', but must be text without a NUL character"]),
        ({"num_epochs": 2**32}, ["--num-epochs is 4294967296, but must be at most 4294967295"]),
        ({"num_threads": 1025}, ["--num-threads is 1025, but must be at most 1024"]),
        ({"lora_target_modules": ("q", "")}, ["--lora-target-modules holds '', but each must be text"]),
        ({"push_to_hub": "name"}, ["--push-to-hub is 'name', but must be a hub repository, OWNER/NAME"]),
        ({"value_coef": -1.0}, ["--value-coef is -1.0, but must be at least 0"]),
        ({"seed": -1}, ["--seed is -1"]),
        ({"kl_coef": 0.1}, ["--kl-coef", "--objective vbon"]),
        ({"kl_coef": 0.1, "objective": "vbon-bound"}, ["--kl-coef", "vbon-bound"]),
        ({"kl_coef": -0.1, "objective": "reward"}, ["--kl-coef is -0.1"]),
        ({"kl_coef": 0.0, "objective": "reward"}, ["--kl-coef is 0.0, but must be greater than 0"]),
        ({"algorithm": "offline", "objective": "reward"}, ["--algorithm offline"]),
        ({"algorithm": "offline", "warm_start": "offline"}, ["--warm-start"]),
        ({"algorithm": "rloo", "warm_start": "critic"}, ["--warm-start critic", "--algorithm ppo"]),
        ({"method": "kl-rl", "algorithm": "ppo", "warm_start": "critic"}, ["--warm-start critic", "best-of-N"]),
        ({"algorithm": "ppo", "critic": "shared", "warm_start": "critic"}, ["--warm-start critic", "--critic shared"]),
        ({"algorithm": "ppo", "critic": "shared", "critic_layers": 1}, ["--critic-layers", "separate critic"]),
        ({"algorithm": "rloo", "critic_layers": 1}, ["--critic-layers", "--algorithm ppo"]),
        ({"algorithm": "ppo", "critic_layers": 0}, ["--critic-layers"]),
        (
            {"rollouts_per_iteration": 100},
            ["--rollouts-per-iteration 100 must be a multiple of --samples-per-prompt 8"],
        ),
        ({"samples_per_prompt": 1}, ["--samples-per-prompt must be at least 2"]),
        ({"method": "best-of-n"}, ["--method best-of-n", "vbon generate --best-of 8"]),
        ({"method": "dpo", "algorithm": "ppo"}, ["--method dpo needs --algorithm offline, not ppo"]),
        ({"method": "vbon", "objective": "reward"}, ["--method vbon needs --objective vbon, not reward"]),
        ({"method": "bonbon", "offline_loss": "dpo"}, ["--method bonbon needs --offline-loss bonbon, not dpo"]),
        ({"method": "bon-sft", "n": 2.5}, ["--n is 2.5", "a whole number"]),
        ({"method": "bond", "kl_coef": 0.1}, ["--kl-coef", "--method bond"]),
        ({"algorithm": "grpo", "objective": "reward"}, ["--algorithm grpo", "--method"]),
        ({"offline_loss": "bonbon", "algorithm": "rloo"}, ["--offline-loss bonbon", "--algorithm rloo"]),
    ],
)
def test_what_training_cannot_do_is_refused_by_flag(changes, named):
    message = refusal(TrainConfig(**TRAIN | changes).validate)
    assert [part for part in named if part not in message] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "reward", "kl_coef": 1e-9},
        {"algorithm": "ppo", "samples_per_prompt": 1},
        {"algorithm": "offline", "rollouts_per_iteration": 100},
        {"n": 1.5, "device": "cuda:1"},
    ],
)
def test_what_training_can_do_is_admitted(changes):
    TrainConfig(**TRAIN | changes).validate()


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.trained])
def test_a_method_is_the_flags_it_stands_for(name):
    """Named or spelled out, the config is the same; and the spelling alone is known by the name again."""
    named = TrainConfig(**TRAIN, method=name)
    spelled = TrainConfig(**TRAIN, **METHODS[name].settings)
    named.validate()
    spelled.validate()
    assert dataclasses.replace(named, method=None) == spelled
    assert spelled.method_name == named.method_name == name
    # the pool decides the algorithm of vbon (training.defaults)
    left = {"algorithm"} if name == "vbon" else set()
    assert {field for field in DEFAULTS if getattr(named, field) == "auto"} == left


@pytest.mark.parametrize(
    ("changes", "method", "resolved"),
    [
        ({}, "vbon", ("vbon", "auto", "weighted-sft", "k1")),
        ({"method": "kl-rl", "algorithm": "ppo"}, "kl-rl", ("reward", "ppo", "weighted-sft", "k1")),
        ({"algorithm": "offline"}, "bon-sft-all", ("vbon", "offline", "weighted-sft", "k1")),
        ({"offline_loss": "listwise"}, "vbon", ("vbon", "auto", "listwise", "k1")),
        ({"algorithm": "offline", "offline_loss": "listwise"}, "listwise", ("vbon", "offline", "listwise", "k1")),
        ({"algorithm": "grpo"}, "grpo", ("vbon", "grpo", "weighted-sft", "k3")),
    ],
)
def test_flags_without_a_name_are_some_method(changes, method, resolved):
    made = TrainConfig(**TRAIN | changes)
    assert (made.method_name, *(getattr(made, field) for field in DEFAULTS)) == (method, *resolved)


def test_other_verbs_name_their_flags():
    assert "--declare 'temperature'" in refusal(
        config.ImportConfig(file="f", out="o", declare=("temperature",)).validate
    )
    assert "--n holds 1" in refusal(InspectConfig(pool="p", n=(2, 1)).validate)
    assert "--judge holds ' ', but each" in refusal(
        config.EvaluateConfig(runs=("r",), pool="p", out="o", judges=(" ",)).validate
    )
    assert "RUN" in refusal(config.EvaluateConfig(runs=(), pool="p", out="o").validate)
    assert "--best-of needs --reward" in refusal(config.GenerateConfig(model="m", prompts="p", best_of=4).validate)
    assert "DIR" in refusal(config.ReportConfig(dirs=()).validate)
    assert "--limit is 0" in refusal(CollectConfig(**COLLECT, limit=0).validate)


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "\u2029", "é"])
def test_yaml_keeps_unicode_line_breaks(tmp_path, text):
    path = tmp_path / "config.yaml"
    (path).write_text(merged_text(config.ReportConfig(dirs=(text,), out=text)), "utf-8")
    assert load_yaml(config.ReportConfig, path) == config.ReportConfig(dirs=(text,), out=text)
