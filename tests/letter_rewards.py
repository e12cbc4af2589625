"""Rewards of the enumerable task, for `--reward FILE:NAME`: one without ties, monotone maps of it, some with ties."""

import math
import zlib


def value(prompt, completion):
    return zlib.crc32((prompt + ": " + completion).encode()) / 2**32 + 0.5 * completion.count("a")


def score(prompts, completions):
    return [value(p, c) for p, c in zip(prompts, completions, strict=True)]


def scaled(prompts, completions):
    return [1000 * r - 7 for r in score(prompts, completions)]


def exponential(prompts, completions):
    return [math.exp(r) for r in score(prompts, completions)]


def cubic(prompts, completions):
    return [r**3 + r for r in score(prompts, completions)]


def negative(prompts, completions):
    return [-r for r in score(prompts, completions)]


def smooth(prompts, completions):
    weights = {"a": 0.9, "b": -1.3, "c": 0.2}
    sums = [sum(weights[w] * (1 + 0.1 * i) for i, w in enumerate(c.split())) for c in completions]
    return [s + 0.2 * math.sin(7 * s + len(p)) for s, p in zip(sums, prompts, strict=True)]


def positions(prompts, completions):
    """No two completions tie, and the prompt has no part in it."""
    values = [[{"a": 0.9, "b": -1.3, "c": 0.2, "d": -0.4, "e": 1.1}[w] for w in c.split()] for c in completions]
    return [sum(row) + 0.7 * math.sin(3 * sum((i + 1) * v for i, v in enumerate(row))) for row in values]


def summed(prompts, completions):
    return [s + n for s, n in zip(score(prompts, completions), length(prompts, completions), strict=True)]


def summed_scaled(prompts, completions):
    return [s + n for s, n in zip(scaled(prompts, completions), length(prompts, completions), strict=True)]


def levels(prompts, completions):
    return [float(c.count("a")) for c in completions]


def binary(prompts, completions):
    return [float("a b" in c or c.strip() == "c") for c in completions]


def length(prompts, completions):
    return [float(len(c.split())) for c in completions]
