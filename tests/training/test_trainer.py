"""Whole runs on the enumerable task, in this process."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.enumerable import PROMPTS, VOCABULARY, write_pool
from tests.training.runs import interrupt_after, refuse, rows, weights
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from vbon.artifacts.run import read_rows
from vbon.config.train import TrainConfig
from vbon.errors import VbonError
from vbon.pool import ReferencePool
from vbon.training import online
from vbon.training.output import model_card
from vbon.training.parallel.adapters import with_adapters
from vbon.training.train import train
from vbon.training.trainer import VBoNTrainer

FLOAT32 = 2e-5  # merging adapters rounds every weight


@pytest.mark.parametrize("changes", [{"algorithm": "ppo"}, {"warm_start": "offline"}, {"kl_estimator": "full"}])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(configure, tmp_path, changes):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(configure(out=str(tmp_path / name), seed=seed, **changes))
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


@pytest.mark.parametrize("objective", ["vbon", "reward"])
def test_monotone_maps_of_the_reward_change_nothing_but_for_kl_rl(world, configure, tmp_path, objective):
    hashes = []
    for function in ("score", "scaled", "exponential", "cubic"):
        pool = write_pool(world, tmp_path / f"pool-{function}", function=function)
        out = str(tmp_path / function)
        train(configure(pool=str(pool), reward=world.reward(function), out=out, objective=objective))
        hashes.append(weights(out))
    assert len(set(hashes)) == (1 if objective == "vbon" else 4)


def test_a_run_is_a_plain_model_folder_of_the_best_policy(world, configure, pool):
    config = configure(num_iterations=6)
    result = train(config)
    run = Path(config.out)
    assert not [p for p in run.rglob("*") if p.suffix in (".pt", ".pth", ".bin", ".pkl", ".ckpt")]
    model = AutoModelForCausalLM.from_pretrained(run)
    assert not np.array_equal(world.logprobs(model), world.ref_logprobs)
    sampling = model.generation_config
    assert (sampling.do_sample, sampling.temperature, sampling.top_p, sampling.top_k) == (True, 1.0, 1.0, 0)
    assert (sampling.max_new_tokens, sampling.eos_token_id) == (3, [0])
    assert AutoTokenizer.from_pretrained(run)("one a").input_ids == [VOCABULARY.index("one"), 1]
    record = json.loads((run / "vbon/run.json").read_text())
    validated = [row for row in rows(run) if "validation/objective" in row]
    assert [row["iteration"] for row in validated] == [0, 2, 4, 6]
    top = max(validated, key=lambda row: row["validation/objective"])
    good = top["validation/objective"] - top["validation/objective_se"]
    assert result["best_iteration"] in [row["iteration"] for row in validated if row["validation/objective"] >= good]
    everyone = {prompt.prompt_id for prompt in ReferencePool.open(pool).prompts}
    assert set(record["train_prompt_ids"]) < everyone and len(everyone) == len(PROMPTS)
    best = run / f"vbon/checkpoints/best-{result['best_iteration']:06d}/policy.safetensors"
    kept = load_file(best)
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items() if name in kept)


def test_the_card_says_what_the_model_is_and_how_to_make_it_again(world, configure):
    config = configure(n=2.5)
    result = train(config)
    card = (Path(config.out) / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["vbon", "best-of-n", "rlhf"],
    }
    assert "# Best-of-2.5 in one sample" in card and "wins 0.714" in card
    low, value, high = (result[f"validation/kl_policy_bon{end}"] for end in ("_low", "", "_high"))
    assert low < value < high and f"| KL(π_θ‖π_bon), nats | {value:.3f} | {low:.3f} to {high:.3f} |" in card
    fingerprint = json.loads((Path(config.out) / "vbon/run.json").read_text())["pool_fingerprint"]
    assert f"| model | `{fingerprint['model']}` |" in card
    again = yaml.safe_load((Path(config.out) / "vbon/config.yaml").read_text())
    assert train(TrainConfig(**{**_tuples(again), "out": config.out + "-2", "device": "cpu"}))
    assert weights(config.out) == weights(config.out + "-2")


def _tuples(settings: dict) -> dict:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}


@pytest.mark.parametrize(
    ("changes", "step", "count"),
    [
        ({}, "run_iteration", 1),
        ({"algorithm": "residual", "buffer_iterations": 2}, "run_iteration", 3),
        ({"algorithm": "ppo"}, "run_iteration", 3),
        ({"algorithm": "ppo", "critic": "shared", "lora_rank": 2}, "run_iteration", 3),
        ({"warm_start": "offline"}, "offline_step", 1),
        ({"warm_start": "offline", "offline_loss": "regression"}, "offline_step", 3),
        ({"warm_start": "offline"}, "run_iteration", 0),
        ({"algorithm": "offline"}, "offline_step", 3),
        ({"method": "bonbon"}, "offline_step", 3),
        ({"method": "bond"}, "run_iteration", 3),
        ({"method": "grpo"}, "run_iteration", 3),
        ({"lora_rank": 2, "algorithm": "ppo"}, "run_iteration", 3),
        ({"algorithm": "ppo", "warm_start": "critic"}, "critic_step", 2),
        ({"algorithm": "ppo", "warm_start": "critic"}, "run_iteration", 1),
    ],
)
def test_an_interrupted_run_resumes_bit_for_bit(configure, tmp_path, monkeypatch, changes, step, count):
    whole = configure(out=str(tmp_path / "whole"), **changes)
    train(whole)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=r"stopped at .* run the same command"):
        interrupt_after(patch, count, step)
        train(configure(**changes))
    resumed = configure(**changes)
    train(resumed)
    assert weights(resumed.out) == weights(whole.out)
    assert rows(resumed.out) == rows(whole.out)
    samples = [read_rows(Path(run) / "vbon/samples.jsonl") for run in (resumed.out, whole.out)]
    assert samples[0] == samples[1] and bool(samples[0]) == (whole.algorithm != "offline")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 5.0}, r"--n was 4.0, now it is 5.0"),
        ({"learning_rate": 2e-3}, r"--learning-rate was 0.001, now it is 0.002"),
        ({"learning_rate": None}, r"--learning-rate was 0.001, now it is 0.0068"),
        ({"stop_token_ids": (0, 1)}, r"--stop-token-ids was \[0\], now it is \[0, 1\]"),
    ],
)
def test_resuming_with_other_settings_is_refused_by_name(configure, changes, words):
    config = configure(num_iterations=1, stop_token_ids=(0,))
    train(config)
    before = weights(config.out)
    allowed = {"allow_mismatch": ("stop",)} if "stop_token_ids" in changes else {}
    refuse(configure(**{"num_iterations": 1, "stop_token_ids": (0,), **changes, **allowed}), words)
    assert weights(config.out) == before


def test_a_file_in_the_place_of_a_run_is_refused(configure, tmp_path):
    (tmp_path / "file").write_text("mine")
    refuse(configure(out=str(tmp_path / "file")), "is a file")


@pytest.mark.parametrize("field", ["model", "tokenizer", "temperature", "reward", "stop", "max_new_tokens"])
def test_another_fingerprint_is_refused_by_name_before_anything_is_written(world, configure, tmp_path, field):
    other = {"temperature": 0.7, "max_new_tokens": 2, "stop": (3,)}.get(field, "0123456789abcdef")
    pool = write_pool(world, tmp_path / "pool", **{field: other})
    flags = {"temperature": 1.0, "max_new_tokens": 3, "stop_token_ids": (0,)}
    flag = {"stop": "stop_token_ids"}.get(field, field)
    changes = {flag: flags[flag]} if flag in flags else {}
    config = configure(pool=str(pool), num_iterations=1, **changes)
    refuse(config, f"training does not match the pool: {field} is .* If this is meant: --allow-mismatch {field}")
    assert not Path(config.out).exists()
    train(configure(pool=str(pool), num_iterations=1, allow_mismatch=(field, "rank_test"), **changes))
    assert json.loads((tmp_path / "run/vbon/run.json").read_text())["allowed_mismatches"] == [field]


@pytest.mark.parametrize("declared", [{}, {"temperature": None}])
def test_a_pool_sampled_colder_than_it_says_is_refused(world, configure, tmp_path, declared):
    pool = write_pool(world, tmp_path / "pool", drawn_at=0.5, **declared)
    refuse(configure(pool=str(pool), temperature=1.0), r"do not rank like this pool's .* --allow-mismatch rank_test")
    assert not (tmp_path / "run").exists()


def test_a_step_that_explodes_stops_the_run_and_keeps_the_last_good_checkpoint(configure, tmp_path, monkeypatch):
    config = configure(learning_rate=1e30, lr_schedule="constant", num_iterations=50, checkpoint_every=1)
    with monkeypatch.context() as patch:  # the first two iterations are harmless
        real = online.learning_rate_factor
        patch.setattr(online, "learning_rate_factor", lambda s, i, n: real(s, i, n) if i > 1 else 1e-33)
        # The third iteration's first step is taken, and its second minibatch meets what is left of the policy.
        where = r"iteration 3, minibatch 2 \(prompts [0-9a-f]{16}, .*\): the loss is nan"
        refuse(config, where + r".*; the last good checkpoint is in .*step-000002\. A smaller --learning-rate helps")
    last = max((tmp_path / "run/vbon/checkpoints").glob("step-*"))
    assert all(torch.isfinite(tensor).all() for tensor in load_file(last / "policy.safetensors").values())
    assert not (tmp_path / "run/model.safetensors").exists()


def test_adapters_are_merged_into_a_plain_model(world, configure, tmp_path):
    config = configure(lora_rank=4, learning_rate=1e-2, num_iterations=6, algorithm="ppo")
    result = train(config)
    trained = AutoModelForCausalLM.from_pretrained(config.out).state_dict()
    reference = AutoModelForCausalLM.from_pretrained(world.model).state_dict()
    assert set(trained) == set(reference)
    deltas = {name: trained[name] - reference[name] for name in reference}
    changed = {name for name, delta in deltas.items() if delta.abs().max() > 0}
    assert changed == {"transformer.h.0.attn.c_attn.weight"}
    ranks = torch.linalg.svdvals(deltas["transformer.h.0.attn.c_attn.weight"])
    assert (ranks[:4] > 1e-4).all() and ranks[4:].max() < 1e-5
    kept = tmp_path / f"run/vbon/checkpoints/best-{result['best_iteration']:06d}/policy.safetensors"
    assert all("lora_" in name for name in load_file(kept))


@pytest.mark.parametrize("modules", [("lm_head",), ("wte",), ("c_attn", "lm_head")])
def test_adapters_of_a_weight_that_two_modules_share_are_refused(configure, modules):
    """Merged for export, an adapter of one end would change the other, and the model be another than was measured."""
    config = GPT2Config(vocab_size=8, n_positions=16, n_embd=16, n_layer=1, n_head=2, tie_word_embeddings=True)
    with pytest.raises(VbonError, match=r"--lora-target-modules: .*lm_head share one weight"):
        with_adapters(GPT2LMHeadModel(config), configure(lora_rank=2, lora_target_modules=modules))


def test_an_export_that_is_not_the_policy_is_refused(configure, monkeypatch):
    def merged_wrongly(policy):
        plain = policy.merge_and_unload()
        with torch.no_grad():
            plain.lm_head.weight[1] += 1.0
        return plain

    monkeypatch.setattr("vbon.training.output.export.merged", merged_wrongly)
    config = configure(lora_rank=2)
    refuse(config, "the model to export differs from the trained policy by .* nats per token and is not written")
    assert not (Path(config.out) / "model.safetensors").exists()


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_only_adapters_are_held_beside_the_reference(configure, monkeypatch, lora_rank):
    """Policy and critic of LoRA train on the reference's own weights; without it each has its own."""
    config = configure(lora_rank=lora_rank, algorithm="ppo", num_iterations=1, gradient_checkpointing=True)
    held = {}
    inner = VBoNTrainer.__init__

    def inspect(self, policy, ref_policy, *args, **kwargs):
        inner(self, policy, ref_policy, *args, **kwargs)
        weights = {id(parameter) for parameter in ref_policy.parameters()}
        for network in (self._learner.policy, self._learner.critic.trunk):
            for name, parameter in network.named_parameters():
                held.setdefault(id(parameter) in weights, []).append(name)

    monkeypatch.setattr(VBoNTrainer, "__init__", inspect)
    train(config)
    assert set(held) == ({True, False} if lora_rank else {False})
    assert all(("lora_" in name) == bool(lora_rank) for name in held[False])


def test_unknown_modules_for_adapters_are_named(configure):
    refuse(configure(lora_rank=4, lora_target_modules=("nowhere",)), "--lora-target-modules: .*nowhere")


def test_curves_hold_every_number_of_the_diary(configure):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = configure(tracker="tensorboard", warm_start="offline")
    train(config)
    events = EventAccumulator(str(Path(config.out) / "vbon/curves"))
    events.Reload()
    diary = read_rows(Path(config.out) / "vbon/metrics.jsonl")
    for key in ("sequence_reward", "validation/kl_policy_bon", "offline_loss"):
        expected = [(row.get("offline_step", row["iteration"]), row[key]) for row in diary if key in row]
        seen = [(event.step, event.value) for event in events.Scalars(key)]
        np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_without_tensorboard_there_are_no_curves_and_no_complaint(configure, monkeypatch):
    from vbon.training.output import trackers

    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    config = configure(tracker="tensorboard", num_iterations=1)
    train(config)
    assert not (Path(config.out) / "vbon/curves").exists()


def test_prompts_pick_from_the_pool_and_one_without_samples_is_named(configure, tmp_path):
    some = tmp_path / "some.jsonl"
    some.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS[:4]))
    config = configure(prompts=str(some), num_iterations=1, validation_fraction=0.0)
    train(config)
    assert len(json.loads((tmp_path / "run/vbon/run.json").read_text())["train_prompt_ids"]) == 4
    some.write_text('{"prompt": "three three"}\n')
    refuse(configure(prompts=str(some), out=str(tmp_path / "b")), "has no samples of prompt [0-9a-f]{16}")


BAD_REWARDS = {
    "nan": ("return [float('nan')] * len(completions)", "nan|finite"),
    "count": ("return [1.0]", "1 .*for|length|count|returned"),
    "raises": ("return 1 / 0", "ZeroDivisionError"),
}


@pytest.mark.parametrize("kind", list(BAD_REWARDS))
def test_a_reward_that_fails_names_the_prompt_and_nothing_is_written(configure, tmp_path, kind):
    body, words = BAD_REWARDS[kind]
    (tmp_path / "bad.py").write_text(f"def score(prompts, completions):\n    {body}\n")
    config = configure(reward=f"{tmp_path}/bad.py:score", allow_mismatch=("reward",))
    refuse(config, re.compile(words, re.IGNORECASE).pattern)
    assert not Path(config.out).exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pool": "nowhere"}, "nowhere: no such pool"),
        ({"model": "./nowhere"}, "no model directory"),
        ({"reward": "nowhere.py:score"}, "nowhere.py"),
        ({"prompts": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"n": 1.0}, "--n is 1.0, but must be greater than 1"),
        ({"rollouts_per_iteration": 30}, "must be a multiple of --samples-per-prompt 4"),
        ({"objective": "reward", "kl_coef": 0.1, "algorithm": "offline"}, "--algorithm offline needs --objective vbon"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(configure, changes, words):
    config = configure(**changes)
    refuse(config, words)
    assert not Path(config.out).exists()


def test_the_online_phase_starts_with_moments_of_its_own(configure, tmp_path):
    train(configure(warm_start="offline", checkpoint_every=100))
    handed_over = load_file(tmp_path / "run/vbon/checkpoints/step-000000/optimizer.safetensors")
    assert handed_over == {}
    after = load_file(tmp_path / "run/vbon/checkpoints/step-000004/optimizer.safetensors")
    assert {float(tensor) for name, tensor in after.items() if name.endswith(".step")} == {16.0}  # 4 × 2 epochs × 2


@pytest.mark.parametrize(
    ("changes", "best_of_n"),
    [
        ({}, True),
        ({"algorithm": "offline"}, True),
        ({"algorithm": "offline", "offline_loss": "dpo", "kl_coef": 0.1}, False),
        ({"objective": "reward", "kl_coef": 0.5}, False),
        ({"objective": "quantile", "kl_coef": 0.5}, False),
    ],
)
def test_a_card_claims_best_of_n_only_where_it_is_the_target(configure, changes, best_of_n):
    title = model_card.title_of(configure(n=2.5, **changes), {"is_reference": False})
    assert ("Best-of-2.5 in one sample" in title) == best_of_n


def test_rounds_of_another_target_than_best_of_n_are_refused(configure):
    with pytest.raises(VbonError, match="--rounds"):
        configure(rounds=2, objective="reward", kl_coef=0.5).validate()


def test_validation_on_training_prompts_is_said_on_the_console_and_on_the_card(configure, capsys):
    config = configure(num_iterations=1, validation_fraction=1e-9)
    result = train(config)
    assert result["validated_on_training_prompts"]
    shown = capsys.readouterr()
    assert "validation is on training prompts" in " ".join((shown.out + shown.err).split())
    assert "| on its own training prompts, after" in (Path(config.out) / "README.md").read_text()
