"""The loss against the exact gradient of KL(π_θ‖π_bon), by enumeration of all completions of a prompt."""

import dataclasses
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tests.enumerable import COMPLETIONS, PROMPTS, STEPS, TASK, VOCABULARY, every_completion, plain_token_logprobs

from vbon.config.train import TrainConfig
from vbon.core import seeds
from vbon.core.objectives import vbon
from vbon.models import load
from vbon.models.batch_size import LIMITS, Limit
from vbon.models.copies import sharing_weights
from vbon.models.value_head import Critic, value_head, values_of
from vbon.training.online import sample_rollouts, update, update_settings
from vbon.training.parallel.learner import make_learner
from vbon.training.rollout import roll_out
from vbon.training.update import Minibatch, UpdateSettings, critic_loss, losses, make_baseline, minibatches

N, PROMPT = 4.0, "one two"
GRADIENT = 2e-5  # float32 gradients of up to 40 rows against float64 ones, relative to their norm


@pytest.fixture
def policy(world):
    return perturbed(world, 0)


def perturbed(world, seed: int):
    model = load.load_policy(world.model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def settings_of(**changes) -> UpdateSettings:
    config = TrainConfig(
        pool="p", model="m", reward="r", n=N, out="o", num_epochs=2, advantage_clip=1e9, gae_lambda=1.0
    )
    return dataclasses.replace(update_settings(config, 1.0), **changes)


class KnownReference(NamedTuple):
    """The reference's log-probabilities over the vocabulary, (B, T, V), by a plain forward pass."""

    table: torch.Tensor

    def select(self, rows: torch.Tensor, steps: int) -> "KnownReference":
        return KnownReference(self.table[rows][:, :steps])

    def log_softmax(self, token: torch.Tensor, temperature: float) -> torch.Tensor:
        return self.table.flatten(0, 1)[token]


def enumeration(world, policy, prompt: str = PROMPT) -> Minibatch:
    """Every completion of the prompt as if rolled out by `policy`, with the exact log W."""
    index = PROMPTS.index(prompt)
    batch = every_completion(TASK.prompt_ids[index])
    log_w = torch.from_numpy((world.log_bon(N) - world.ref_logprobs)[index])
    reference = load.load_policy(world.model)
    ids = torch.cat([batch.prompt_ids, batch.completion_ids], 1)
    with torch.no_grad():
        log_softmax = reference(ids).logits.float().log_softmax(-1)[:, batch.prompt_ids.shape[1] - 1 : -1]
        old = plain_token_logprobs(policy, batch).float()
        ref = plain_token_logprobs(reference, batch).float()
    nothing = dict.fromkeys(("values", "returns", "baseline"))
    return Minibatch(
        sequences=batch,
        old_logprobs=old,
        ref_logprobs=ref,
        ref_states=KnownReference(log_softmax),
        sequence_reward=log_w / (N - 1),
        kl_coef=1 / (N - 1),
        **nothing,
    )


def row_of(batch: Minibatch, row: int) -> Minibatch:
    """One row, columns that it does not need cut off, as minibatches of rollouts are."""
    rows = torch.tensor([row])
    sequences = batch.sequences.select(rows)
    steps = sequences.completion_ids.shape[1]
    token_level = ("old_logprobs", "ref_logprobs", "values", "returns")
    parts = {name: getattr(batch, name) for name in (*token_level, "sequence_reward", "baseline")}
    cut = {
        name: None if value is None else value[rows][:, :steps] if name in token_level else value[rows]
        for name, value in parts.items()
    }
    return dataclasses.replace(batch, sequences=sequences, ref_states=batch.ref_states.select(rows, steps), **cut)


def flat_gradient(policy, loss: torch.Tensor) -> torch.Tensor:
    grads = torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
    return torch.cat([g.double().flatten() for g in grads if g is not None])


def expected_gradient(policy, batch: Minibatch, settings: UpdateSettings) -> torch.Tensor:
    """Σ_y π_θ(y)·∇loss(y): what minibatches estimate."""
    probs = batch.old_logprobs.double().sum(1).exp()
    gradients = [
        flat_gradient(policy, losses(policy, None, row_of(batch, row), settings, 1.0)[0])
        for row in range(len(COMPLETIONS))
    ]
    return (probs[:, None] * torch.stack(gradients)).sum(0)


def exact_gradient(policy, batch: Minibatch) -> torch.Tensor:
    """∇ Σ_y π_θ(y)·(log π_θ(y) − log π_ref(y) − log W(y)) by autograd, float64 sums."""
    logprobs = plain_token_logprobs(policy, batch.sequences).sum(1)
    log_bon = batch.ref_logprobs.double().sum(1) + batch.sequence_reward / batch.kl_coef
    return flat_gradient(policy, (logprobs.exp() * (logprobs - log_bon)).sum())


def critic_values(policy, batch: Minibatch) -> torch.Tensor:
    """Values that differ from prefix to prefix; any such baseline leaves the expectation alone."""
    critic = Critic(policy)
    torch.manual_seed(3)
    torch.nn.init.normal_(critic.head.weight)
    with torch.no_grad():
        return critic(batch.sequences)


@pytest.mark.parametrize("refresh_kl", [True, False])
@pytest.mark.parametrize("method", ["rloo k1", "rloo full", "ppo k1", "ppo full", "ppo zero critic"])
def test_first_gradient_is_that_of_kl_policy_bon(world, policy, method, refresh_kl):
    batch = enumeration(world, policy)
    if method.startswith("rloo"):
        batch = dataclasses.replace(batch, baseline=torch.full((len(COMPLETIONS),), 0.3, dtype=torch.float64))
    elif method == "ppo zero critic":
        batch = dataclasses.replace(batch, values=torch.zeros(batch.mask.shape), returns=torch.zeros(batch.mask.shape))
    else:
        batch = dataclasses.replace(batch, values=critic_values(policy, batch), returns=torch.zeros(batch.mask.shape))
    settings = settings_of(refresh_kl=refresh_kl, kl_estimator="full" if "full" in method else "k1")
    exact = exact_gradient(policy, batch)
    assert (expected_gradient(policy, batch, settings) - exact).norm() < GRADIENT * exact.norm()
    assert exact.norm() > 0.1


def test_at_best_of_n_a_refreshed_gradient_vanishes_even_off_policy(world, policy):
    """With ρ = β·log π_θ/π_ref on every completion, π_θ is best-of-N: nothing is left to learn from any rollout."""
    batch = enumeration(world, perturbed(world, 1))  # rolled out by another policy
    logprobs = plain_token_logprobs(policy, batch.sequences).detach().sum(1)
    log_w = logprobs - batch.ref_logprobs.double().sum(1)
    zero = torch.zeros(len(COMPLETIONS), dtype=torch.float64)
    batch = dataclasses.replace(batch, sequence_reward=log_w * batch.kl_coef, baseline=zero)
    assert expected_gradient(policy, batch, settings_of(refresh_kl=True)).norm() < GRADIENT
    assert expected_gradient(policy, batch, settings_of(refresh_kl=False)).norm() > 0.01


@pytest.mark.parametrize("kl_estimator", ["k3", "full"])
def test_grpo_follows_the_reward_and_the_kl_of_each_prefix_but_not_the_kl_to_come(world, policy, kl_estimator):
    """∇ of −Σ_y π_θ(y)·ρ/β plus Σ_y π_θ(y)·Σ_t ∇KL_t with π_θ(y) held, by autograd over all completions."""
    batch = enumeration(world, policy)
    batch = dataclasses.replace(batch, baseline=torch.full((len(COMPLETIONS),), 0.3, dtype=torch.float64))
    logprobs = plain_token_logprobs(policy, batch.sequences).sum(1)
    ids = torch.cat([batch.sequences.prompt_ids, batch.sequences.completion_ids], 1)
    log_p = policy(ids).logits.double().log_softmax(-1)[:, batch.sequences.prompt_ids.shape[1] - 1 : -1]
    token_kl = (log_p.exp() * (log_p - batch.ref_states.table.double())).sum(-1) * batch.mask
    kept = logprobs.detach().exp() @ token_kl.sum(1)
    exact = flat_gradient(policy, kept - logprobs.exp() @ (batch.sequence_reward / batch.kl_coef))
    settings = settings_of(algorithm="grpo", kl_estimator=kl_estimator)
    assert (expected_gradient(policy, batch, settings) - exact).norm() < GRADIENT * exact.norm()
    dropped = exact_gradient(policy, batch) - exact
    assert dropped.norm() > 0.01 * exact.norm()  # what makes it an approximate host


def test_padding_that_the_policy_never_samples_does_not_reach_the_loss_of_grpo(world, policy):
    """Rows of unequal length together, log π_θ(pad) beyond float32's exp: the mean of the rows one by one."""
    with torch.no_grad():
        policy.lm_head.weight[-1] = -1000.0
    batch = dataclasses.replace(enumeration(world, policy), baseline=torch.zeros(len(COMPLETIONS), dtype=torch.float64))
    settings = settings_of(algorithm="grpo", kl_estimator="k3")
    together = losses(policy, None, batch, settings, 1.0)[0]
    rows = [losses(policy, None, row_of(batch, row), settings, 1.0)[0].item() for row in range(len(COMPLETIONS))]
    assert together.item() == pytest.approx(np.mean(rows), rel=1e-5)


def test_advantages_are_bounded_in_nats(world, policy):
    batch = enumeration(world, policy)
    baseline = batch.sequence_reward - batch.kl_coef * (batch.old_logprobs - batch.ref_logprobs).double().sum(1)
    batch = dataclasses.replace(batch, baseline=baseline - 25 * batch.kl_coef)  # an advantage of 25 nats
    row = row_of(batch, 7)
    for bound, advantage in ((10.0, 10.0), (100.0, 25.0)):
        loss, _, _ = losses(policy, None, row, settings_of(advantage_clip=bound), 1.0)
        exact = -advantage * flat_gradient(policy, plain_token_logprobs(policy, row.sequences).sum())
        assert (flat_gradient(policy, loss) - exact).norm() < GRADIENT * exact.norm()


def test_whitening_changes_the_length_of_the_gradient_only(world, policy):
    zero = torch.zeros(len(COMPLETIONS), dtype=torch.float64)
    batch = dataclasses.replace(enumeration(world, policy), baseline=zero)
    plain, _, seen = losses(policy, None, batch, settings_of(), 2.0)
    whitened, _, white = losses(policy, None, batch, settings_of(whiten_advantages=True), 2.0)
    assert white["advantage_std"].item() == pytest.approx(1, abs=1e-5)
    assert whitened.item() == pytest.approx(plain.item() / seen["advantage_std"].item(), rel=1e-5)
    ratio = flat_gradient(policy, plain).norm() / flat_gradient(policy, whitened).norm()
    assert ratio.item() == pytest.approx(seen["advantage_std"].item(), rel=1e-4)


@pytest.fixture
def rollouts(world, policy, task):
    index = torch.tensor([3, 0, 3])  # prompt 3 twice: its samples are compared with each other
    return roll_out(
        policy, load.load_policy(world.model), task, index, seeds.uniforms((3, 4, STEPS), 1), partial(vbon, n=N)
    )


def returns_of(rollouts) -> np.ndarray:
    return (rollouts.sequence_reward - rollouts.kl_coef * rollouts.log_ratio()).numpy()


def test_rloo_baseline_is_the_mean_return_of_the_prompts_other_samples(rollouts):
    total, index = returns_of(rollouts), rollouts.prompt_index.numpy()
    everyone = np.arange(len(index))
    expected = [total[(index == index[i]) & (everyone != i)].mean() for i in everyone]
    np.testing.assert_allclose(make_baseline(rollouts, None, settings_of()).sequence.numpy(), expected, rtol=1e-12)


def test_grpo_baseline_is_the_mean_sequence_reward_of_the_prompts_other_samples(rollouts):
    rho, index = rollouts.sequence_reward.numpy(), rollouts.prompt_index.numpy()
    everyone = np.arange(len(index))
    expected = [rho[(index == index[i]) & (everyone != i)].mean() for i in everyone]
    found = make_baseline(rollouts, None, settings_of(algorithm="grpo")).sequence.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_ppo_returns_with_lambda_1_are_the_rewards_still_to_come(rollouts, policy):
    critic = Critic(policy)
    torch.nn.init.normal_(critic.head.weight)
    baseline = make_baseline(rollouts, critic, settings_of())
    costs = rollouts.kl_coef * (rollouts.old_logprobs.double() - rollouts.ref_logprobs.double()).numpy()
    for row, length in enumerate(rollouts.mask.sum(1).tolist()):
        to_come = [rollouts.sequence_reward[row].item() - costs[row, t:length].sum() for t in range(length)]
        np.testing.assert_allclose(baseline.returns[row, :length].numpy(), to_come, atol=1e-5)
    assert baseline.values[rollouts.mask].std() > 0.1


def test_a_shared_critic_is_one_forward_pass_with_both_gradients(world, policy, monkeypatch):
    """Against the policy's loss alone plus the value loss on the trunk's hidden states, row by row without padding."""
    head = value_head(policy)
    torch.nn.init.normal_(head.weight)
    zeros = torch.zeros(len(COMPLETIONS), STEPS)
    batch = dataclasses.replace(enumeration(world, policy), values=zeros, returns=torch.full_like(zeros, 0.7))
    settings = settings_of(critic="shared", value_clip_range=1e9, value_coef=0.3)
    calls = []
    monkeypatch.setattr(policy, "forward", lambda *a, inner=policy.forward, **k: calls.append(1) or inner(*a, **k))
    policy_loss, value_loss, _ = losses(policy, head, batch, settings, 2.0)
    assert len(calls) == 1
    monkeypatch.undo()
    ours = flat_gradient(policy, policy_loss + value_loss)
    alone, none, _ = losses(policy, None, batch, settings_of(), 2.0)
    assert none is None and torch.equal(alone, policy_loss)
    error = 0.0
    for prompt, mask, ids, real in zip(*batch.sequences, strict=True):
        hidden = policy.base_model(torch.cat([prompt[mask], ids[real]])[None]).last_hidden_state[0]
        error = error + ((values_of(head, hidden[int(mask.sum()) - 1 : -1]) - 0.7) ** 2).sum()
    expected = 0.3 * error / 2 / (2 * len(COMPLETIONS))
    assert value_loss.item() == pytest.approx(expected.item(), rel=1e-5)
    exact = flat_gradient(policy, alone + expected)
    assert (ours - exact).norm() < GRADIENT * exact.norm()


def test_the_values_kept_from_sampling_are_those_of_a_forward_pass(world, policy, task):
    head = value_head(policy)
    torch.nn.init.normal_(head.weight)
    index = torch.tensor([3, 0])
    rolled = roll_out(
        policy,
        load.load_policy(world.model),
        task,
        index,
        seeds.uniforms((2, 4, STEPS), 1),
        partial(vbon, n=N),
        value_head=head,
    )
    critic = Critic(policy)
    critic.head.load_state_dict(head.state_dict())
    shared = make_baseline(rolled, head, settings_of(critic="shared"))
    separate = make_baseline(dataclasses.replace(rolled, values=None), critic, settings_of())
    assert torch.allclose(shared.values, separate.values, rtol=0, atol=1e-5)
    assert torch.allclose(shared.returns, separate.returns, rtol=0, atol=1e-5)
    assert shared.values.std() > 0.1


def test_minibatches_hold_every_row_once_an_epoch_in_a_keyed_order(rollouts):
    settings = settings_of(num_epochs=3, minibatch_size=5)
    baseline = make_baseline(rollouts, None, settings)
    marked = dataclasses.replace(baseline, sequence=torch.arange(12, dtype=torch.float64))

    def rows(*key: int) -> list[int]:
        return [int(row) for batch in minibatches(rollouts, marked, settings, *key) for row in batch.baseline]

    epochs = np.reshape(rows(7, 1), (3, 12))
    assert (np.sort(epochs, 1) == np.arange(12)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert rows(7, 1) == rows(7, 1) != rows(7, 2)
    for batch in minibatches(rollouts, marked, settings, 7, 1):
        where = batch.baseline.long()
        steps = batch.mask.shape[1]
        assert torch.equal(batch.old_logprobs, rollouts.old_logprobs[where][:, :steps])
        assert torch.equal(batch.sequence_reward, rollouts.sequence_reward[where])


def test_policy_and_critic_step_one_after_the_other_by_both_gradients(rollouts, policy, monkeypatch):
    """Against the gradient of the sum of both losses; the critic looks when the policy's gradient is there."""
    config = TrainConfig(
        pool="p",
        model="m",
        reward="r",
        n=N,
        out="o",
        algorithm="ppo",
        num_epochs=1,
        learning_rate=0.0,
        minibatch_size=len(rollouts.prompt_index),
        max_grad_norm=1e9,
    )
    learner = make_learner(policy, config, Accelerator(cpu=True))
    torch.nn.init.normal_(learner.critic.head.weight)
    settings = update_settings(config, 1.0)
    batch = next(minibatches(rollouts, make_baseline(rollouts, learner.critic, settings), settings, 0))
    tokens_per_row = float(rollouts.mask.sum(1).float().mean())
    loss, none, _ = losses(policy, learner.critic, batch, settings, tokens_per_row)
    assert none is None
    loss = loss + critic_loss(learner.critic, batch, settings, tokens_per_row)
    networks = torch.nn.ModuleList([policy, learner.critic])
    together = flat_gradient(networks, loss)
    seen = []
    trunk = learner.critic.trunk
    inner = trunk.forward
    monkeypatch.setattr(
        trunk, "forward", lambda *a, **k: seen.append(policy.lm_head.weight.grad is not None) or inner(*a, **k)
    )
    [step] = update(learner, rollouts, settings, 0)
    assert seen[-1] and step["value_loss"] > 0
    apart = torch.cat([p.grad.double().flatten() for p in networks.parameters() if p.grad is not None])
    assert torch.equal(apart, together)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_full_kl_of_a_large_vocabulary_is_taken_in_chunks(world, task, configure, monkeypatch, lora_rank):
    """The same step, while no head computes more logits at a time than a chunk has."""
    config = configure(kl_estimator="full", lora_rank=lora_rank)
    found, most = [], []
    for limit in (2**24, 3 * len(VOCABULARY)):
        monkeypatch.setitem(LIMITS["log-softmax"], "cpu", Limit(limit))
        reference = load.load_policy(world.model)
        policy = sharing_weights(reference) if lora_rank else load.load_policy(world.model)
        with torch.no_grad():
            learner = make_learner(policy, config, Accelerator(cpu=True))
            for parameter in (p for group in learner.optimizer.param_groups for p in group["params"]):
                parameter.add_(0.05 * torch.sin(torch.arange(parameter.numel())).view(parameter.shape))
        rollouts = sample_rollouts(learner, reference, task, config, 0)
        most.append([])
        for model in (reference, learner.policy):
            model.get_output_embeddings().register_forward_hook(lambda _, __, out: most[-1].append(out.shape[-2]))
        update(learner, rollouts, update_settings(config, 1.0), 0)
        found.append(torch.cat([p.detach().flatten() for p in learner.policy.parameters()]))
    assert torch.allclose(*found, rtol=0, atol=1e-5)
    assert max(most[1]) == 3 < max(most[0])
