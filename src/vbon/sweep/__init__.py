"""`vbon sweep`: methods × grid × seeds on one pool, run by run, into one table and one report."""

from vbon.sweep.sweep import sweep_command

__all__ = ["sweep_command"]
