"""Collected samples against the model itself, and a collection killed anywhere against one left alone."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vbon.config.pool import CollectConfig
from vbon.core.reward_cdf import RewardCDF
from vbon.core.stats import rank_test
from vbon.errors import VbonError
from vbon.integrations.lookup import encode_reference, read_reference
from vbon.models import load
from vbon.models.batch_size import LIMITS, Limit
from vbon.models.prompts import completion_texts, encode
from vbon.pool import ReferencePool, reward_columns, sampling
from vbon.pool.collect import collect

LOGPROB_TOLERANCE = 1e-4  # float32, cached against uncached forward, per sequence of at most 6 tokens
REWARD = """
def score(prompts, completions, bonus):
    return [sum(map(ord, text)) / 1000 + extra for text, extra in zip(completions, bonus)]
"""
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from vbon.config.pool import CollectConfig
from vbon.config.yaml_file import load_yaml
from vbon.pool.collect import collect

config = load_yaml(CollectConfig, sys.argv[1])
out, random = Path(config.out), random.Random(int(sys.argv[2]))
shards = lambda: len(list(out.glob("shard-*")))
for _ in range(int(sys.argv[3])):
    child = os.fork()
    if child == 0:
        collect(config, progress=False)
        os._exit(0)
    wanted = shards() + random.randint(0, 2)
    while shards() < wanted and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    time.sleep(random.random() * 0.05)
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    print(shards())
collect(config, progress=False)
"""


@pytest.fixture
def config(tmp_path: Path, model_dir: Path) -> CollectConfig:
    """9 prompts × 5 samples, 3 prompts in a batch, shards of a batch or two."""
    (tmp_path / "reward.py").write_text(REWARD)
    prompts = [{"prompt": "p" * (1 + index % 4) + str(index), "bonus": index / 7} for index in range(9)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return CollectConfig(
        model=str(model_dir),
        reward=f"{tmp_path}/reward.py:score",
        prompts=str(tmp_path / "prompts.jsonl"),
        out=str(tmp_path / "pool"),
        num_samples=5,
        temperature=0.8,
        max_new_tokens=6,
        batch_size=16,
        samples_per_shard=8,
        device="cpu",
        seed=3,
    )


def collected(config: CollectConfig, **changes) -> ReferencePool:
    return ReferencePool.open(collect(dataclasses.replace(config, **changes), progress=False))


def shards_of(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("shard-*")}


def test_log_probabilities_text_and_ends_against_a_plain_forward_pass(config: CollectConfig):
    pool = collected(config)
    model, tokenizer = load.load_policy(config.model), load.load_tokenizer(config.model)
    assert pool.num_samples.tolist() == [5] * 9
    for row, index in enumerate(pool.prompt_index):
        prompt = encode(tokenizer, [pool.prompts[index].prompt])[0]
        ids = pool.completion_ids[row]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / config.temperature
        logprobs = logits.double().log_softmax(-1)[range(len(ids)), ids]
        assert pool.ref_logprobs[row] == pytest.approx(logprobs.sum().item(), abs=LOGPROB_TOLERANCE)
        assert pool.completions[row] == completion_texts(tokenizer, prompt, [ids])[0]
        assert pool.finished[row] == (ids[-1] == tokenizer.eos_token_id)
        assert tokenizer.eos_token_id not in ids[:-1] and (pool.finished[row] or len(ids) == config.max_new_tokens)
        bonus = pool.prompts[index].columns["bonus"]
        assert pool.rewards[row] == sum(map(ord, pool.completions[row])) / 1000 + bonus
    assert 0 < sum(pool.finished) < 45  # both ends occur


def test_draws_do_not_depend_on_batches_neighbours_or_m(config: CollectConfig, tmp_path: Path):
    pool = collected(config)
    split = collected(config, out=str(tmp_path / "split"), batch_size=2)  # a prompt in three batches
    fewer = collected(config, out=str(tmp_path / "fewer"), num_samples=3, limit=4)
    assert list(split.completion_ids) == list(pool.completion_ids)
    for index in range(4):
        first, short = pool.offsets[index], fewer.offsets[index]
        assert fewer.completion_ids[int(short) : int(short) + 3] == pool.completion_ids[int(first) : int(first) + 3]
    other = collected(config, out=str(tmp_path / "other"), seed=4)
    assert list(other.completion_ids) != list(pool.completion_ids)


def test_uniforms_are_a_prompts_own_and_the_first_rows_do_not_depend_on_m():
    uniforms = sampling.uniforms_for("00000000000000ab", 3, 5, 6)
    assert (uniforms == sampling.uniforms_for("00000000000000ab", 3, 9, 6)[:5]).all()
    for other in (("00000000000000ac", 3), ("00000000000000ab", 4)):
        assert not np.isin(uniforms, sampling.uniforms_for(*other, 5, 6)).any()


def test_samples_follow_the_model(config: CollectConfig, tmp_path: Path):
    """Two pools of other seeds are draws of one distribution; another temperature is not (rank test, core.stats)."""
    first = collected(config, num_samples=200, batch_size=200)
    p_values = []
    for name, changes in (("same", {}), ("hot", {"temperature": 8.0})):
        fresh = collected(config, out=str(tmp_path / name), num_samples=40, seed=5, **changes)
        counts = RewardCDF(first.rewards, first.num_samples).counts(fresh.prompt_index, fresh.rewards)
        p_values.append(rank_test(*counts, np.full(len(fresh.rewards), 200), fresh.prompt_index).p_value)
    assert p_values[0] > 0.01 and p_values[1] < 1e-4


def test_same_seed_same_bytes_and_a_finished_pool_is_left_alone(config: CollectConfig, tmp_path: Path):
    first = shards_of(collect(config, progress=False))
    assert shards_of(collect(dataclasses.replace(config, out=str(tmp_path / "again")), progress=False)) == first
    assert shards_of(collect(config, progress=False)) == first and len(first) == 3


def test_killed_at_random_it_ends_in_the_same_rows(config: CollectConfig, tmp_path: Path):
    """SIGKILL six times, anywhere between loading and the last shard, then left to finish: byte-identical shards."""
    from vbon.config.yaml_file import merged_text

    whole = shards_of(collect(dataclasses.replace(config, num_samples=8, batch_size=8), progress=False))
    killed = dataclasses.replace(config, num_samples=8, batch_size=8, out=str(tmp_path / "killed"))
    (tmp_path / "killed.yaml").write_text(merged_text(killed), "utf-8")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed.yaml"), "1", "6"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert result.returncode == 0, result.stderr
    assert any(0 < int(count) < 9 for count in result.stdout.split()), "no kill fell between the first and last shard"
    assert shards_of(tmp_path / "killed") == whole and len(whole) == 9
    assert ReferencePool.open(tmp_path / "killed").num_samples.tolist() == [8] * 9


def test_interrupt_says_how_to_continue_and_the_rest_follows(config: CollectConfig, tmp_path: Path):
    flag = tmp_path / "flag"
    (tmp_path / "reward.py").write_text(
        f"import os, signal, pathlib\n{REWARD}\n"
        "plain = score\n"
        "def score(prompts, completions, bonus):\n"
        f"    if pathlib.Path({str(flag)!r}).exists() and max(bonus) > 0.6:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return plain(prompts, completions, bonus)\n"
    )
    flag.touch()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt, match="stopped with 3 of 9 prompts stored; run the same command to continue"):
        collect(config, progress=False)
    flag.unlink()
    resumed = shards_of(collect(config, progress=False))
    assert shards_of(collect(dataclasses.replace(config, out=str(tmp_path / "whole")), progress=False)) == resumed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "--seed was 3, now it is 4"),
        ({"temperature": 1.0}, "--temperature was 0.8, now it is 1.0"),
        ({"num_samples": 6}, "--num-samples was 5, now it is 6"),
        ({"limit": 3}, r"--prompts was '9 prompts \(\w+\)', now it is '3 prompts"),
        ({"stop_token_ids": (7,)}, r"--stop-token-ids was \[256\], now it is \[7, 256\]"),
        ({"reward": "builtin:length"}, "--reward was"),
    ],
)
def test_resume_with_other_settings_is_refused_by_name(config: CollectConfig, changes: dict, message: str):
    before = shards_of(collect(config, progress=False))
    with pytest.raises(VbonError, match=message):
        collect(dataclasses.replace(config, **changes), progress=False)
    assert shards_of(config.out) == before


def test_a_prompt_too_long_is_named_before_anything_is_sampled(config: CollectConfig, tmp_path: Path):
    with open(config.prompts, "a") as file:
        file.write(json.dumps({"prompt": "x" * 19, "bonus": 0}) + "\n")
    with pytest.raises(VbonError, match=r"prompts.jsonl:10: prompt 'x+' has 19 tokens; .* leaves 18"):
        collect(config, progress=False)
    assert not Path(config.out).exists()


RAGGED = """
from pathlib import Path

def score(completions, **columns):
    with Path(__file__).with_name("seen").open("a") as file:
        file.write(f"{len(completions)}\\n")
    return [float("answer" in columns)] * len(completions)
"""


def test_pool_shards_and_hosts_show_a_reward_the_same_columns(config: CollectConfig, tmp_path: Path):
    (tmp_path / "reward.py").write_text(RAGGED)
    rows = [{"prompt": f"p{index}", **({"answer": index} if index in (3, 4) else {})} for index in range(9)]
    Path(config.prompts).write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = collected(config)
    assert set(pool.rewards) == {1.0}, "a shard of prompts without the column sees it as None"
    parts = [pool.select([prompt.prompt_id]) for prompt in pool.prompts]
    assert all(list(reward_columns(part.prompts)) == ["answer"] for part in parts)
    assert all(
        read_reference(encode_reference(pool, i), None, "").prompt.columns.keys() == {"answer"} for i in range(9)
    )


def test_a_reward_is_tried_on_a_few_samples_before_the_long_work(config: CollectConfig, tmp_path: Path):
    (tmp_path / "reward.py").write_text(RAGGED.replace("return [", "return [1.0] + ["))
    config = dataclasses.replace(config, samples_per_shard=1000)
    with pytest.raises(VbonError, match="returned 5 rewards for 4 completions"):
        collect(config, progress=False)
    assert not Path(config.out).exists()
    (tmp_path / "reward.py").write_text(RAGGED)
    collect(config, progress=False)
    calls = (tmp_path / "seen").read_text().splitlines()
    assert calls[-2:] == ["4", "45"]
    collect(config, progress=False)
    assert len((tmp_path / "seen").read_text().splitlines()) == len(calls), "a finished pool needs no reward"


def test_a_reward_that_is_nan_loses_nothing(config: CollectConfig, tmp_path: Path):
    good = (tmp_path / "reward.py").read_text()
    (tmp_path / "flag").touch()
    failing = f"import os\n{good}\nplain = score\ndef score(prompts, completions, bonus):\n"
    failing += f"    bad = os.path.exists({str(tmp_path / 'flag')!r}) and max(bonus) > 0.6\n"
    failing += "    return [float('nan')] * len(bonus) if bad else plain(prompts, completions, bonus)\n"
    (tmp_path / "reward.py").write_text(failing)
    with pytest.raises(VbonError, match=r"(?i)nan"):
        collect(config, progress=False)
    stored = shards_of(config.out)
    assert len(stored) == 1
    (tmp_path / "flag").unlink()
    assert stored.items() <= shards_of(collect(config, progress=False)).items()


def test_the_pool_remembers_its_config_and_what_made_it(config: CollectConfig, model_dir: Path):
    pool = collected(config)
    saved = (pool.path / "config.yaml").read_text()
    assert "num_samples: 5" in saved and "temperature: 0.8" in saved
    assert pool.fingerprint.stop == (256,) and pool.fingerprint.model == load.model_fingerprint(str(model_dir))
    assert pool.fingerprint.unknown() == []


def test_a_batch_size_chosen_from_memory_is_recorded_and_a_resumed_pool_keeps_its_own(
    config: CollectConfig, tmp_path: Path, monkeypatch
):
    config = dataclasses.replace(config, batch_size=None)
    monkeypatch.setitem(LIMITS["sampling"], "cpu", Limit(2**31, 16))
    whole = collect(config, progress=False)
    assert json.loads((whole / "manifest.json").read_text())["plan"] == {
        "batch_size": 16,
        "prompts_per_batch": 3,
        "prompts_per_shard": 3,
    }
    begun = dataclasses.replace(config, out=str(tmp_path / "begun"))
    collect(begun, progress=False)
    (tmp_path / "begun" / "shard-00001.parquet").unlink()
    monkeypatch.setitem(LIMITS["sampling"], "cpu", Limit(2**31, 2))  # less is free now
    assert shards_of(collect(begun, progress=False)) == shards_of(whole)
    (tmp_path / "begun" / "shard-00001.parquet").unlink()
    collect(dataclasses.replace(begun, batch_size=2), progress=False)  # less memory is there than was thought
    plan = json.loads((tmp_path / "begun" / "manifest.json").read_text())["plan"]
    assert plan == {"batch_size": 2, "prompts_per_batch": 1, "prompts_per_shard": 3}
    again, before = ReferencePool.open(begun.out), ReferencePool.open(whole)
    assert list(again.completions) == list(before.completions) and (again.rewards == before.rewards).all()
