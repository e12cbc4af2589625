"""The critic: zero at the start, blind to what comes after, its own weights."""

import pytest
import torch

from vbon.errors import VbonError
from vbon.models.batch import sequences
from vbon.models.batch_size import LIMITS, Limit
from vbon.models.value_head import Critic

PROMPTS = [[3], [4, 5, 6], [2, 7]]
COMPLETIONS = [[1, 2, 3, 4], [5, 6], [7, 8, 9]]
NORMS = ("ln_f", "final_layer_norm", "final_norm", "norm")


@pytest.fixture
def critic(gpt2):
    critic = Critic(gpt2)
    torch.manual_seed(0)
    torch.nn.init.normal_(critic.head.weight)
    return critic


def _rows(critic, prompts, completions):
    return [v[: len(c)] for v, c in zip(critic(sequences(prompts, completions, 0)), completions, strict=True)]


def test_values_start_at_zero(gpt2):
    assert (Critic(gpt2)(sequences(PROMPTS, COMPLETIONS, 0)) == 0).all()


@torch.no_grad()
def test_values_are_the_head_on_the_trunk_row_by_row(critic, monkeypatch):
    monkeypatch.setitem(LIMITS["forward"], "cpu", Limit(1))
    for prompt, completion, values in zip(PROMPTS, COMPLETIONS, _rows(critic, PROMPTS, COMPLETIONS), strict=True):
        hidden = critic.trunk(input_ids=torch.tensor([prompt + completion])).last_hidden_state[0]
        expected = (hidden @ critic.head.weight[0] + critic.head.bias)[len(prompt) - 1 : -1]
        assert torch.allclose(values, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("changed", range(4))
def test_a_value_sees_the_tokens_before_it_and_no_others(critic, changed):
    before = _rows(critic, PROMPTS[:1], COMPLETIONS[:1])[0]
    other = [*COMPLETIONS[0]]
    other[changed] = 11
    after = _rows(critic, PROMPTS[:1], [other])[0]
    assert torch.equal(before[: changed + 1], after[: changed + 1])
    assert (before[changed + 1 :] != after[changed + 1 :]).all()


@torch.no_grad()
def test_a_critic_of_fewer_layers_is_the_trunk_up_to_there(model):
    """Against the trunk itself, whose last norm sees the hidden states after one layer."""
    model = type(model)(model.config).eval()  # a recurrent one that others used keeps a state that cannot be copied
    critic = Critic(model, 1)
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    states = model.base_model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    norms = [one for name, one in model.base_model.named_children() if name in NORMS]
    expected = norms[0](states[1]) if norms else states[1]
    found = critic.trunk(input_ids=ids, use_cache=False).last_hidden_state
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)
    assert sum(p.numel() for p in critic.parameters()) < sum(p.numel() for p in model.base_model.parameters())
    assert model.config.num_hidden_layers > 1  # the policy keeps its own


def test_a_critic_has_no_more_layers_than_the_model(gpt2):
    with pytest.raises(VbonError, match="--critic-layers is 3, but the model has 2"):
        Critic(gpt2, 3)


def test_training_the_critic_leaves_the_policy_alone(gpt2, critic):
    critic(sequences(PROMPTS, COMPLETIONS, 0)).sum().backward()
    assert all(p.grad is not None for p in critic.trunk.parameters())
    assert all(p.grad is None for p in gpt2.parameters())
