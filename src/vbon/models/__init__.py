"""Hugging Face causal language models: loading, prompts to ids, sampling, log-probabilities, the critic."""
