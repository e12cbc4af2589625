"""Figures: what is drawn (shapes), and how (svg)."""
