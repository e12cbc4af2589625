"""The files that a run writes: log, curves, checkpoints, the model with its card and record."""
