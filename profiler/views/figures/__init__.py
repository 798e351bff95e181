"""Figures: one module a kind of picture."""
