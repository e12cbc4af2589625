"""One module for each experiment: presets, `run`, the columns of its table, the panels of its figure."""
