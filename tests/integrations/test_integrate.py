"""`vbon integrate` through the command line; what it writes for TRL is run as written."""

import dataclasses
import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file

from vbon.artifacts.fingerprint import FIELDS
from vbon.cli import main
from vbon.integrations.integrate import RIDES_ALONG, absolute
from vbon.integrations.render import render_prompts
from vbon.integrations.trl import VbonReward
from vbon.models.load import load_tokenizer
from vbon.models.prompts import encode
from vbon.pool import make_prompt
from vbon.pool.manifest import write_manifest
from vbon.rewards import callable_reward

N = 8


@pytest.fixture
def written(draw_pool, tmp_path: Path):
    """written(host) → the directory that the command made from a pool of two prompts × 20 samples."""
    pool = draw_pool(20, ["start", "start start"], columns={"answer": "e"})

    def write(host: str) -> Path:
        result = tmp_path / "result.json"
        command = ["integrate", host, "--pool", str(pool.path), "--n", str(N), "--out", str(tmp_path / host)]
        assert main([*command, "--json", str(result)]) == 0
        assert json.loads(result.read_text())["kl_coef"] == pytest.approx(1 / 7)
        assert sorted(path.name for path in (tmp_path / host).iterdir()) == json.loads(result.read_text())["files"]
        return tmp_path / host

    write.pool = pool
    return write


def test_the_trl_directory_trains_as_written(written, lab):
    pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[trl]'")
    folder = written("trl")
    settings = yaml.safe_load((folder / "rloo.yaml").read_text())
    assert settings["beta"] == pytest.approx(1 / 7) and settings["max_completion_length"] == 4
    steps = ["--max_steps", "2", "--output_dir", str(folder / "run"), "--use_cpu", "True", "--bf16", "False"]
    command = [sys.executable, str(folder / "train.py"), *steps]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    before, after = load_file(Path(lab.model) / "model.safetensors"), load_file(folder / "run/model.safetensors")
    assert before.keys() == after.keys() and any((before[name] != after[name]).any() for name in before)


def test_verl_rows_and_reward_file(written, lab):
    folder = written("verl")
    row = pq.read_table(folder / "train.parquet").to_pylist()[1]
    assert row["prompt"] == [{"role": "user", "content": "start start"}]
    compute_score = runpy.run_path(str(folder / "vbon_reward.py"))["compute_score"]
    answer = compute_score(
        data_source=row["data_source"], solution_str=" e e", ground_truth="", extra_info=row["extra_info"]
    )
    pool, reward = written.pool.rewards[20:], lab.rewards("positions")[0, lab.world.texts.index(" e e")]
    a, b = (pool < reward).sum() / 21, ((pool <= reward).sum() + 1) / 21
    assert answer["score"] == pytest.approx(math.log((b**N - a**N) / (b - a)) / (N - 1))
    assert answer["base_reward"] == reward
    assert answer["win_rate"] == pytest.approx((pool < reward).mean() / 2 + (pool <= reward).mean() / 2)


def test_openrlhf_rows_and_reward_file(written, lab):
    folder = written("openrlhf")
    row = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()][1]
    reward_func = runpy.run_path(str(folder / "vbon_reward.py"))["reward_func"]
    answer = reward_func([row["input"] + " e e<eos>"], [row["input"]], [row["label"]])
    assert answer["extra_logs"]["base_reward"].tolist() == pytest.approx(
        [lab.rewards("positions")[0, lab.world.texts.index(" e e")]]
    )
    assert answer["rewards"].shape == answer["scores"].shape == (1,)


@pytest.mark.parametrize("host", ["verl", "openrlhf"])
def test_the_shell_script_names_its_own_directory_and_passes_on_the_rest(written, host: str, tmp_path: Path):
    """bash runs it with `python3` replaced by a program that prints its arguments."""
    folder = written(host)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    (tmp_path / "bin/python3").chmod(0o755)
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    command = ["bash", str(folder / "run.sh"), "more"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": path})
    arguments = json.loads(printed.stdout)
    assert arguments[0] == "-m" and arguments[-1] == "more"
    assert any(str(folder / "vbon_reward.py") in argument for argument in arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--n", "1"], "--n is 1.0, but must be greater than 1"),
        (["--pool", "nowhere"], "nowhere: no such pool"),
        (["--reward", "builtin:length"], "reward builtin:length does not match the pool"),
        (["--model", "./nowhere"], "'./nowhere' is no model directory"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(draw_pool, tmp_path: Path, capsys, change: list[str], message: str):
    given = {"--pool": str(draw_pool(5).path), "--n": "8", "--out": str(tmp_path / "out")} | dict([change])
    assert main(["integrate", "trl", *(word for pair in given.items() for word in pair)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_columns_with_trls_own_names_reach_the_reward(draw_pool, tmp_path: Path):
    columns = {**{name: f"my {name}" for name in sorted(RIDES_ALONG) if name != "prompt"}, "answer": "x"}
    pool = draw_pool(5, columns=columns)
    assert main(["integrate", "trl", "--pool", str(pool.path), "--out", str(tmp_path / "out")]) == 0
    row = pq.read_table(tmp_path / "out" / "dataset.parquet").slice(0, 1).to_pydict()
    seen = []

    def score(completions, **columns):
        seen.append(columns)
        return [0.0] * len(completions)

    reward = VbonReward(callable_reward(score, name="r", fingerprint="r"), 2.0)
    reward(prompts=row.pop("prompt"), completions=["c"], **row)
    assert {name: values[0] for name, values in seen[0].items() if name != "prompts"} == columns


def test_a_full_directory_is_refused(draw_pool, tmp_path: Path, capsys):
    pool = draw_pool(5)
    command = ["integrate", "trl", "--pool", str(pool.path), "--out"]
    assert main([*command, str(tmp_path)]) == 2
    assert "not empty; choose another --out" in capsys.readouterr().err


def test_rendered_prompts_give_the_policys_ids_without_special_tokens(lab):
    """A tokenizer that adds a BOS and has a chat template: the ids of `encode` come back from the text alone."""
    from tokenizers import decoders
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(str(lab.model))
    tokenizer.backend_tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", pair="<eos> $A $B", special_tokens=[("<eos>", 0)]
    )
    tokenizer.chat_template = "{{ '<eos>' }}{% for m in messages %} {{ m['content'] }}{% endfor %} start"
    prompts = [make_prompt("a b start"), make_prompt([{"role": "user", "content": "c d"}])]
    rendered = render_prompts(tokenizer, prompts)
    expected = encode(tokenizer, [prompt.prompt for prompt in prompts])
    assert expected[0][0] == 0 and rendered.longest == 4
    assert [tokenizer(text, add_special_tokens=False)["input_ids"] for text in rendered.texts] == expected


def test_local_parts_of_a_specification_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reward.py").touch()
    (tmp_path / "model").mkdir()
    assert absolute("reward.py:score") == f"{tmp_path}/reward.py:score"
    assert absolute("model#good") == f"{tmp_path}/model#good"
    assert absolute("model") == f"{tmp_path}/model"
    for untouched in ("builtin:length", "org/model", "http://host:80/score", "package.module:score"):
        assert absolute(untouched) == untouched


@pytest.mark.parametrize("host", ["trl", "verl", "openrlhf"])
@pytest.mark.parametrize("field", [name for name in FIELDS if name != "reward"])
def test_each_field_of_the_fingerprint_is_handed_over_or_refused(draw_pool, tmp_path: Path, capsys, host, field):
    pool = draw_pool(5)
    value = {"temperature": 0.37, "max_new_tokens": 41, "stop": (0, 1)}.get(field, "another")
    fingerprint = dataclasses.replace(pool.fingerprint, **{field: value})
    write_manifest(pool.path, dataclasses.replace(pool.manifest, fingerprint=fingerprint))
    status = main(["integrate", host, "--pool", str(pool.path), "--out", str(tmp_path / "out")])
    if field in ("temperature", "max_new_tokens"):
        settings = (tmp_path / "out" / ("rloo.yaml" if host == "trl" else "run.sh")).read_text()
        assert status == 0 and str(value) in settings
    else:
        named = {"stop": "its completions end at the tokens [0, 1]"}.get(field, f"has another {field}")
        assert status == 2 and named in capsys.readouterr().err and not (tmp_path / "out").exists()
