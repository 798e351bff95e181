"""Will it fit, with which batch, and what would help."""
