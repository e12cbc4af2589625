"""Captions of figures, for a reader who sees such a figure for the first time."""

# metric → (title, axis label, caption)
TRAINING = {
    "sequence_reward": (
        "Sequence reward ρ",
        "ρ = log W/(N−1)",
        "The reward that training maximises: how much more likely best-of-N makes a completion, on a log scale. It "
        "rises, then levels off.",
    ),
    "kl_policy_ref": (
        "KL to the reference",
        "KL(π_θ‖π_ref), nats",
        "How far the policy has moved. It should end near the dotted line, the distance that best-of-N itself keeps.",
    ),
    "kl_policy_bon": (
        "KL to best-of-N",
        "KL(π_θ‖π_bon), nats",
        "How far the policy still is from best-of-N. Training minimises this; lower is better.",
    ),
    "win_rate": (
        "Win rate",
        "win rate",
        "How often a sample of the policy has a higher reward than a sample of the reference; a tie counts half. The "
        "dotted line is best-of-N.",
    ),
    "entropy": (
        "Entropy",
        "nats per completion",
        "How varied the completions are. A fall towards 0 means that the policy writes the same few texts.",
    ),
}
SPEED_CAPTION = (
    "Completions per second with full batches; longer is better. Best-of-N samples and scores N completions for each "
    "one that it returns."
)
LATENCY_CAPTION = (
    "Seconds from a prompt to its completion, one prompt at a time; shorter is better. Best-of-N samples its N "
    "completions as one batch and scores them."
)
