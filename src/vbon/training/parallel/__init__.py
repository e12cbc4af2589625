"""Processes that train together: their accelerator, and the networks and optimizer that they share."""
