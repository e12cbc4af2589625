"""Learning-rate schedules as functions of the iteration: nothing to save or restore."""

import math


def learning_rate_factor(schedule: str, iteration: int, num_iterations: int) -> float:
    """Share of the base learning rate in this iteration, counted from 0."""
    left = 1 - iteration / num_iterations
    return {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}[schedule]
