"""Files on disk between the stages: pools, runs, evaluations and sweeps. It does not import torch."""
