"""Gradients of micro-batches against those of the whole minibatch, for every loss, and rollouts in chunks."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tests.enumerable import STEPS

from vbon.core import seeds
from vbon.core.objectives import vbon
from vbon.errors import VbonError
from vbon.models import load, out_of_memory
from vbon.models.batch_size import HALVED, LIMITS, Limit, bytes_per_row
from vbon.models.generate import generate_in_chunks
from vbon.training.critic_start import critic_step
from vbon.training.micro_batches import accumulate, micro_batches
from vbon.training.offline import best_of_n_loss, offline_step
from vbon.training.online import update, update_settings
from vbon.training.parallel.learner import make_learner
from vbon.training.pool_data import PoolData
from vbon.training.residual import residual_minibatches, residual_step
from vbon.training.rollout import roll_out
from vbon.training.rollout_buffer import RolloutBuffer
from vbon.training.task import objective_of

N = 4.0
RELATIVE = {torch.float32: 1e-6, torch.float64: 1e-12}
OFFLINE = ("weighted-sft", "sft", "regression", "listwise", "dpo", "bonbon")
ONLINE = {
    "rloo": {},
    "rloo whitened": {"whiten_advantages": True},
    "rloo full": {"kl_estimator": "full"},
    "grpo": {"method": "grpo"},
    "ppo": {"algorithm": "ppo"},
    "ppo shared": {"algorithm": "ppo", "critic": "shared"},
    "bond": {"method": "bond"},
}


def perturbed(world, dtype: torch.dtype):
    model = load.load_policy(world.model).to(dtype)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def learner_of(world, config, dtype: torch.dtype):
    learner = make_learner(perturbed(world, dtype), config, Accelerator(cpu=True))
    if learner.critic is not None:
        learner.critic.to(dtype)
    learner.optimizer.step = lambda: {"policy": torch.zeros(())}  # the gradients stay, and the weights
    return learner


def allow_tokens(monkeypatch, learner, count: float) -> None:
    monkeypatch.setitem(LIMITS["training"], "cpu", Limit(int(count * learner.bytes_per_token)))


def gradient(learner) -> torch.Tensor:
    networks = [one for one in (learner.policy, learner.critic) if one is not None]
    grads = [p.grad for network in networks for p in network.parameters() if p.grad is not None]
    return torch.cat([grad.double().flatten() for grad in grads])


def check_same(monkeypatch, learner, run, loss_of, dtype: torch.dtype) -> None:
    """`run` with one micro-batch and with micro-batches of about five rows of five tokens."""
    found = []
    for tokens in (1e9, 25):
        allow_tokens(monkeypatch, learner, tokens)
        found.append((run(), gradient(learner)))
    (whole, of_whole), (parts, of_parts) = found
    assert not torch.equal(of_whole, of_parts) or dtype == torch.float64  # other sums: there were several
    assert (of_parts - of_whole).norm() < RELATIVE[dtype] * of_whole.norm()
    for name in loss_of:
        assert float(parts[name]) == pytest.approx(float(whole[name]), rel=max(RELATIVE[dtype], 2e-6), abs=1e-7), name


@pytest.mark.parametrize("dtype", list(RELATIVE))
@pytest.mark.parametrize("loss", OFFLINE)
def test_offline_gradients_are_those_of_the_whole_batch(world, task, configure, monkeypatch, loss, dtype):
    config = configure(algorithm="offline", offline_loss=loss, offline_batch_size=24, samples_per_prompt=4)
    learner = learner_of(world, config, dtype)
    data = PoolData(task, N)
    data.fill_ref_logprobs(load.load_policy(world.model))
    check_same(monkeypatch, learner, lambda: offline_step(learner, data, config, 3), ["offline_loss"], dtype)


@pytest.mark.parametrize("dtype", list(RELATIVE))
def test_gradients_of_the_critics_start_are_those_of_the_whole_batch(world, task, configure, monkeypatch, dtype):
    config = configure(algorithm="ppo", warm_start="critic", offline_batch_size=24)
    learner = learner_of(world, config, dtype)
    torch.nn.init.normal_(learner.critic.head.weight)
    data = PoolData(task, N)
    check_same(monkeypatch, learner, lambda: critic_step(learner, data, config, 3), ["offline_loss"], dtype)


@pytest.mark.parametrize("dtype", list(RELATIVE))
@pytest.mark.parametrize("name", list(ONLINE))
def test_online_gradients_are_those_of_the_whole_minibatch(world, task, configure, monkeypatch, name, dtype):
    config = configure(num_epochs=1, minibatch_size=24, **ONLINE[name])
    learner = learner_of(world, config, dtype)
    head = learner.critic if config.critic == "shared" and learner.critic is not None else None
    if learner.critic is not None:
        torch.nn.init.normal_(getattr(learner.critic, "head", learner.critic).weight)
    rollouts = roll_out(
        load.load_policy(world.model),
        load.load_policy(world.model).to(dtype),
        task,
        torch.arange(6),
        seeds.uniforms((6, 4, STEPS), 1),
        partial(vbon, n=N),
        keep_ref_states=config.kl_estimator == "full",
        value_head=copy.deepcopy(head).float() if head is not None else None,
    )
    pool_loss = best_of_n_loss(learner, PoolData(task, N), config) if name == "bond" else None
    settings = update_settings(config, 1.0)
    measured = ["policy_loss", "approx_kl", "clip_fraction", "ratio", "ratio_gap", "advantage_std"]

    def run():
        [step] = update(learner, rollouts, settings, 5, pool_loss=pool_loss)
        return step

    check_same(monkeypatch, learner, run, measured, dtype)


def test_micro_batches_hold_every_row_once_with_its_group_and_within_the_limit(world, configure, monkeypatch):
    learner = learner_of(world, configure(), torch.float32)
    lengths = torch.tensor([3, 9, 4, 3, 3, 5, 8, 2])
    groups = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    allow_tokens(monkeypatch, learner, 18)
    parts = micro_batches(learner, lengths, groups)
    assert sorted(row for part in parts for row in part.tolist()) == list(range(8))
    assert [sorted(set(groups[part].tolist())) for part in parts] == [[1], [2], [0, 3]]
    alone = micro_batches(learner, lengths)
    assert all(len(part) * int(lengths[part].max()) <= 18 for part in alone) and len(alone) == 3
    allow_tokens(monkeypatch, learner, 72)
    assert [part.tolist() for part in micro_batches(learner, lengths, groups)] == [list(range(8))]


def test_processes_take_as_many_micro_batches_as_the_one_that_needs_most(world, configure, monkeypatch):
    learner = learner_of(world, configure(), torch.float32)
    monkeypatch.setattr(type(learner), "gather_rows", lambda self, rows: torch.cat([rows, torch.tensor([3])]))
    parts = micro_batches(learner, torch.tensor([3, 2, 4, 3, 2]))
    assert len(parts) == 3 and sorted(torch.cat(parts).tolist()) == list(range(5))


@pytest.mark.parametrize("dtype", list(RELATIVE))
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_rollouts_do_not_depend_on_how_many_are_sampled_at_a_time(world, task, monkeypatch, rows, dtype):
    """Six prompts of several lengths with five completions: chunks of prompts, and of one prompt's completions."""
    policy = perturbed(world, dtype)
    uniforms = seeds.uniforms((6, 5, STEPS), 4)
    prompts = task.prompt_ids[:6]
    whole = generate_in_chunks(policy, prompts, uniforms, task.sampling)
    per_row = bytes_per_row(policy, max(map(len, prompts)) + STEPS)
    monkeypatch.setitem(LIMITS["rollouts"], "cpu", Limit(rows * per_row))
    chunked = generate_in_chunks(policy, prompts, uniforms, task.sampling)
    for name in ("ids", "mask", "finished"):
        assert torch.equal(getattr(chunked, name), getattr(whole, name)), name
    if dtype == torch.float64:
        assert torch.equal(chunked.logprobs, whole.logprobs)
    assert torch.allclose(chunked.logprobs, whole.logprobs, rtol=0, atol=1e-5)


@pytest.fixture
def nothing_halved(monkeypatch):
    kept = set(HALVED)
    HALVED.clear()
    yield
    HALVED.clear()
    HALVED.update(kept)


def failing(times: int, error: Exception):
    """Fails so often, then works; it counts its calls."""
    calls = []

    def backward(rows: torch.Tensor) -> int:
        calls.append(len(rows))
        if len(calls) <= times:
            raise error
        return len(rows)

    return backward, calls


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu"])
def test_where_memory_runs_out_the_micro_batch_is_halved_once(world, configure, monkeypatch, nothing_halved, error):
    learner = learner_of(world, configure(), torch.float32)
    allow_tokens(monkeypatch, learner, 24)
    backward, calls = failing(1, error)
    with pytest.warns(UserWarning, match=r"^memory ran out in training: from now on half as many rows at a time$"):
        assert accumulate(learner, torch.full((8,), 3), backward) == [4, 4]
    assert calls == [8, 4, 4]
    backward, calls = failing(1, error)
    with pytest.raises(VbonError, match="memory runs out in training; --gradient-checkpointing"):
        accumulate(learner, torch.full((8,), 3), backward)
    assert calls == [4]


def test_other_errors_are_not_taken_for_memory_that_runs_out(world, configure, nothing_halved):
    learner = learner_of(world, configure(), torch.float32)
    with pytest.raises(RuntimeError, match="shapes"):
        accumulate(learner, torch.full((8,), 3), failing(1, RuntimeError("shapes differ"))[0])
    assert not HALVED and out_of_memory.HALVED is HALVED and np.isfinite(learner.bytes_per_token)


@pytest.mark.parametrize("dtype", list(RELATIVE))
def test_gradients_of_residuals_are_those_of_the_whole_minibatch(world, task, configure, monkeypatch, dtype):
    config = configure(algorithm="residual", minibatch_size=16)
    learner = learner_of(world, config, dtype)
    torch.nn.init.normal_(learner.critic.weight)
    reference = load.load_policy(world.model)
    uniforms = seeds.uniforms((8, 4, task.sampling.max_new_tokens), 5)
    rollouts = roll_out(reference, reference, task, torch.arange(8), uniforms, objective_of(config))
    buffer = RolloutBuffer(task, 32, 4, config.advantage_clip)
    buffer.add(rollouts, learner.gather_rows)
    settings = update_settings(config, 1.0)
    [batch] = residual_minibatches(learner, buffer, settings, 1, 3)

    def run():
        return residual_step(learner, buffer, batch, settings, 3.0)

    check_same(monkeypatch, learner, run, ["policy_loss", "residual", "ratio_gap"], dtype)
