"""The paper as pure functions: no files, no models, no configs; numpy and torch only."""
