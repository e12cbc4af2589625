"""What lies on disk between the stages: pools, runs, evaluations and sweeps. No torch."""
