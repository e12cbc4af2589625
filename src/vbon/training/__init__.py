"""Training: rollouts, signals, updates; online (PPO, RLOO) and offline on the pool."""
