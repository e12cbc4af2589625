"""Variational Best-of-N (arXiv 2407.06057) in one file: pool → F̂ → ρ → RLOO, on a task small enough to enumerate.

    python recipes/minimal/vbon_minimal.py [--n 8] [--num-samples 1000] [--iterations 120] [--seed 0]

Best-of-N draws N completions from a reference policy π_ref and keeps the one with the highest reward. Its density is

    π_bon(y|x) = π_ref(y|x) · W_N(F_<, F_≤),    W_N(a, b) = (b^N − a^N)/(b − a),    F_<(R) = P(r(x, Y) < R)

so a policy π_θ becomes best-of-N by minimising KL(π_θ‖π_bon), which is to maximise E_{π_θ}[ρ] − β·KL(π_θ‖π_ref) with
ρ = log W_N/(N−1) and β = 1/(N−1). Nothing here imports vbon; a test holds it equal to the library.
"""

import argparse
import copy
import itertools
import math

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

# 1. The task: two prompts; a completion is up to five letters and an end, 3,906 in all, so everything can be summed.

END, LETTERS, PROMPTS = 0, (1, 2, 3, 4, 5), (6, 7)
MAX_NEW_TOKENS = 5
LETTER_VALUE = (0.9, -1.3, 0.2, -0.4, 1.1)


def make_reference(seed):
    """A random GPT-2, sharpened until it prefers some completions to others; it never draws a token of the prompts."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=8,
        n_positions=8,
        n_embd=32,
        n_layer=2,
        n_head=4,
        eos_token_id=END,
        bos_token_id=END,
        tie_word_embeddings=False,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(7.0)
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight[PROMPTS[0] :] = -3.0
    return model


def reward(prompt, completion):
    """Any function of the strings; only its ranks will matter. Letters are worth less under the second prompt."""
    values = [LETTER_VALUE[token - 1] for token in completion if token != END]
    wave = math.sin(3 * sum((i + 1) * value for i, value in enumerate(values)))
    return (1.0 if prompt == PROMPTS[0] else -0.5) * sum(values) + 0.7 * wave


def all_completions():
    """Every completion, padded with END: int64 (3906, 5)."""
    words = [w for length in range(MAX_NEW_TOKENS + 1) for w in itertools.product(LETTERS, repeat=length)]
    return torch.tensor([[*word, *[END] * (MAX_NEW_TOKENS - len(word))] for word in words])


def rewards_of(prompt_index, completions):
    """r(x, y) of each row, float64 (B,)."""
    pairs = zip(prompt_index.tolist(), completions.tolist(), strict=True)
    return np.array([reward(PROMPTS[p], row) for p, row in pairs], np.float64)


# 2. The policy: sampling, and log-probabilities of what was sampled.


def mask_of(completions):
    """True for letters and the first END, False after it."""
    ended = (completions == END).long().cumsum(1)
    return (ended == 0) | ((ended == 1) & (completions == END))


@torch.no_grad()
def sample(policy, prompt_index, generator):
    """A completion for each prompt (B,), at temperature 1: int64 (B, 5)."""
    ids = torch.tensor(PROMPTS)[prompt_index][:, None]
    for _ in range(MAX_NEW_TOKENS):
        token = torch.multinomial(policy(ids).logits[:, -1].softmax(-1), 1, generator=generator)
        ids = torch.cat([ids, token], 1)
    completions = ids[:, 1:]
    return completions.masked_fill(~mask_of(completions), END)


def token_logprobs(policy, prompt_index, completions):
    """log π(y_t | x, y_<t) of each token, 0 past the end: float32 (B, 5)."""
    ids = torch.cat([torch.tensor(PROMPTS)[prompt_index][:, None], completions], 1)
    logprobs = policy(ids[:, :-1]).logits.log_softmax(-1).gather(-1, completions[..., None])[..., 0]
    return logprobs * mask_of(completions)


# 3. Best-of-N: how a completion ranks in its prompt's pool, and what weight that gives it.


def collect_pool(ref_policy, num_samples, generator):
    """Rewards of M reference samples for each prompt, ascending: float64 (P, M)."""
    index = torch.arange(len(PROMPTS)).repeat_interleave(num_samples)
    rewards = rewards_of(index, sample(ref_policy, index, generator))
    return np.sort(rewards.reshape(len(PROMPTS), num_samples), axis=1)


def cdf_interval(pool, prompt_index, rewards):
    """F̂_< = k_</(M+1) and F̂_≤ = (k_< + k_= + 1)/(M+1): the completion is one more exchangeable draw."""
    pairs = list(zip(prompt_index.tolist(), rewards, strict=True))
    k_lt = np.array([np.searchsorted(pool[p], r, "left") for p, r in pairs])
    k_le = np.array([np.searchsorted(pool[p], r, "right") for p, r in pairs])
    return k_lt / (pool.shape[1] + 1), (k_le + 1) / (pool.shape[1] + 1)


def log_weight(cdf_lt, cdf_le, n):
    """log W_N(a, b) = (N−1)·log b + log[(1−e^{−Nδ})/(1−e^{−δ})], δ = log b − log a: stable for any a < b."""
    with np.errstate(divide="ignore"):
        delta = -np.log1p(-(cdf_le - cdf_lt) / cdf_le)
        return (n - 1) * np.log(cdf_le) + np.log(np.expm1(-n * delta) / np.expm1(-delta))


def sequence_reward(pool, prompt_index, rewards, n):
    """ρ = log Ŵ_N/(N−1), float64 (B,)."""
    return log_weight(*cdf_interval(pool, prompt_index, rewards), n) * (1 / (n - 1))


# 4. RLOO, with the KL part of every advantage taken at the current policy.


def roll_out(policy, ref_policy, pool, n, samples_per_prompt, generator):
    """Completions of the policy with all that the update needs of them."""
    index = torch.arange(len(PROMPTS)).repeat_interleave(samples_per_prompt)
    completions = sample(policy, index, generator)
    with torch.no_grad():
        old, ref = (token_logprobs(model, index, completions) for model in (policy, ref_policy))
    rho = torch.from_numpy(sequence_reward(pool, index, rewards_of(index, completions), n))
    returns = rho - (old.double() - ref.double()).sum(1) / (n - 1)
    grouped = returns.view(len(PROMPTS), samples_per_prompt)
    others = (grouped.sum(1, keepdim=True) - grouped) / (samples_per_prompt - 1)  # leave-one-out mean
    return {
        "index": index,
        "completions": completions,
        "old": old,
        "ref": ref,
        "rho": rho,
        "baseline": others.flatten(),
    }


def policy_loss(policy, batch, n, clip_range=0.2, advantage_clip=10.0):
    """−mean over tokens of min(w·A, clip(w, 1±ε)·A), w = π_θ/π_old.

    A = (ρ − β·log π_θ/π_ref − baseline)/β, in nats. Taken at the current π_θ, not at the one that sampled, it vanishes
    exactly where log π_θ/π_ref = log W on every sample: further epochs on the same rollouts do not overshoot.
    """
    logprobs = token_logprobs(policy, batch["index"], batch["completions"])
    log_ratio = (logprobs.detach().double() - batch["ref"].double()).sum(1)
    advantages = (batch["rho"] - batch["baseline"]) * (n - 1) - log_ratio
    advantages = advantages.clamp(-advantage_clip, advantage_clip).float()[:, None]
    ratio = (logprobs - batch["old"]).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages)
    mask = mask_of(batch["completions"])
    return -(gain * mask).sum() / mask.sum()


def train(ref_policy, pool, n, iterations, seed, rollouts=256, epochs=4, minibatch=64, learning_rate=3e-3):
    """π_θ, from π_ref towards π_bon; the learning rate falls linearly to 0."""
    policy = copy.deepcopy(ref_policy)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0, eps=1e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / iterations)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(iterations):
        batch = roll_out(policy, ref_policy, pool, n, rollouts // len(PROMPTS), generator)
        for _ in range(epochs):
            for rows in torch.randperm(rollouts, generator=generator).split(minibatch):
                loss = policy_loss(policy, {name: value[rows] for name, value in batch.items()}, n)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
                optimizer.step()
        schedule.step()
    return policy


# 5. How close is it? Exact sums over all completions, with the true F.


@torch.no_grad()
def exact_distances(policy, ref_policy, n):
    """Means over prompts, nats: KL(π_θ‖π_bon), KL(π_θ‖π_ref), KL(π_bon‖π_ref); and P(π_θ beats one π_ref sample)."""
    rows = all_completions()
    totals = np.zeros(4)
    for p in range(len(PROMPTS)):
        index = torch.full((len(rows),), p)
        log_ref, log_policy = (
            token_logprobs(model, index, rows).double().sum(1).numpy() for model in (ref_policy, policy)
        )
        rewards, level = np.unique(rewards_of(index, rows), return_inverse=True)
        mass = np.bincount(level, np.exp(log_ref), len(rewards))
        cdf_le = np.cumsum(mass) / mass.sum()
        cdf_lt = np.concatenate([[0.0], cdf_le[:-1]])
        log_w, win = log_weight(cdf_lt, cdf_le, n)[level], ((cdf_lt + cdf_le) / 2)[level]
        q, bon = np.exp(log_policy), np.exp(log_ref + log_w)
        log_ratio = log_policy - log_ref
        totals += [q @ (log_ratio - log_w), q @ log_ratio, bon @ log_w, q @ win]
    return dict(zip(("kl_policy_bon", "kl_policy_ref", "kl_bon_ref", "win_rate"), totals / len(PROMPTS), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=float, default=8.0)
    parser.add_argument("--num-samples", type=int, default=1000, help="M, reference samples per prompt")
    parser.add_argument("--iterations", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    ref_policy = make_reference(seed=5)
    pool = collect_pool(ref_policy, args.num_samples, torch.Generator().manual_seed(args.seed))
    policy = train(ref_policy, pool, args.n, args.iterations, args.seed)
    for name, model in (("reference", ref_policy), ("vBoN", policy)):
        distances = exact_distances(model, ref_policy, args.n)
        print(f"{name:<10}" + "  ".join(f"{key} {value:.4f}" for key, value in distances.items()))


if __name__ == "__main__":
    main()
